"""Edits in a basis, wherever edits are made."""

from __future__ import annotations

import torch

from cutaway.mediators.ablate import ablate
from cutaway.mediators.add import add
from cutaway.mediators.featurizers.pca import pca
from cutaway.mediators.featurizers.rotation import rotation
from cutaway.mediators.within import within

X = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))


def test_ablating_a_subspace_takes_it_out_and_nothing_else() -> None:
    basis = rotation(6, 2)
    left = within(basis, ablate())(X)
    assert basis.encode(left).abs().max() < 1e-6
    torch.testing.assert_close(left, X - X @ basis.directions @ basis.directions.T)


def test_ablating_components_leaves_their_mean() -> None:
    basis = pca(X)
    torch.testing.assert_close(within(basis, ablate())(X), X.mean(0).expand(9, 6), rtol=0, atol=1e-5)


def test_adding_along_a_direction() -> None:
    basis = rotation(6, 1)
    torch.testing.assert_close(within(basis, add(torch.tensor([2.0])))(X), X + 2 * basis.directions[:, 0])
