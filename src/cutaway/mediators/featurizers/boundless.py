"""A rotation that learns how many directions it needs: a soft boundary behind the first of them, made sharp while it is trained.

Direction i (from 0) is interchanged by sigmoid((b - i - 1/2) / t): for b = 3 the first three are, as t goes to 0. Boundless distributed alignment
search: Wu, Geiger, Icard, Potts, Goodman 2023, arXiv 2305.08809.
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.mediators.featurizers.base import Learner
from cutaway.mediators.featurizers.rotation import drawn, orthonormal
from cutaway.mediators.featurizers.subspace import Subspace


@final
class Boundless(Learner):
    """At most `most` directions, half of them at first. price: what all of them cost in the loss.

    The temperature t falls from a quarter of `most` to 0.1, by the same factor at every step.
    """

    anneals = True

    def __init__(self, width: int, most: int, *, price: float, generator: torch.Generator) -> None:
        self.weight = drawn(width, most, generator).requires_grad_()
        self.moved = torch.tensor(0.0, requires_grad=True)
        self.parameters = (self.weight, self.moved)
        self._most, self._price = most, price

    @property
    def boundary(self) -> Tensor:
        """The number of directions, not whole and differentiable."""
        return (0.5 + self.moved).clamp(0, 1) * self._most

    def interchanged(self, base: Float[Tensor, "*rest width"], source: Float[Tensor, "*rest width"], done: float) -> Tensor:
        directions = orthonormal(self.weight)
        warm, cold = self._most / 4, 0.1
        places = torch.arange(self._most) + 0.5
        open_ = torch.sigmoid((self.boundary - places) / (warm * (cold / warm) ** done)).to(base.device)
        directions = directions.to(base.device)
        return base + ((source - base).to(directions.dtype) @ directions * open_ @ directions.mT).to(base.dtype)

    def penalty(self) -> Tensor:
        return self._price * self.boundary / self._most

    def learned(self) -> Subspace:
        kept = round(float(self.boundary.detach()))
        return Subspace(directions=orthonormal(self.weight.detach())[:, :kept])


boundless = Boundless
