from __future__ import annotations

import pytest

from cutaway.errors import InputError, PromptError
from cutaway.models.language import LanguageModel
from cutaway.tasks.behaviour import interchanges
from cutaway.tasks.mcqa import behaviour, mcqa


def test_the_answer_is_the_letter_before_the_color(spoken: LanguageModel) -> None:
    for pair in mcqa(spoken, choices=3, n=20, known=False).pairs:
        for prompt, letter in ((pair.base, pair.answer), (pair.counterfactual, pair.foil)):
            roles = {role: prompt.text[slice(*span)] for role, span in prompt.spans.items()}
            assert roles["thing"] == roles["thing_2"]
            (place,) = (i for i in (1, 2, 3) if roles[f"choice_{i}"] == roles["color"])
            assert letter == f" {roles[f'symbol_{place}']}"


def test_a_pointer_leads_to_a_letter_of_its_own(spoken: LanguageModel) -> None:
    model = behaviour().model
    base = {"thing": "box", "choices": ("red", "blue", "pink", "gold"), "symbols": tuple("ABCD"), "asked": 0}
    source = base | {"choices": ("blue", "red", "gold", "pink"), "symbols": tuple("EFGH"), "asked": 3}
    assert (model.run(base)["answer"], model.run(source)["answer"]) == ("A", "H")
    assert model.interchange(base, {"pointer": source})["answer"] == "D"
    assert model.interchange(base, {"color": source})["answer"] == "C"
    examples = interchanges(mcqa(spoken, n=2, known=False), spoken, "pointer", n=40, known=False)
    assert sum(example.answer not in example.own for example in examples) >= 10


def test_what_cannot_be_made_is_refused(spoken: LanguageModel) -> None:
    with pytest.raises(InputError, match="choices=2 or more"):
        mcqa(spoken, choices=1)
    with pytest.raises(PromptError, match="99 words of one token"):
        mcqa(spoken, choices=99)
