"""Coordinates of the activation as they are: the neurons of a layer, or some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.mediators.featurizers.base import Featurizer, chosen


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Neurons(Featurizer):
    """which (n,): numbers of the coordinates, of activations of length `size`. Raises InputError for one that is not there."""

    kind: ClassVar[str] = "neurons"
    size: int
    which: Int[Tensor, "n"]

    def __post_init__(self) -> None:
        chosen(self.which.tolist(), self.size)

    @property
    def width(self) -> int:
        return self.size

    @property
    def n(self) -> int:
        return len(self.which)

    def encode(self, x: Float[Tensor, "*rest width"]) -> Float[Tensor, "*rest n"]:
        return x.index_select(-1, self.which.to(x.device))

    def decode(self, features: Float[Tensor, "*rest n"], error: Float[Tensor, "*rest width"] | None = None) -> Float[Tensor, "*rest width"]:
        out = features.new_zeros((*features.shape[:-1], self.size)).index_copy(-1, self.which.to(features.device), features)
        return out if error is None else out + error

    def replaced(self, x: Float[Tensor, "*rest width"], features: Float[Tensor, "*rest n"]) -> Float[Tensor, "*rest width"]:
        return x.index_copy(-1, self.which.to(x.device), features.to(x.dtype))

    def select(self, which: Sequence[int]) -> Neurons:
        return Neurons(size=self.size, which=self.which[torch.tensor(chosen(which, self.n), dtype=torch.long)], about=self.about)


neurons = Neurons
