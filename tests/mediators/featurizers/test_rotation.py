"""Random and learned rotations: orthonormal, seeded, and able to find a planted plane."""

from __future__ import annotations

import pytest
import torch

from cutaway.errors import InputError
from cutaway.mediators.featurizers.rotation import Turning, rotation


def test_orthonormal_and_seeded() -> None:
    basis = rotation(7, 3, seed=1)
    torch.testing.assert_close(basis.directions.T @ basis.directions, torch.eye(3))
    assert torch.equal(basis.directions, rotation(7, 3, seed=1).directions)
    assert not torch.equal(basis.directions, rotation(7, 3, seed=2).directions)
    with pytest.raises(InputError, match="1 to 7"):
        rotation(7, 8)


def test_the_interchange_while_training_is_that_of_what_is_learned() -> None:
    learner = Turning(6, 2, generator=torch.Generator().manual_seed(0))
    base, source = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)).unbind(0)
    basis = learner.learned()
    torch.testing.assert_close(learner.interchanged(base, source, 0.5), basis.replaced(base, basis.encode(source)))


def test_it_learns_a_planted_plane() -> None:
    """To carry over what lies in a plane and nothing else, there is one plane only."""
    plane = rotation(8, 2, seed=5)
    learner = Turning(8, 2, generator=torch.Generator().manual_seed(0))
    base, source = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(1)).unbind(0)
    wanted = plane.replaced(base, plane.encode(source))
    optimizer = torch.optim.Adam(list(learner.parameters), lr=1e-2)
    for step in range(150):
        loss = (learner.interchanged(base, source, step / 150) - wanted).square().mean()
        (learner.weight.grad,) = torch.autograd.grad(loss, learner.parameters)
        optimizer.step()
    cosines = torch.linalg.svdvals(plane.directions.T @ learner.learned().directions)
    assert (cosines > 0.99).all(), "principal angles"
