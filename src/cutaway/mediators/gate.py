"""Let through a part of what is there, and put something else in the place of the rest; with gates that are learned.

Sign, everywhere: 1 keeps the value of the run itself, 0 puts the other in its place (the counterfactual's, a mean, nothing). A method that looks
for what to replace asks few gates to be off 1 (`replaced`); one that looks for what is enough asks few to be off 0 (`kept`).

    Clamp         the parameter itself, cut to [0, 1] after every step                  Davies et al. 2023 (DCM), arXiv 2307.03637
    Sigmoid       sigmoid(parameter / temperature); the temperature falls while training     Csordás et al. 2021, arXiv 2010.02066
    HardConcrete  a stretched, cut concrete variable, exactly 0 or 1 with some chance   Louizos et al. 2018, arXiv 1712.01312
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.engine.place import Edit
from cutaway.errors import InputError


def gate(open_: Float[Tensor, "..."] | float, other: Float[Tensor, "..."]) -> Edit:
    """open_ * value + (1 - open_) * other: 1 keeps what is there, 0 replaces it. Both have the shape of the place or broadcast to it."""

    def gated(value: Tensor) -> Tensor:
        there = other.to(value.device, value.dtype)
        mixed: Tensor = there + (value - there) * (open_.to(value.device, value.dtype) if isinstance(open_, Tensor) else open_)
        return mixed.expand_as(value)

    return gated


class Gates(ABC):
    """Numbers in [0, 1] of any shape, each with one parameter, that an optimizer learns. `parameters` is what it is given."""

    parameters: Tensor

    @abstractmethod
    def draw(self, generator: torch.Generator | None = None) -> Float[Tensor, "..."]:
        """Gates to train with; random in some parametrisations, and then a generator is needed."""

    @abstractmethod
    def values(self) -> Float[Tensor, "..."]:
        """Gates without chance: what they come to in the end, before rounding."""

    @abstractmethod
    def worth(self) -> Float[Tensor, "..."]:
        """In [0, 1]: what each is worth keeping, a ranking in which gates at 0 or 1 still differ where their parameters do."""

    @abstractmethod
    def kept(self) -> Float[Tensor, ""]:
        """How many gates are off 0: a penalty that asks for few parts to be kept."""

    @abstractmethod
    def replaced(self) -> Float[Tensor, ""]:
        """How many gates are off 1: a penalty that asks for few parts to be replaced."""

    def settle(self) -> None:  # noqa: B027  # most parametrisations need nothing
        """Called after each step of the optimizer."""

    @final
    def rounded(self) -> Bool[Tensor, "..."]:
        """Which gates keep: those above one half."""
        return self.values().detach() > 0.5


def _started(shape: tuple[int, ...], at: float) -> Tensor:
    return torch.full(shape, at, requires_grad=True)


def _inside(at: float) -> float:
    if not 0 < at < 1:
        raise InputError(f"Gates that start at {at}.", works="a number between 0 and 1, both excluded")
    return at


@final
class Clamp(Gates):
    """The parameter is the gate. A gate at 0 or 1 has a gradient, and can come back."""

    def __init__(self, shape: tuple[int, ...], start: float = 1.0) -> None:
        self.parameters = _started(shape, start)

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        return self.parameters

    def values(self) -> Tensor:
        return self.parameters

    def worth(self) -> Tensor:
        return self.parameters

    def kept(self) -> Tensor:
        return self.parameters.sum()

    def replaced(self) -> Tensor:
        return (1 - self.parameters).sum()

    def settle(self) -> None:
        with torch.no_grad():
            self.parameters.clamp_(0, 1)


@final
class Sigmoid(Gates):
    """sigmoid(parameter / temperature); lower `temperature` while training, and gates go to 0 and 1."""

    def __init__(self, shape: tuple[int, ...], start: float = 0.5, temperature: float = 1.0) -> None:
        self.temperature = temperature
        self.parameters = _started(shape, temperature * math.log(_inside(start) / (1 - start)))

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        return self.values()

    def values(self) -> Tensor:
        return torch.sigmoid(self.parameters / self.temperature)

    def worth(self) -> Tensor:
        return self.values()

    def kept(self) -> Tensor:
        return self.values().sum()

    def replaced(self) -> Tensor:
        return (1 - self.values()).sum()


@final
class HardConcrete(Gates):
    """clamp(sigmoid((logit(u) + parameter) / temperature) * (high - low) + low, 0, 1), u uniform, low < 0 and high > 1."""

    def __init__(self, shape: tuple[int, ...], start: float = 0.9, temperature: float = 2 / 3, reach: float = 0.1) -> None:
        self.temperature, self.low, self.high = temperature, -reach, 1 + reach
        self.parameters = _started(shape, math.log(_inside(start) / (1 - start)))

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        uniform = torch.rand(self.parameters.shape, generator=generator).clamp(1e-6, 1 - 1e-6).to(self.parameters)
        return self._stretched(torch.sigmoid((uniform.logit() + self.parameters) / self.temperature))

    def values(self) -> Tensor:
        return self._stretched(self.worth())

    def worth(self) -> Tensor:
        return torch.sigmoid(self.parameters)

    def kept(self) -> Tensor:
        return torch.sigmoid(self.parameters - self.temperature * math.log(-self.low / self.high)).sum()

    def replaced(self) -> Tensor:
        return torch.sigmoid(self.temperature * math.log(-self.low / self.high) * -1 - self.parameters).sum()

    def _stretched(self, inner: Tensor) -> Tensor:
        return (inner * (self.high - self.low) + self.low).clamp(0, 1)
