"""Scaled outputs where it is known what they do: the planted lookup in closed form, a naive loop, and pronouns of a real model."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

import cutaway as cut
from cutaway.errors import InputError, PromptError, UnknownNameError
from cutaway.mediators.swap import swap
from cutaway.methods.base import examples
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Pair, Task
from cutaway.zoo.planted_circuit import SCALE

Known = tuple[LanguageModel, Task]


def test_the_planted_fact_rewrites_the_answer_from_the_relation_s_token_alone(planted: Known) -> None:
    """There the MLP of layer 1 writes the fact, which becomes the answer's logit times the scale: all other words have logit 0."""
    lm, task = planted
    grid = cut.locate.scaled_patching(lm, task, role="relation")
    cell = (grid.rows.index("last relation"), 1)
    others = grid.values[~np.isnan(grid.values)].size - 3
    assert (np.abs(np.nan_to_num(grid.values)) > 1e-2).sum() == 3 and others > 20
    before = 1 / (math.exp(SCALE) + lm.sizes.vocab - 1)
    for panel, scale in enumerate((1, 2, 5)):
        after = 1 / (1 + (lm.sizes.vocab - 1) * math.exp(-SCALE * scale))
        assert grid.values[panel][cell] == pytest.approx((after - before) / (1 - before), abs=1e-4)
        assert grid.numbers[f"other words moved, scale {scale}"] < 1e-4
    for control in grid.controls:
        assert control.found.low > control.trivial.high and control.found.n == len(task) and control.trivial.n >= 20


def test_it_equals_one_forward_for_each_cell(smollm_layout: LanguageModel) -> None:
    lm = smollm_layout
    sides = (cut.Prompt.mark("w1 w2 w3 w4 w5", name="w2 w3"), cut.Prompt.mark("w1 w2 w7 w4 w5", name="w2 w7"))
    task = Task("mine", (Pair(*sides, "w9", "w10"),))
    grid = cut.locate.scaled_patching(lm, task, role="name", scales=(1, 3), layers=(0, 7, 11), window=3)
    assert grid.values.shape == (2, 5, 3) and grid.columns == ("0", "7", "11") and grid.low is None
    (example,) = examples(lm, task, "probability")
    there = lm.run(example.counterfactual, read=[f"layers[{i}].mlp.output" for i in range(12)])

    def foil(edits: list) -> float:
        return float(lm.last(lm.run(example.base, edits=edits).output).softmax(-1)[0, lm.token_id("w10")])

    before = foil([])
    for panel, scale in enumerate((1, 3)):
        for token in (0, 2, 4):
            for column, window in enumerate(((0, 1), (6, 7, 8), (10, 11))):
                points = [f"layers[{i}].mlp.output" for i in window]
                after = foil([(f"{point}[pos={token}]", swap(scale * there[point][0, 2])) for point in points])
                assert grid.values[panel, token, column] == pytest.approx((after - before) / (1 - before), abs=1e-6)


def test_a_state_put_in_the_counterfactual_s_place_rewrites_all_of_the_answer(induction: Known) -> None:
    """Scale 1 of the last token's state after the last layer is the counterfactual's run: other words move as far as they do there."""
    lm, task = induction
    few = task.with_pairs(task.pairs[:4])
    grid = cut.locate.scaled_patching(lm, few, role="repeat", point="output", scales=(1,), layers=(1,))
    every = examples(lm, few, "probability")
    foils = [lm.last(lm.run(e.counterfactual).output).softmax(-1)[0, e.target.foil] for e in every]
    expected = np.mean(
        [(float(p) - (q := float(e.target.reference[0, e.target.foil].exp()))) / (1 - q) for p, e in zip(foils, every, strict=True)]
    )
    assert grid.values[0, grid.rows.index("last repeat"), 0] == pytest.approx(expected, abs=1e-5)
    assert grid.numbers["other words moved, scale 1"] == pytest.approx(grid.numbers["other words moved, counterfactual"], abs=1e-5)
    assert grid.numbers["other words moved, counterfactual"] > 0.01


def test_what_cannot_be_done_is_refused(planted: Known, induction: Known) -> None:
    with pytest.raises(PromptError, match="relation"):
        cut.locate.scaled_patching(*planted, role="object")
    with pytest.raises(UnknownNameError, match=r"attn\.output"):
        cut.locate.scaled_patching(*induction, point="mlp.output")
    for wrong in ({"scales": ()}, {"layers": (3,)}, {"window": 0}):
        with pytest.raises(InputError, match="layers from 0 to 2"):
            cut.locate.scaled_patching(*planted, **wrong)


def test_an_answer_that_is_certain_cannot_be_rewritten(planted: Known) -> None:
    lm, task = planted
    sure = copy.deepcopy(lm.module)
    with torch.no_grad():
        sure.unembed.weight *= 10
    pair = task.pairs[0]
    turned = Task("mine", (Pair(pair.base, pair.counterfactual, pair.foil, pair.answer),))
    with pytest.raises(InputError, match="certain"):
        cut.locate.scaled_patching(cut.open(sure), turned, role="relation")


@pytest.mark.slow
def test_a_name_s_gender_is_rewritten_at_the_name_by_few_mlps_and_the_more_the_larger_the_scale(smollm: LanguageModel) -> None:
    """Ahsan et al. 2025 find middle layers of larger models; here layers 7, 21 and 24 stand out, and the first, which makes another name of it."""
    grid = cut.locate.scaled_patching(smollm, "gendered_pronouns:n=8,seed=1", scales=(1, 5), layers=(7, 14, 24))
    at_name = grid.values[:, grid.rows.index("last name")]
    print(f"\n{at_name}\n{grid.numbers}")
    assert (at_name[1, [0, 2]] > at_name[0, [0, 2]] + 0.05).all(), "stronger with the scale"
    assert at_name[1, [0, 2]].min() > 0.2 and np.abs(at_name[:, 1]).max() < 0.1
    assert np.nanmax(grid.values) == at_name.max()
    for control in grid.controls:
        assert control.found.low > control.trivial.high
