"""How a denoiser's predictions under several conditions become the one that a sampler follows.

unguided          p(c)
classifier-free   p(∅) + g·(p(c) − p(∅))        Ho & Salimans 2022, arXiv:2207.12598
weighted          Σ w·p(c)                      for instance a style's prediction with a weight of its own
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from cutaway.errors import InputError

Conditions = Mapping[str, Any]
"""What the denoiser takes by keyword besides latent and timestep: tensors of one row, or of one row per sample, or mappings of such."""


@final
@dataclass(frozen=True)
class Guidance:
    """branches: name -> conditions. compose: takes the branches' predictions by name, and the number of the step, to one prediction."""

    branches: Mapping[str, Conditions]
    compose: Callable[[Mapping[str, Tensor], int], Tensor]

    def __post_init__(self) -> None:
        if len({frozenset(conditions) for conditions in self.branches.values()}) != 1:
            found = "; ".join(f"{name}: {', '.join(sorted(c)) or 'none'}" for name, c in self.branches.items()) or "no branches"
            raise InputError("Guide a sampler by these branches.", found, "one branch or more, all with the same conditions by name")


def unguided(conditions: Conditions) -> Guidance:
    """One branch, `cond`, followed as it is."""
    return Guidance({"cond": conditions}, lambda predictions, step: predictions["cond"])


def classifier_free(conditions: Conditions, unconditional: Conditions, scale: float) -> Guidance:
    """Branches `uncond` and `cond`; scale: 1 follows the condition as it is, more exaggerates it. A negative prompt is another `unconditional`."""

    def compose(predictions: Mapping[str, Tensor], step: int) -> Tensor:
        without = predictions["uncond"]
        return without + scale * (predictions["cond"] - without)

    return Guidance({"uncond": unconditional, "cond": conditions}, compose)


def weighted(branches: Mapping[str, tuple[float, Conditions]]) -> Guidance:
    """The sum of predictions, each with its weight."""

    def compose(predictions: Mapping[str, Tensor], step: int) -> Tensor:
        terms = [weight * predictions[name] for name, (weight, _) in branches.items()]
        return sum(terms[1:], terms[0])

    return Guidance({name: conditions for name, (_, conditions) in branches.items()}, compose)
