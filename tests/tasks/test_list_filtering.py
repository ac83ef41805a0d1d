from __future__ import annotations

import pytest

from cutaway.models.language import LanguageModel
from cutaway.tasks.list_filtering import KINDS, behaviour, list_filtering


@pytest.mark.parametrize("question_first", [False, True])
def test_the_answer_is_the_item_of_the_kind(spoken: LanguageModel, question_first: bool) -> None:
    for pair in list_filtering(spoken, items=3, question_first=question_first, n=20, known=False).pairs:
        for prompt, answer in ((pair.base, pair.answer), (pair.counterfactual, pair.foil)):
            roles = {role: prompt.text[slice(*span)] for role, span in prompt.spans.items()}
            items = [roles[f"item_{i}"] for i in (1, 2, 3)]
            assert [item for item in items if item in KINDS[roles["kind"]]] == [answer.strip()]
            assert (prompt.spans["kind"] < prompt.spans["item_1"]) == question_first


def test_a_kind_selects_from_the_list_it_is_put_into() -> None:
    made = behaviour(2)
    base, source = {"items": ("pear", "lion"), "asked": 0}, {"items": ("wolf", "red"), "asked": 0}
    assert made.model.interchange(base, {"kind": source})["answer"] == "lion"
    assert made.model.interchange(base, {"position": source})["answer"] == "pear"
    other = source | {"asked": 1}
    assert made.valid is not None and not made.valid(made.model.interchange(base, {"kind": other})), "there is no color in the base"


def test_the_data_is_sound() -> None:
    items = [item for listed in KINDS.values() for item in listed]
    assert len(set(items)) == len(items) and len(KINDS) >= 10 and min(map(len, KINDS.values())) >= 9
    assert not set(KINDS) & set(items)
