"""Directions: what is orthogonal to them stays, and slanted ones are changed by the smallest change."""

from __future__ import annotations

import pytest
import torch

from cutaway.errors import InputError
from cutaway.mediators.featurizers.subspace import Subspace

SLANTED = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])


def test_features_are_products_with_the_directions_about_the_mean() -> None:
    basis = Subspace(directions=SLANTED, mean=torch.tensor([1.0, 0.0, 5.0]))
    assert basis.encode(torch.tensor([2.0, 3.0, 9.0])).tolist() == [1.0, 4.0]


def test_a_change_is_the_smallest_that_does_it() -> None:
    """By hand: features x and x + y of (x, y, z). To raise x alone by 1, x goes up by 1 and y down by 1."""
    x = torch.tensor([2.0, 3.0, 9.0])
    changed = Subspace(directions=SLANTED).replaced(x, torch.tensor([3.0, 5.0]))
    torch.testing.assert_close(changed, torch.tensor([3.0, 2.0, 9.0]))


def test_directions_that_follow_from_one_another_are_refused() -> None:
    with pytest.raises(InputError, match="independent"):
        Subspace(directions=torch.ones(3, 2))
    with pytest.raises(InputError, match="finite"):
        Subspace(directions=torch.full((3, 1), torch.nan))
