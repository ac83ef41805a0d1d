from __future__ import annotations

from itertools import product

from cutaway.models.language import LanguageModel
from cutaway.models.prompt import Prompt
from cutaway.tasks.behaviour import interchanges
from cutaway.tasks.belief_tracking import behaviour, belief_tracking

STORY = {"names": ("Anna", "Ben"), "vessels": ("cup", "jar"), "states": ("tea", "milk")}


def test_people_know_what_they_did_and_what_they_saw() -> None:
    model = behaviour().model
    for asked_name, asked_vessel, *sight in product((0, 1), (0, 1), (False, True), (False, True)):
        got = model.run(STORY | {"sight": tuple(sight), "asked_name": asked_name, "asked_vessel": asked_vessel})["answer"]
        sees = sight[0] if asked_name == 0 else sight[1]
        assert got == (STORY["states"][asked_vessel] if sees or asked_name == asked_vessel else "unknown")


def test_the_story_says_who_sees_whom() -> None:
    prompt = behaviour().prompt(STORY | {"sight": (True, False), "asked_name": 1, "asked_vessel": 0})
    assert prompt.text == (
        "Anna fills the cup with tea. Ben fills the jar with milk. Anna can see Ben. Ben cannot see Anna. "
        "What does Ben think is in the cup? Answer:"
    )
    assert prompt.text[slice(*prompt.spans["sight_2"])] == "cannot"


def test_a_pointer_leads_to_a_third_answer(spoken: LanguageModel) -> None:
    model = behaviour().model
    base = STORY | {"sight": (True, True), "asked_name": 0, "asked_vessel": 0}
    source = base | {"states": ("oil", "rice"), "asked_vessel": 1}
    assert (model.run(base)["answer"], model.run(source)["answer"]) == ("tea", "rice")
    assert model.interchange(base, {"pointer": source})["answer"] == "milk"
    examples = interchanges(belief_tracking(spoken, n=2, known=False), spoken, "pointer", n=40, known=False)
    assert sum(example.answer not in example.own for example in examples) >= 8


def test_sources_may_share_the_cast(spoken: LanguageModel) -> None:
    for one_cast in (True, False):
        task = belief_tracking(spoken, one_cast=one_cast, n=2, known=False)
        every = interchanges(task, spoken, "address", n=20, known=False)
        assert all(names(one.base) == names(one.source) for one in every) == one_cast


def names(prompt: Prompt) -> list[str]:
    return [prompt.text[slice(*prompt.spans[role])] for role in ("name_1", "name_2", "vessel_1", "vessel_2")]


def test_only_what_is_known_is_asked(spoken: LanguageModel) -> None:
    pairs = belief_tracking(spoken, unknown=False, n=20, known=False).pairs
    assert not {" unknown"} & {text for pair in pairs for text in (pair.answer, pair.foil)}
    everything = belief_tracking(spoken, n=20, known=False).pairs
    assert {" unknown"} & {text for pair in everything for text in (pair.answer, pair.foil)}
