"""Coordinates: exactly those named change."""

from __future__ import annotations

import pytest
import torch

from cutaway.errors import InputError
from cutaway.mediators.featurizers.neurons import Neurons


def test_exactly_the_named_ones() -> None:
    x = torch.arange(6.0)
    basis = Neurons(size=6, which=torch.tensor([4, 1]))
    assert basis.encode(x).tolist() == [4.0, 1.0]
    assert basis.decode(basis.encode(x)).tolist() == [0.0, 1.0, 0.0, 0.0, 4.0, 0.0]
    assert basis.replaced(x, torch.tensor([-1.0, -2.0])).tolist() == [0.0, -2.0, 2.0, 3.0, -1.0, 5.0]


@pytest.mark.parametrize("which", [[6], [1, 1], [-1]])
def test_one_that_is_not_there(which: list[int]) -> None:
    with pytest.raises(InputError, match="0 to 5"):
        Neurons(size=6, which=torch.tensor(which))
