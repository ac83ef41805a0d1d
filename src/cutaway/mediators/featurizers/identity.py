"""The activation itself, all of it: what the other bases are held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.mediators.featurizers.base import Featurizer, chosen
from cutaway.mediators.featurizers.neurons import Neurons


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Identity(Featurizer):
    """Every coordinate of activations of length `size` is a feature; there is no error."""

    kind: ClassVar[str] = "identity"
    size: int

    @property
    def width(self) -> int:
        return self.size

    @property
    def n(self) -> int:
        return self.size

    def encode(self, x: Float[Tensor, "*rest width"]) -> Float[Tensor, "*rest width"]:
        return x

    def decode(self, features: Float[Tensor, "*rest n"], error: Float[Tensor, "*rest width"] | None = None) -> Float[Tensor, "*rest width"]:
        return features if error is None else features + error

    def replaced(self, x: Float[Tensor, "*rest width"], features: Float[Tensor, "*rest n"]) -> Float[Tensor, "*rest width"]:
        return features.to(x.dtype)

    def select(self, which: Sequence[int]) -> Neurons:
        return Neurons(size=self.size, which=torch.tensor(chosen(which, self.size), dtype=torch.long), about=self.about)


identity = Identity
