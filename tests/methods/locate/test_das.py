"""Trained directions against a planted subspace, on a trained model of hierarchical equality, and on a real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import cutaway as cut
from cutaway.errors import InputError, PromptError, StorageError, UnknownNameError
from cutaway.mediators.featurizers.base import load
from cutaway.mediators.featurizers.rotation import Turning, rotation
from cutaway.mediators.featurizers.subspace import Subspace
from cutaway.methods.locate._alignment import Alignment, examples, places, shuffled
from cutaway.models.language import LanguageModel
from cutaway.results.grid import Grid
from cutaway.tasks.base import Task, find_task

Crossed = Callable[[bool], tuple[LanguageModel, Task, torch.Tensor]]
EQUALITY = "hierarchical_equality:examples=false,n=200"


def accuracy(grid: Grid, panel: str, position: str, layer: int) -> float:
    """One cell of a grid."""
    return float(grid.values[grid.panels.index(panel), grid.rows.index(position), grid.columns.index(str(layer))])


@pytest.fixture(scope="module")
def on_crossed(crossed: Crossed, tmp_path_factory: pytest.TempPathFactory) -> tuple[Grid, Path]:
    """Digit `a`, in two trained directions of a state that also holds digit `b`."""
    lm, task, _ = crossed(True)
    folder = tmp_path_factory.mktemp("das")
    return cut.locate.das(lm, task, variable="a", layers=(0,), rank=2, to=str(folder)), folder


def test_it_recovers_a_planted_rotated_subspace(crossed: Crossed, on_crossed: tuple[Grid, Path]) -> None:
    """Differences of a one-hot digit of three values span a plane; the trained one is that plane, up to what nothing reads."""
    grid, folder = on_crossed
    assert accuracy(grid, "DAS", "last", 0) >= 0.95
    learned = load(folder / "layers-0.output-last")
    assert isinstance(learned, Subspace)
    digits = crossed(True)[2]
    plane = torch.linalg.qr((digits[:, :3] - digits[:, :3].mean(1, keepdim=True))[:, :2]).Q
    angles, random = (
        torch.linalg.svdvals(plane.T @ found.directions).clamp(max=1).arccos().rad2deg() for found in (learned, rotation(24, 2))
    )
    assert angles.max() < 35 and random.max() > 70, "principal angles, in degrees"
    assert torch.linalg.svdvals(digits[:, 3:6].T @ learned.directions).max() < 0.2, "nothing of the other digit"


def test_the_full_vector_takes_both_digits_and_is_right_by_chance(on_crossed: tuple[Grid, Path]) -> None:
    """Chance: the other digits agree in one of three cases, where both or neither is taken."""
    grid, _ = on_crossed
    assert accuracy(grid, "full vector", "last", 0) < 0.5 and accuracy(grid, "random directions", "last", 0) < 0.5
    for control in grid.controls:
        assert control.found.value >= 0.95 and control.trivial.high < 0.6


def test_aligned_with_the_wrong_digit_it_is_right_by_chance(crossed: Crossed, on_crossed: tuple[Grid, Path]) -> None:
    lm, task, _ = crossed(True)
    every, (address,) = examples(lm, task, "b", 1), places(lm, ("last",), (0,))[0]
    assert Alignment(lm, every, [address]).right(address, load(on_crossed[1] / "layers-0.output-last"), every.held_out).mean() < 0.5


@pytest.mark.slow
def test_hierarchical_equality_true_and_wrong_alignment() -> None:
    """Where the second word of a pair is read, the model knows whether the pair is alike: and of the other pair it knows nothing there.

    Chance is one half: with an equality that has nothing to do with it the answer is as often right as wrong.
    """
    lm = cut.open("equality_lm")
    grid = cut.locate.das(lm, EQUALITY, variable="left", positions=("x.last", "z.last"), layers=(0,), rank=4)
    assert grid.low is not None
    assert accuracy(grid, "DAS", "x.last", 0) >= 0.95
    assert accuracy(grid, "DAS", "z.last", 0) <= 0.6
    assert accuracy(grid, "random directions", "x.last", 0) <= 0.65
    by_name = {control.name: control for control in grid.controls}
    assert by_name["random directions"].trivial.high < 0.65 and by_name["no interchange"].trivial.value < 0.65
    assert "x.last" in by_name["random directions"].says, "the best in training"


@pytest.mark.slow
def test_trained_for_the_other_equality_it_is_right_by_chance() -> None:
    lm = cut.open("equality_lm")
    task, (address,) = find_task(EQUALITY, lm), places(lm, ("z.last",), (0,))[0]
    left, right = (Alignment(lm, examples(lm, task, variable, 5), [address]) for variable in ("left", "right"))
    generator = torch.Generator().manual_seed(0)
    learned = right.train(address, Turning(64, 4, generator=generator), 200, generator)
    assert right.right(address, learned, right.every.held_out).mean() >= 0.95
    assert left.right(address, learned, left.every.held_out).mean() <= 0.6


@pytest.mark.slow
def test_training_goes_on_where_it_was_interrupted(crossed: Crossed, on_crossed: tuple[Grid, Path]) -> None:
    lm, task, _ = crossed(True)
    grid, folder = on_crossed
    before = lm.forwards
    again = cut.locate.das(lm, task, variable="a", layers=(0,), rank=2, to=str(folder))
    assert np.array_equal(again.values, grid.values)
    assert lm.forwards - before < grid.provenance.forwards - 300, "what is there is not trained again"
    with pytest.raises(StorageError, match="another folder"):
        cut.locate.das(lm, task, variable="a", layers=(0,), rank=3, to=str(folder))


def test_what_was_trained_says_where_it_belongs_and_acts_there(crossed: Crossed, on_crossed: tuple[Grid, Path]) -> None:
    from cutaway.mediators.interchange import interchange

    lm, _, _ = crossed(True)
    basis = load(on_crossed[1] / "layers-0.output-last")
    at = basis.about["at"]
    source = lm.run("w1", read=[at])[at]  # a = 1, b = 0
    edited = lm.last(lm.run("w5", edits=[(at, interchange(source, basis))]).output)  # a = 2, b = 1
    assert lm.token_text(int(edited.argmax())).strip() == "two"


def test_examples_are_split_by_pair_and_seed(induction: tuple[LanguageModel, Task]) -> None:
    lm, task = induction
    one, same, other = (examples(lm, task, None, seed) for seed in (0, 0, 1))
    assert one == same and one != other
    assert len(one.swapped) == 2 * len(task) and one.n_training == len(task)
    texts = [
        {frozenset((s.base.text, s.source.text)) for s in half} for half in (one.swapped[: one.n_training], one.swapped[one.n_training :])
    ]
    assert not texts[0] & texts[1]


def test_shuffled_leaves_nothing_in_its_place() -> None:
    order = shuffled(7, torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(7)) and not (order == torch.arange(7)).any()


def test_bad_settings_are_refused(crossed: Crossed, induction: tuple[LanguageModel, Task]) -> None:
    lm, task, _ = crossed(True)
    with pytest.raises(InputError, match="layers from 0 to 1"):
        cut.locate.das(lm, task, layers=(2,))
    with pytest.raises(InputError, match="steps=0"):
        cut.locate.das(lm, task, steps=0)
    with pytest.raises(InputError, match="1 to 24"):
        cut.locate.das(lm, task, rank=25)
    with pytest.raises(UnknownNameError, match="variable"):
        cut.locate.das(lm, task, variable="c")
    with pytest.raises(InputError, match="no causal model"):
        cut.locate.das(*induction, variable="a")
    with pytest.raises(PromptError, match="two or more"):
        cut.locate.das(lm, task.with_pairs(task.pairs[:1]))


@pytest.mark.slow
def test_a_real_model_holds_a_names_gender_in_two_directions(smollm: LanguageModel) -> None:
    grid = cut.locate.das(smollm, "gendered_pronouns:n=64", variable="gender", positions=("name.last",), layers=(20,), rank=2, steps=60)
    assert accuracy(grid, "DAS", "name.last", 20) >= 0.85
    assert all(control.trivial.value <= 0.75 for control in grid.controls)
