"""Filter heads of the model that was trained to have them where they are, and of one that has none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cutaway as cut
from cutaway.errors import InputError, PromptError, UnknownNameError
from cutaway.mediators.swap import swap
from cutaway.methods.locate.filter_heads import _Choices, _choices
from cutaway.models.language import LanguageModel
from cutaway.results.scores import Scores
from cutaway.tasks.base import Task, find_task
from cutaway.zoo.filter_lm import CONFIG, FILTER

TRUE = {f"layers[{FILTER[0]}].attn.q[head={FILTER[1]}, pos=last]"}


def kept(scores: Scores) -> set[str]:
    return {row for row, value in zip(scores.rows, scores.values[:, 0], strict=True) if value > 0.5}


@pytest.fixture(scope="module")
def filtering() -> LanguageModel:
    return cut.open("filter_lm")


@pytest.mark.slow
def test_it_finds_the_filter(filtering: LanguageModel) -> None:
    """Heads cost as much as they must to be worth it: the others add a little to the margin and change no answer."""
    scores = cut.locate.filter_heads(filtering, "list_filtering:n=32", variable="kind", steps=100, penalty=1.0)
    assert kept(scores) == TRUE
    assert scores.numbers["causality"] >= 0.9


@pytest.mark.slow
def test_they_select_by_the_match_and_only_where_the_question_comes_last(filtering: LanguageModel) -> None:
    first = "list_filtering:question_first=true,n=100"
    scores = cut.locate.filter_heads(filtering, "list_filtering:n=200", variable="kind", transfer=first)
    random, keys, question_first = scores.controls
    assert kept(scores) >= TRUE and len(kept(scores)) <= 0.25 * len(scores.rows)
    assert random.found.value >= 0.8 and random.trivial.value <= 0.1
    assert keys.found.value >= 0.8 and keys.trivial.value <= 0.1
    assert question_first.trivial.value <= 0.2


def test_taking_and_exchanging_equal_one_forward_each(filtering: LanguageModel) -> None:
    lm = filtering
    choices = _Choices(lm, _choices(lm, find_task("list_filtering:n=6", lm), "kind", "item", 0), "last")
    which = np.zeros(CONFIG.n_layers * CONFIG.n_heads, dtype=bool)
    which[[2, CONFIG.n_heads * FILTER[0] + FILTER[1]]] = True
    parts = [part for part, one in zip(choices.gated.parts, which, strict=True) if one]
    taken, moved = choices.gated.taking(which, choices.rows), choices.exchanged(which, choices.rows)
    for row, one in enumerate(choices.every):
        there = lm.run(one.source, read=parts)
        alone = lm.last(lm.run(one.base, edits=[(part, swap(there[part])) for part in parts]).output)[0]
        torch.testing.assert_close(taken[row], alone, rtol=1e-4, atol=1e-4)
        edits = []
        for part in parts:
            keys = [f"{part.point.replace('.q', '.k')}[head={part.head}, pos={one.places[item]}]" for item in (0, one.own)]
            read = lm.run(one.base, read=keys)
            edits += [(keys[0], swap(read[keys[1]])), (keys[1], swap(read[keys[0]]))]
        said = lm.last(lm.run(one.base, edits=edits).output)[0]
        assert moved[row] == (said[list(one.items)].argmax() == 0)
        assert lm.token_text(one.items[one.own]) != lm.token_text(one.items[0])


def test_queries_that_are_the_same_in_both_prompts_carry_nothing(induction: tuple[LanguageModel, Task]) -> None:
    """The sides of a pair differ in what is to be copied, not in what is looked for."""
    lm, task = induction
    scores = cut.locate.filter_heads(lm, task, steps=20)
    assert scores.numbers["causality of all heads"] == scores.controls[0].found.value == 0
    assert [control.name for control in scores.controls] == ["random heads"]


def test_pairs_are_both_ways_and_stay_on_one_side(induction: tuple[LanguageModel, Task]) -> None:
    lm, task = induction
    every = _choices(lm, task, None, "item", 0)
    assert len(every) == 2 * len(task)
    for one, other in zip(every[::2], every[1::2], strict=True):
        assert (one.base, one.source, one.items) == (other.source, other.base, other.items[::-1])


def test_what_cannot_be_asked_is_refused(filtering: LanguageModel, induction: tuple[LanguageModel, Task]) -> None:
    with pytest.raises(UnknownNameError, match="kind"):
        cut.locate.filter_heads(filtering, "list_filtering:n=4", variable="kinds")
    with pytest.raises(InputError, match="no causal model"):
        cut.locate.filter_heads(*induction, variable="kind")
    with pytest.raises(InputError, match="steps=0"):
        cut.locate.filter_heads(filtering, "list_filtering:n=4", variable="kind", steps=0)
    with pytest.raises(PromptError, match="two or more"):
        cut.locate.filter_heads(filtering, "list_filtering:n=1", variable="kind")
