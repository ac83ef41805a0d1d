"""The whole activation: replaced by the features bit for bit."""

from __future__ import annotations

import torch

from cutaway.mediators.featurizers.identity import Identity
from cutaway.mediators.featurizers.neurons import Neurons


def test_it_is_the_activation() -> None:
    x, other = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    basis = Identity(size=4)
    assert basis.n == basis.width == 4
    assert torch.equal(basis.encode(x), x) and torch.equal(basis.replaced(x, other), other) and not basis.error(x).any()
    some = basis.select([2])
    assert isinstance(some, Neurons) and torch.equal(some.encode(x), x[:, 2:3])
