"""A rotated basis: orthonormal directions, drawn at random or learned so that interchanging along them does what it should.

Distributed alignment search: Geiger, Wu, Potts, Icard, Goodman 2024, arXiv 2303.02536.
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import InputError
from cutaway.mediators.featurizers.base import Learner
from cutaway.mediators.featurizers.subspace import Subspace

_SIZE = 0.02


def rotation(width: int, n: int, *, seed: int = 0) -> Subspace:
    """n random orthonormal directions. Raises InputError unless 1 <= n <= width."""
    return Subspace(directions=orthonormal(drawn(width, n, torch.Generator().manual_seed(seed))))


@final
class Turning(Learner):
    """n orthonormal directions that are being learned: the orthogonal factor of a free matrix, which starts random."""

    def __init__(self, width: int, n: int, *, generator: torch.Generator) -> None:
        self.weight = drawn(width, n, generator).requires_grad_()
        self.parameters = (self.weight,)

    def interchanged(self, base: Float[Tensor, "*rest width"], source: Float[Tensor, "*rest width"], done: float) -> Tensor:
        directions = orthonormal(self.weight).to(base.device)
        return base + ((source - base).to(directions.dtype) @ directions @ directions.mT).to(base.dtype)

    def learned(self) -> Subspace:
        return Subspace(directions=orthonormal(self.weight.detach()))


def drawn(width: int, n: int, generator: torch.Generator) -> Float[Tensor, "width n"]:
    """A random matrix. Raises InputError unless 1 <= n <= width.

    Only its orthogonal factor matters, and so its size only for training: the first steps of an optimizer with rate 1e-2 turn these entries far.
    """
    if not 1 <= n <= width:
        raise InputError(f"{n} orthonormal directions of width {width}.", works=f"1 to {width}")
    return _SIZE * torch.randn(width, n, generator=generator)


def orthonormal(weight: Float[Tensor, "width n"]) -> Float[Tensor, "width n"]:
    """Its orthogonal factor: the first k columns span what the first k columns of `weight` do. Differentiable."""
    return torch.linalg.qr(weight).Q
