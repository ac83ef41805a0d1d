from __future__ import annotations

import re

import pytest

from cutaway.errors import InputError
from cutaway.models.language import LanguageModel
from cutaway.tasks.behaviour import interchanges
from cutaway.tasks.variable_binding import behaviour, variable_binding


def test_the_answer_is_the_value_of_the_letter(spoken: LanguageModel) -> None:
    for pair in variable_binding(spoken, bindings=3, n=20, known=False).pairs:
        for prompt, answer in ((pair.base, pair.answer), (pair.counterfactual, pair.foil)):
            bound = dict(re.findall(r"(\w)=(\d)", prompt.text))
            assert len(bound) == 3 and answer == bound[prompt.text[slice(*prompt.spans["asked"])]]


def test_position_and_value_are_told_apart(spoken: LanguageModel) -> None:
    """Other values after the same letters: what carries the position leaves the answer, what carries the value changes it."""
    task = variable_binding(spoken, n=2, known=False)
    for variable, follows in (("position", False), ("answer", True)):
        examples = interchanges(task, spoken, variable, n=20, known=False, anew=["values"])
        assert all(example.answer == example.own[follows] for example in examples)
    model = behaviour(2).model
    base, source = {"names": ("a", "b"), "values": ("1", "2"), "asked": 0}, {"names": ("c", "d"), "values": ("3", "4"), "asked": 1}
    assert model.interchange(base, {"position": source})["answer"] == "2"


def test_one_letter_is_no_task(spoken: LanguageModel) -> None:
    with pytest.raises(InputError, match="bindings=2 or more"):
        variable_binding(spoken, bindings=1)
