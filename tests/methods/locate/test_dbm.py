"""Masks against planted neurons, and where the variable lies across the neurons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import cutaway as cut
from cutaway.errors import InputError, StorageError
from cutaway.mediators.featurizers.base import load
from cutaway.mediators.featurizers.mask import Mask
from cutaway.mediators.featurizers.neurons import Neurons
from cutaway.mediators.featurizers.subspace import Subspace
from cutaway.methods.locate._alignment import Alignment, examples, places
from cutaway.methods.locate.dbm import PRICE
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task

Crossed = Callable[[bool], tuple[LanguageModel, Task, torch.Tensor]]


def test_it_recovers_the_planted_neurons(crossed: Crossed, tmp_path: Path) -> None:
    lm, task, _ = crossed(False)
    grid = cut.locate.dbm(lm, task, variable="a", layers=(0,), steps=100, to=str(tmp_path))
    assert grid.values[0, 0, 0] == 1
    found = load(tmp_path / "layers-0.output-last")
    assert isinstance(found, Neurons) and found.which.tolist() == [0, 1, 2]
    random, _, nothing = grid.controls
    assert random.trivial.value < 0.5 and nothing.trivial.high < 0.6


@pytest.mark.slow
def test_a_mask_cannot_turn_its_basis_but_takes_a_given_one(crossed: Crossed, tmp_path: Path) -> None:
    """A rotated digit lies across the neurons; in the basis that it was rotated to, its features are the first three again."""
    lm, task, axes = crossed(True)
    (address,) = places(lm, ("last",), (0,))[0]
    aligned, generator = Alignment(lm, examples(lm, task, "a", 0), [address]), torch.Generator().manual_seed(0)
    across = aligned.train(address, Mask(Neurons(size=24, which=torch.arange(24)), price=PRICE), 100, generator)
    assert aligned.right(address, across, aligned.every.held_out).mean() < 0.85
    path = Subspace(directions=axes).save(tmp_path / "axes")
    along = cut.locate.dbm(lm, task, variable="a", layers=(0,), basis=str(path), steps=100)
    assert along.values[0, 0, 0] == 1
    assert along.cells is not None and along.cells[0][0][0] == "1.00/3"


def test_a_basis_that_does_not_fit_is_refused(crossed: Crossed, tmp_path: Path) -> None:
    lm, task, _ = crossed(True)
    with pytest.raises(StorageError, match="nowhere"):
        cut.locate.dbm(lm, task, basis="nowhere")
    path = Neurons(size=5, which=torch.arange(5)).save(tmp_path / "small")
    with pytest.raises(InputError, match="length 5"):
        cut.locate.dbm(lm, task, basis=str(path), steps=100)
