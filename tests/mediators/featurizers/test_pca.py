"""Principal components of data whose components are known."""

from __future__ import annotations

import pytest
import torch

from cutaway.errors import InputError
from cutaway.mediators.featurizers.pca import pca
from cutaway.mediators.featurizers.rotation import rotation


def test_known_components_in_order() -> None:
    axes = rotation(6, 6, seed=2).directions
    spread = torch.tensor([5.0, 3.0, 1.0, 0.0, 0.0, 0.0])
    inside = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0)) * spread
    basis = pca(inside @ axes.T + 7.0)
    assert basis.n == 3, "as many as the data vary in"
    cosines = (basis.directions.T @ axes[:, :3]).abs()
    assert (cosines.diagonal() > 0.999).all()
    torch.testing.assert_close(torch.tensor(basis.about["variance"]), spread[:3] ** 2, rtol=0.06, atol=0)
    assert basis.encode(inside @ axes.T + 7.0).mean(0).abs().max() < 1e-3
    assert (basis.directions.gather(0, basis.directions.abs().argmax(0)[None]) > 0).all(), "signs are settled"


def test_about_the_origin_the_first_is_the_mean() -> None:
    x = torch.randn(500, 5, generator=torch.Generator().manual_seed(0)) * 0.1 + torch.tensor([0.0, 0.0, 3.0, 0.0, 0.0])
    basis = pca(x, 1, centred=False)
    assert basis.mean is None
    assert basis.directions[:, 0].tolist() == pytest.approx([0, 0, 1, 0, 0], abs=0.01)


def test_more_than_there_are() -> None:
    with pytest.raises(InputError, match="n=1 to n=2"):
        pca(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), 3)
    with pytest.raises(InputError, match="0 directions"):
        pca(torch.ones(3, 5))
