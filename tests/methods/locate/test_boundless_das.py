"""The number of directions is found, where it is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import cutaway as cut
from cutaway.mediators.featurizers.boundless import Boundless
from cutaway.methods.locate._alignment import Alignment, examples, places
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task

Crossed = Callable[[bool], tuple[LanguageModel, Task, torch.Tensor]]


@pytest.mark.slow
def test_it_finds_the_dimension(crossed: Crossed) -> None:
    """Differences of a one-hot digit of three values span a plane of the 24 dimensions."""
    lm, task, _ = crossed(True)
    (address,) = places(lm, ("last",), (0,))[0]
    aligned, generator = Alignment(lm, examples(lm, task, "a", 0), [address]), torch.Generator().manual_seed(0)
    learned = aligned.train(address, Boundless(24, 24, price=2.0, generator=generator), 400, generator)
    assert learned.n == 2
    assert aligned.right(address, learned, aligned.every.held_out).mean() >= 0.95
    assert learned.about["steps taken"] == 400, "what anneals is not stopped early"


def test_a_short_training_keeps_too_many_and_says_so(crossed: Crossed) -> None:
    lm, task, _ = crossed(True)
    grid = cut.locate.boundless_das(lm, task, variable="a", layers=(0,), steps=10)
    assert grid.cells is not None
    assert 8 <= int(grid.cells[0][0][0].partition("/")[2]) <= 16, "of 24, about half at first"
    assert grid.cells[2][0][0].endswith(grid.cells[0][0][0].partition("/")[2]), "the rival has as many"
