"""Every task that has a causal model is held to the same; what is its own is in the test of its name."""

from __future__ import annotations

import importlib
import random
from itertools import islice

import pytest
import torch

from cutaway import Prompt, Task, registry
from cutaway.errors import InputError, PromptError, UnknownNameError
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import aligned, find_task
from cutaway.tasks.behaviour import Behaviour, interchanges, one_token, vocabulary
from cutaway.tasks.causal_model import CausalModel, caused, one_of

MODULES = {name: importlib.import_module(f"cutaway.tasks.{name}") for name in registry.names("tasks")}
CAUSAL = [name for name, module in MODULES.items() if hasattr(module, "behaviour")]
CLOSED = [name for name in CAUSAL if hasattr(MODULES[name], "WORDS")]
each_on_both = pytest.mark.parametrize(
    ("lm", "name"),
    [(lm, name) for lm in ("spoken", "whole_words") for name in CAUSAL if (lm, name) != ("whole_words", "ioi")],
    indirect=["lm"],
)
"""ioi makes its pairs itself, for tokenizers of natural text."""


def _between(prompt: Prompt) -> str:
    """The text without what plays a role."""
    text = prompt.text
    for start, stop in sorted(prompt.spans.values(), reverse=True):
        text = text[:start] + "|" + text[stop:]
    return text


@pytest.fixture
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    model: LanguageModel = request.getfixturevalue(request.param)
    return model


def test_the_tasks_that_were_promised_are_there() -> None:
    assert {
        "algebra", "arithmetic", "belief_tracking", "copying", "entity_tracking", "gendered_pronouns", "hierarchical_equality", "ioi",
        "list_filtering", "mcqa", "subject_verb_agreement", "translation", "variable_binding",
    } <= set(CAUSAL)  # fmt: skip
    assert {"algebra", "belief_tracking", "entity_tracking", "list_filtering"} <= set(CLOSED)


@pytest.mark.slow
@each_on_both
def test_pairs_are_aligned_and_follow_the_seed(lm: LanguageModel, name: str) -> None:
    task = find_task(f"{name}:n=12,known=false", lm)
    assert len(task) == 12
    assert aligned(task.pairs, lm) == task.pairs
    assert find_task(str(task), lm) == task != find_task(f"{name}:n=12,known=false,seed=1", lm)
    assert all(task.role in pair.base.spans for pair in task.pairs)
    assert all(isinstance(lm.token_id(text), int) for pair in task.pairs for text in (pair.answer, pair.foil))


@pytest.mark.parametrize("name", CAUSAL)
def test_a_counterfactual_differs_in_what_is_said_and_in_nothing_else(name: str) -> None:
    behaviour: Behaviour = MODULES[name].behaviour()
    for base, other in islice(behaviour.pairs(0), 20):
        assert {variable for variable in base if base[variable] != other[variable]} == set(behaviour.changed)
        prompts = behaviour.prompt(base), behaviour.prompt(other)
        assert prompts[0].text != prompts[1].text and _between(prompts[0]) == _between(prompts[1])
        assert behaviour.answer(base) != behaviour.answer(other)
        for inputs in (base, other):
            assert behaviour.answer(inputs) == behaviour.written(behaviour.model.run(inputs)[behaviour.model.output])
            assert behaviour.valid is None or behaviour.valid(behaviour.model.run(inputs))


@pytest.mark.slow
@each_on_both
def test_interchanges_say_what_the_causal_model_says(lm: LanguageModel, name: str) -> None:
    task = find_task(f"{name}:n=2,known=false", lm)
    assert task.behaviour is not None
    model = task.behaviour.model
    for variable in model.computed:
        examples = interchanges(task, lm, variable, n=10, known=False)
        assert examples == interchanges(task, lm, variable, n=10, known=False)
        assert {example.variable for example in examples} == {variable}
        tokens = lm.tokens([e.base for e in examples]), lm.tokens([e.source for e in examples])
        assert tokens[0].lengths == tokens[1].lengths
        assert any(example.changes for example in examples), variable
        if variable == model.output:
            assert all(example.answer == example.own[1] for example in examples)
    drawn = islice(task.behaviour.interchanges(model.computed[0], 0), 10)
    for base, source, after in drawn:
        assert all(base[shared] == source[shared] for shared in task.behaviour.shared)
        assert after[model.computed[0]] == model.run(source)[model.computed[0]]


@pytest.mark.parametrize("name", CLOSED)
def test_texts_stay_within_the_vocabulary(name: str) -> None:
    module = MODULES[name]
    texts = module.behaviour().texts(200)
    assert texts == module.behaviour().texts(200) != module.behaviour().texts(200, seed=1)
    used = {word for text, answer in texts for word in (*text.split(), answer)}
    assert used <= set(module.WORDS) and len(set(module.WORDS)) == len(module.WORDS)
    assert len(used) >= 0.8 * len(module.WORDS)


@pytest.mark.parametrize("name", CLOSED)
def test_a_tokenizer_of_whole_words_reads_one_token_a_word(whole_words: LanguageModel, name: str) -> None:
    for pair in find_task(f"{name}:n=4,known=false", whole_words).pairs:
        assert all(pair.base.text[start:stop] in MODULES[name].WORDS for start, stop in pair.base.spans.values())
        assert whole_words.tokens(pair.base).lengths[0] == 1 + len(pair.base.text.split())


def test_what_does_not_depend_on_what_is_drawn_stays(spoken: LanguageModel) -> None:
    task = find_task("entity_tracking:n=2,known=false", spoken)
    objects = interchanges(task, spoken, "position", anew=["objects"], n=10, known=False)
    assert not any(example.changes for example in objects)
    assert all(example.own[0] != example.own[1] for example in objects)
    assert all(example.changes for example in interchanges(task, spoken, "answer", anew=["objects"], n=10, known=False))


def test_known_keeps_what_the_model_answers_on_both_sides(spoken: LanguageModel) -> None:
    """A model that always says one word is right about that word alone."""
    top = spoken.token_text(int(spoken.next_logits("say").argmax()))
    behaviour = Behaviour(
        CausalModel({"said": one_of("ab"), "answer": caused(lambda said: top if said == "a" else " of")}),
        lambda s: ("say", {}),
        ("said",),
        written="{}".format,
    )
    task = Task("mine", (), behaviour=behaviour)
    examples = interchanges(task, spoken, "answer", n=20)
    assert {example.own for example in examples} == {(top, top)}
    assert {e.own for e in interchanges(task, spoken, "answer", n=20, known=False)} > {(top, top)}


def test_what_cannot_be_made_is_refused(spoken: LanguageModel) -> None:
    task = find_task("mcqa:n=2,known=false", spoken)
    with pytest.raises(UnknownNameError, match="pointer"):
        interchanges(task, spoken, "pinter")
    with pytest.raises(UnknownNameError, match="symbols"):
        interchanges(task, spoken, "pointer", anew=["symbol"])
    with pytest.raises(InputError, match="a task that has one"):
        interchanges(Task("mine", ()), spoken, "pointer")
    with pytest.raises(PromptError, match="none aligned and known to the model"):
        interchanges(task, spoken, "pointer", n=2)
    with pytest.raises(InputError, match="n=1 or more"):
        interchanges(task, spoken, "pointer", n=0)
    stuck = Behaviour(CausalModel({"a": one_of("ab"), "answer": one_of("c")}), lambda s: (s["a"], {}), ("a",))
    with pytest.raises(InputError, match="200 draws in a row"):
        next(stuck.pairs(0))


def test_words_of_one_token(spoken: LanguageModel) -> None:
    assert one_token(["box", "xqzjkw", "cup"], spoken) == ("box", "cup")
    with pytest.raises(PromptError, match="1 of 2: box"):
        one_token(["box", "xqzjkw"], spoken)


def test_vocabulary_takes_each_word_once_and_no_role() -> None:
    assert vocabulary("The {object} is in box {box}, the", "a=3?", "cup") == (
        "The",
        "is",
        "in",
        "box",
        ",",
        "the",
        "a",
        "=",
        "3",
        "?",
        "cup",
    )


def test_draws_do_not_touch_the_global_generator() -> None:
    before = random.getstate()
    for name in CAUSAL:
        MODULES[name].behaviour().texts(2)
    assert random.getstate() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", CAUSAL)
def test_a_real_tokenizer_reads_pairs_and_interchanges_aligned(smollm: LanguageModel, name: str) -> None:
    task = find_task(f"{name}:n=30,known=false", smollm)
    assert len(task) == 30 and task.behaviour is not None
    assert aligned(task.pairs, smollm) == task.pairs
    text, offsets = task.pairs[0].base.text, smollm.tokenizer(task.pairs[0].base.text, return_offsets_mapping=True)["offset_mapping"]
    starts = {start + (text[start] == " ") for start, _ in offsets}
    assert {start for start, _ in task.pairs[0].base.spans.values()} <= starts, "roles begin where tokens do"
    if name not in ("translation", "arithmetic"):  # whose answers are the first token of several
        assert all(len(smollm.tokens(p.base.text + p.answer).ids[0]) == 1 + smollm.tokens(p.base).lengths[0] for p in task.pairs)
    for variable in task.behaviour.model.computed:
        assert len(interchanges(task, smollm, variable, n=10, known=False)) == 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "right", "preferred"),
    [("copying", 0.9, 0.95), ("gendered_pronouns", 0.6, 0.9), ("subject_verb_agreement", 0.3, 0.9), ("translation", 0.0, 0.75)],
)
def test_smollm_answers_what_a_small_model_can(smollm: LanguageModel, name: str, right: float, preferred: float) -> None:
    """right: how often its likeliest next token is the answer; preferred: how often the answer is likelier than the foil."""
    pairs = find_task(f"{name}:n=30,known=false", smollm).pairs
    logits = smollm.next_logits([pair.base for pair in pairs])
    answers, foils = ([smollm.token_id(getattr(pair, said)) for pair in pairs] for said in ("answer", "foil"))
    rows = range(len(pairs))
    assert (logits.argmax(-1) == torch.tensor(answers)).float().mean() >= right
    assert (logits[rows, answers] > logits[rows, foils]).float().mean() >= preferred
