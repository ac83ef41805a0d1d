"""Cut attention where it is known who reads what: the planted circuit, induction heads, an equal edit of the pattern; facts of a real model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import cutaway as cut
from cutaway.errors import AddressError, InputError
from cutaway.methods.base import examples
from cutaway.models.language import LanguageModel
from cutaway.results.grid import Grid
from cutaway.tasks.base import Pair, Task

Known = tuple[LanguageModel, Task]


def strong(grid: Grid, least: float) -> set[tuple[str, int]]:
    return {(grid.rows[r], int(c)) for r, c in zip(*np.nonzero(np.abs(grid.values[0]) > least), strict=True)}


def test_the_planted_circuit_reads_the_subject_first_and_the_relation_last(planted: Known) -> None:
    last = cut.locate.attention_knockout(*planted, window=1)
    assert last.rows == ("first token", "subject", "relation", "other tokens", "itself")
    assert strong(last, 1e-3) == {("relation", 2)}
    assert last.values.min() < -0.9
    assert strong(cut.locate.attention_knockout(*planted, to="relation", window=1), 1e-3) == {("subject", 0)}
    assert not strong(cut.locate.attention_knockout(*planted, to="subject", window=1), 1e-3)
    wide = cut.locate.attention_knockout(*planted, window=3)
    assert strong(wide, 1e-3) == {("relation", 1), ("relation", 2)}, "a window reaches the layers beside its centre"


def test_the_last_token_reads_the_word_to_copy_and_that_word_the_one_before_it(induction: Known) -> None:
    """Olsson et al. 2022, arXiv 2209.11895: layer 0 writes down what came before, layer 1 looks for it."""
    last = cut.locate.attention_knockout(*induction, window=1)
    assert last.values[0, last.rows.index("target"), 1] == last.values[0, :, 1].min() < -0.4
    target = cut.locate.attention_knockout(*induction, to="target", window=1)
    assert target.values[0, target.rows.index("previous"), 0] == target.values.min() < -0.4
    assert np.abs(target.values[0, :, 1]).max() < 1e-5, "nobody reads the word after the last layer"
    for grid in (last, target):
        (control,) = grid.controls
        assert control.found.high < control.trivial.low and control.found.n == len(induction[1]) and control.trivial.n >= 20


PROMPT = cut.Prompt.mark("w1 w2 w3 w4 w5 w6 w7", thing="w2 w3", asked="w5 w6")


@pytest.mark.parametrize("to", ["last", "asked", "3"])
def test_it_is_the_pattern_without_these_tokens_brought_back_to_a_sum_of_one(smollm_layout: LanguageModel, to: str) -> None:
    lm, task = smollm_layout, Task("mine", (Pair(PROMPT, cut.Prompt("w1 w8 w3 w4 w5 w6 w7"), "w9", "w10"),))
    grid = cut.locate.attention_knockout(lm, task, to=to, window=3, metric="logit_difference")
    (example,) = examples(lm, task, "logit_difference")

    def without(pattern: Tensor) -> Tensor:
        kept = pattern.index_fill(-1, torch.tensor([1, 2]), 0.0)
        return kept / kept.sum(-1, keepdim=True)

    for layer, window in ((0, (0, 1)), (5, (4, 5, 6)), (11, (10, 11))):
        output = lm.run(example.base, edits=[(f"layers[{i}].attn.pattern[pos={to}]", without) for i in window]).output
        expected = float(example.score(lm.last(output))) - example.at_base
        assert grid.values[0, grid.rows.index("thing"), layer] == pytest.approx(expected, abs=1e-5)
        assert abs(expected) > 1e-4 or (to != "last" and layer == 11)


def test_no_query_is_cut_off_from_all_that_it_sees(smollm_layout: LanguageModel) -> None:
    """This tokenizer puts nothing before a text, so that the first token sees itself alone."""
    start = cut.Prompt.mark("w1 w2 w3 w4", opening="w1 w2")
    task = Task("mine", (Pair(start, cut.Prompt("w1 w5 w3 w4"), "w9", "w10"),))
    grid = cut.locate.attention_knockout(smollm_layout, task, to="opening", window=1)
    assert grid.rows == ("opening",), "without itself, w1 would see nothing"
    assert np.isfinite(grid.values).all()
    with pytest.raises(InputError, match="later token"):
        cut.locate.attention_knockout(smollm_layout, task, to="0")
    both = task.with_pairs([*task.pairs, Pair(cut.Prompt.mark("w1 w2 w3 w4", opening="w3"), task.pairs[0].counterfactual, "w9", "w10")])
    mixed = cut.locate.attention_knockout(smollm_layout, both, to="opening", window=1)
    assert {"opening", "first token", "other tokens", "itself"} >= set(mixed.rows) and np.isfinite(mixed.values).all()


def test_what_cannot_be_done_is_refused(planted: Known) -> None:
    with pytest.raises(InputError, match="window=0"):
        cut.locate.attention_knockout(*planted, window=0)
    with pytest.raises(AddressError, match="relation"):
        cut.locate.attention_knockout(*planted, to="object")


@pytest.mark.slow
def test_facts_come_to_the_last_token_first_from_the_relation_then_from_the_subject(smollm: LanguageModel) -> None:
    """Geva et al. 2023, figure 2: two critical points, the relation's before the subject's."""
    grid = cut.locate.attention_knockout(smollm, "facts:relation=landmark_city,n=10", window=5)
    subject, relation = (grid.values[0, grid.rows.index(name)] for name in ("subject", "other tokens"))
    assert grid.high is not None
    high = dict(zip(grid.rows, grid.high[0], strict=True))
    print(f"\nsubject {subject.min():.3f} at layer {subject.argmin()}, relation {relation.min():.3f} at layer {relation.argmin()}")
    assert high["subject"].min() < -0.1 and high["other tokens"].min() < -0.05
    assert relation.argmin() + 3 < subject.argmin()
    assert np.abs(grid.values[0, grid.rows.index("itself")]).max() < 0.1
    (control,) = grid.controls
    assert control.found.high < control.trivial.low
