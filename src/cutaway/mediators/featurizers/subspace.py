"""Directions of the activation space: what a linear reader of some kind sees of it.

Features are `(x - mean) @ directions`. They are changed by the smallest change of x that does it, so that all that is orthogonal to the directions
is kept. Principal components, rotations and probes are subspaces; they differ in where the directions come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import InputError
from cutaway.mediators.featurizers.base import Featurizer, chosen

_ORTHONORMAL = 1e-4


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Subspace(Featurizer):
    """directions (width, n), linearly independent; mean (width,): the activations whose features are 0, the origin where it is None."""

    kind: ClassVar[str] = "subspace"
    directions: Float[Tensor, "width n"]
    mean: Float[Tensor, "width"] | None = None
    _back: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        d = self.directions
        if d.ndim != 2 or not d.is_floating_point() or not bool(torch.isfinite(d).all()):
            raise InputError(f"Directions of shape {tuple(d.shape)}, {d.dtype}.", works="finite numbers (width, n)")
        gram = d.mT @ d
        if torch.allclose(gram, torch.eye(len(gram), dtype=d.dtype, device=d.device), atol=_ORTHONORMAL):
            back = d.mT
        elif int(torch.linalg.matrix_rank(d)) < d.shape[1]:
            raise InputError(f"{d.shape[1]} directions of width {d.shape[0]}.", "some that follow from the others", "independent ones")
        else:
            back = torch.linalg.pinv(d)
        object.__setattr__(self, "_back", back)
        object.__setattr__(self, "directions", d.contiguous())  # as it is when read from a file: products round the same

    @property
    def width(self) -> int:
        return self.directions.shape[0]

    @property
    def n(self) -> int:
        return self.directions.shape[1]

    def encode(self, x: Float[Tensor, "*rest width"]) -> Float[Tensor, "*rest n"]:
        x = x.to(self.directions.dtype)
        return (x if self.mean is None else x - self.mean.to(x.device)) @ self.directions.to(x.device)

    def decode(self, features: Float[Tensor, "*rest n"], error: Float[Tensor, "*rest width"] | None = None) -> Float[Tensor, "*rest width"]:
        out = features.to(self.directions.dtype) @ self._back.to(features.device)
        out = out if self.mean is None else out + self.mean.to(out.device)
        return out if error is None else out + error

    def select(self, which: Sequence[int]) -> Subspace:
        """As of all features, with some directions only: of directions that are not orthogonal, the others' features may change with these."""
        return Subspace(directions=self.directions[:, chosen(which, self.n)], mean=self.mean, about=self.about)


subspace = Subspace
