from __future__ import annotations

import re

import pytest

from cutaway.errors import InputError, PromptError, UnknownNameError
from cutaway.models.language import LanguageModel
from cutaway.tasks import facts as module
from cutaway.tasks.base import aligned, find_task, known
from cutaway.tasks.facts import facts, find_subject, relations, swaps

KNOWN_BY_SMOLLM = {
    "landmark_city": 50, "capital": 45, "currency": 20, "language": 45, "continent": 50, "author": 30, "field": 50, "maker": 15,
    "colour": 20, "opposite": 40, "past_tense": 35, "plural": 40,
}  # fmt: skip


def test_there_are_enough_relations() -> None:
    assert len(relations()) >= 10
    assert {"capital", "currency", "language", "continent", "landmark_city", "author", "field", "founder", "colour"} <= set(relations())


@pytest.mark.parametrize("relation", relations())
def test_the_data_is_sound(relation: str) -> None:
    import tomllib

    table = tomllib.loads(module.Path(module.__file__).with_suffix(".toml").read_text("utf-8"))[relation]
    subjects = [subject for subject, _ in table["pairs"]]
    assert len(subjects) >= 40
    assert len(set(subjects)) == len(subjects)
    assert len({answer for _, answer in table["pairs"]}) >= 5
    assert len(table["templates"]) >= 3 and len(set(table["templates"])) == len(table["templates"])
    for text in (*subjects, *(answer for _, answer in table["pairs"])):
        assert text and text == text.strip() and "  " not in text
    for template in table["templates"]:
        assert template.count("{subject}") == 1 and template == template.strip() and "{" not in template.replace("{subject}", "")
    for subject, answer in table["pairs"]:
        assert not re.search(rf"\b{re.escape(answer)}\b", subject), "the subject gives its answer away"


def test_no_template_mentions_a_subject() -> None:
    """Otherwise `find_subject` would find the example of a template instead of what it is filled with."""
    for relation in module._facts().values():
        for template in relation.templates:
            assert find_subject(template.replace("{subject}", "")) is None, template


@pytest.mark.slow
@pytest.mark.parametrize("relation", relations())
def test_every_subject_is_found_in_its_template(relation: str) -> None:
    for template in module._facts()[relation].templates:
        for subject in module._facts()[relation].answers:
            assert find_subject(template.format(subject=subject)) == (relation, subject)


def test_a_subject_is_found_as_it_is_written() -> None:
    assert find_subject("Where is the Eiffel Tower?") == ("landmark_city", "the Eiffel Tower")
    assert find_subject("My Eiffel Tower model") == ("landmark_city", "Eiffel Tower")
    assert find_subject("Grass is the color") == ("colour", "Grass")
    assert find_subject("The Eiffel Towers are in") is None
    assert find_subject("Xanadu is in the city of") is None
    assert find_subject("North Korea") in [(r, "North Korea") for r in relations()]


def test_swaps_have_another_answer_and_the_same_form() -> None:
    answers = module._facts()["landmark_city"].answers
    others = swaps("landmark_city", "The Eiffel Tower")
    assert others and all(answers[other] != "Paris" for other in others)
    assert "Colosseum" in swaps("landmark_city", "Eiffel Tower") and "the Colosseum" in swaps("landmark_city", "the Eiffel Tower")
    with pytest.raises(UnknownNameError, match="The Eiffel Tower"):
        swaps("landmark_city", "The Eifel Tower")
    with pytest.raises(UnknownNameError, match="capital"):
        swaps("capitol", "France")


@pytest.mark.parametrize("relation", [*relations(), "all"])
def test_pairs_are_aligned_and_of_one_relation(tiny: LanguageModel, relation: str) -> None:
    task = facts(tiny, relation=relation, n=40, known=False)
    assert 10 <= len(task) <= 40
    assert aligned(task.pairs, tiny) == task.pairs
    for pair in task.pairs:
        texts = [p.text.replace(p.text[slice(*p.spans["subject"])], "{subject}", 1) for p in (pair.base, pair.counterfactual)]
        assert texts[0] == texts[1] and pair.base.text != pair.counterfactual.text


def test_answers_are_the_first_token_of_the_true_answer(tiny: LanguageModel) -> None:
    truth = module._facts()["author"].answers
    for pair in facts(tiny, relation="author", known=False).pairs:
        for prompt, answer in ((pair.base, pair.answer), (pair.counterfactual, pair.foil)):
            assert f" {truth[prompt.text[slice(*prompt.spans['subject'])]]}".startswith(answer)
            assert isinstance(tiny.token_id(answer), int)


def test_the_seed_decides(tiny: LanguageModel) -> None:
    def make(seed: int) -> tuple:
        return facts(tiny, n=20, seed=seed, known=False).pairs

    assert make(3) == make(3)
    assert make(3) != make(4)
    assert len({pair.base.text for pair in make(3)}) == 20


def test_templates_are_chosen_by_number(tiny: LanguageModel) -> None:
    assert facts(tiny, template=3, known=False).pairs[0].base.text.endswith("is a famous landmark in the city of")
    with pytest.raises(InputError, match="template=0 to template=3"):
        facts(tiny, template=4)
    with pytest.raises(InputError):
        facts(tiny, template=-1)


def test_what_cannot_be_made_is_refused(tiny: LanguageModel) -> None:
    with pytest.raises(UnknownNameError, match="capital"):
        facts(tiny, relation="capitals")
    with pytest.raises(PromptError, match="50 facts, 0 of them known to the model"):
        facts(tiny, relation="founder")


@pytest.mark.slow
@pytest.mark.parametrize("relation", KNOWN_BY_SMOLLM)
def test_smollm_knows_enough(smollm: LanguageModel, relation: str) -> None:
    task = facts(smollm, relation=relation, n=100)
    assert len(task) >= KNOWN_BY_SMOLLM[relation]
    assert known(task.pairs[:8], smollm) == task.pairs[:8]


@pytest.mark.slow
def test_all_relations_together(smollm: LanguageModel) -> None:
    task = find_task("facts:relation=all,n=50", smollm)
    assert len(task) == 50
    assert len({find_subject(pair.base.text)[0] for pair in task.pairs}) >= 8  # type: ignore[index]
