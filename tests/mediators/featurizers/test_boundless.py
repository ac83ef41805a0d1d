"""The boundary opens as many directions as it stands behind, softly at first; that training finds the number is in tests/methods/locate."""

from __future__ import annotations

import torch

from cutaway.mediators.featurizers.boundless import Boundless


def test_in_the_end_it_is_the_interchange_of_what_is_learned() -> None:
    learner = Boundless(6, 6, price=0.5, generator=torch.Generator().manual_seed(0))
    base, source = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)).unbind(0)
    basis = learner.learned()
    assert basis.n == 3 and float(learner.boundary.detach()) == 3.0
    hard = basis.replaced(base, basis.encode(source))
    soft, cold = learner.interchanged(base, source, 0.0), learner.interchanged(base, source, 1.0)
    assert (cold - hard).abs().max() < 0.05 < (soft - hard).abs().max()


def test_directions_cost_their_part_of_the_price() -> None:
    learner = Boundless(6, 6, price=0.5, generator=torch.Generator().manual_seed(0))
    penalty = learner.penalty()
    assert float(penalty.detach()) == 0.25
    assert torch.autograd.grad(penalty, learner.moved)[0] > 0
