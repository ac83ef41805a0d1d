"""Gates on features: half of the way at first, all or nothing in the end."""

from __future__ import annotations

import torch

from cutaway.mediators.featurizers.identity import Identity
from cutaway.mediators.featurizers.mask import Mask
from cutaway.mediators.featurizers.pca import pca
from cutaway.mediators.featurizers.subspace import Subspace

BASE, SOURCE = torch.randn(2, 30, 6, generator=torch.Generator().manual_seed(1)).unbind(0)


def test_half_of_the_way_at_first() -> None:
    learner = Mask(Identity(size=6), price=0.6)
    torch.testing.assert_close(learner.interchanged(BASE, SOURCE, 0.0), (BASE + SOURCE) / 2)
    assert float(torch.as_tensor(learner.penalty()).detach()) == torch.tensor(0.3)


def test_in_the_end_it_is_the_interchange_of_what_is_learned() -> None:
    basis = pca(BASE)
    learner = Mask(basis, price=0.1)
    with torch.no_grad():
        learner.gates.parameters.copy_(torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, 1.0]))
    learned = learner.learned()
    assert isinstance(learned, Subspace) and torch.equal(learned.directions, basis.directions[:, [1, 4]])
    torch.testing.assert_close(learner.interchanged(BASE, SOURCE, 1.0), learned.replaced(BASE, learned.encode(SOURCE)))


def test_dearer_features_are_not_taken() -> None:
    """One step down the penalty alone shuts out every feature."""
    learner = Mask(Identity(size=6), price=1.0)
    (slope,) = torch.autograd.grad(torch.as_tensor(learner.penalty()), learner.parameters)
    assert (slope < 0).all(), "gates rise: the base's features are kept"
