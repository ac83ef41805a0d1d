from __future__ import annotations

import pytest

from cutaway.errors import InputError
from cutaway.models.language import LanguageModel
from cutaway.tasks.entity_tracking import behaviour, entity_tracking


def test_the_answer_is_what_is_in_the_box(spoken: LanguageModel) -> None:
    for pair in entity_tracking(spoken, boxes=3, n=20, known=False).pairs:
        for prompt, answer in ((pair.base, pair.answer), (pair.counterfactual, pair.foil)):
            roles = {role: prompt.text[slice(*span)] for role, span in prompt.spans.items()}
            (place,) = (i for i in (1, 2, 3) if roles[f"box_{i}"] == roles["asked"])
            assert answer == f" {roles[f'object_{place}']}"


def test_a_position_leads_to_an_object_of_its_own() -> None:
    model = behaviour(3).model
    base = {"objects": ("cup", "hat", "key"), "boxes": tuple("BCD"), "asked": 0}
    source = {"objects": ("map", "pen", "bell"), "boxes": tuple("DBF"), "asked": 1}
    assert (model.run(base)["answer"], model.run(source)["answer"]) == ("cup", "pen")
    assert model.interchange(base, {"position": source})["answer"] == "hat"
    assert model.interchange(base, {"label": source})["answer"] == "cup", "box B is the first here, and the second there"
    assert model.interchange(base, {"answer": source})["answer"] == "pen"


def test_the_words_stand_apart_for_a_tokenizer_of_words() -> None:
    inputs = {"objects": ("cup", "hat"), "boxes": ("B", "C"), "asked": 1}
    made = behaviour(2)
    assert made.prompt(inputs).text == "The cup is in box B, the hat is in box C. Box C holds the"
    apart = made.prompt(inputs, apart=True)
    assert apart.text == "The cup is in box B , the hat is in box C . Box C holds the"
    assert apart.text[slice(*apart.spans["object_2"])] == "hat"


def test_one_box_is_no_task(spoken: LanguageModel) -> None:
    with pytest.raises(InputError, match="boxes=2 or more"):
        entity_tracking(spoken, boxes=1)
