"""Bases in which some parts have the sources' values at one token, and gates that are trained to say which: what DCM and filter heads share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from cutaway.address import Address
from cutaway.engine.place import HEAD_AXES, Intervention
from cutaway.engine.resuming import Suffix
from cutaway.errors import InputError, NumericError
from cutaway.mediators.gate import Clamp, gate
from cutaway.models.language import LanguageModel
from cutaway.models.prompt import Prompt
from cutaway.progress import progress

_BATCH = 32
_START = 0.5
"""Where gates begin: half of each value, so that what can stand in for another is not passed over."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits (rows, vocab) and which rows they are, to what is minimised."""


@final
class Gated:
    """The bases run on from one token, with the values that the sources have there in the places that gates say.

    `parts`: what has a gate of its own, every head of a point with heads and each other point, in the order of `at`.
    """

    def __init__(self, lm: LanguageModel, bases: Sequence[Prompt], sources: Sequence[Prompt], at: Sequence[Address]) -> None:
        self._suffix = Suffix(lm, list(bases), at=at)
        there = lm.cache(list(sources), at, batch=_BATCH)
        self._values = {address: there.stacked(address) for address in at}
        self._spans: dict[Address, tuple[int, int, bool]] = {}
        parts: list[Address] = []
        for address in at:
            heads = bool({*HEAD_AXES} & {*lm.site(address.point).dims})
            found = [address.at(head=head) for head in range(lm.sizes.n_heads)] if heads else [address]
            self._spans[address] = len(parts), len(parts) + len(found), heads
            parts += found
        self.parts = tuple(parts)

    def logits(self, gates: Tensor, rows: Tensor) -> Tensor:
        """Logits (rows, vocab) with gates (part,): 1 keeps the base's value, 0 takes the source's."""
        edits: list[Intervention] = []
        for address, (start, stop, heads) in self._spans.items():
            mine = gates[start:stop, None] if heads else gates[start:stop]
            edits.append((address, gate(mine, self._values[address][rows])))
        return self._suffix(edits, rows)

    def taking(self, which: np.ndarray, rows: Tensor) -> Tensor:
        """Logits (rows, vocab), where the parts in `which` (part,) are taken from the sources whole and the others not at all."""
        gates = 1 - torch.from_numpy(which.astype(np.float32))
        with torch.no_grad():
            return torch.cat([self.logits(gates, part) for part in rows.split(_BATCH)]).cpu()

    def train(self, loss: Loss, rows: Tensor, *, penalty: float, rate: float, steps: int, seed: int) -> np.ndarray:
        """Gates (part,) after `steps` of Adam on `loss` + penalty x the number of parts that are taken. Raises InputError, NumericError."""
        if steps < 1:
            raise InputError(f"steps={steps}.", works="one step or more")
        generator, gates = torch.Generator().manual_seed(seed), Clamp((len(self.parts),), _START)
        optimizer = torch.optim.Adam([gates.parameters], lr=rate)
        order: list[Tensor] = []
        with progress("gates", steps) as done:
            for step in range(steps):
                order = order or list(rows[torch.randperm(len(rows), generator=generator)].split(_BATCH))
                batch = order.pop()
                with torch.enable_grad():
                    value = loss(self.logits(gates.draw(), batch), batch) + penalty * gates.replaced()
                    # not backward(), which would leave gradients on the model's weights
                    (gates.parameters.grad,) = torch.autograd.grad(value, [gates.parameters])
                if not torch.isfinite(value):
                    raise NumericError("Train gates.", f"a loss of {float(value)} at step {step}", "a model in float32 (dtype='float32')")
                optimizer.step()
                gates.settle()
                done(1)
        return gates.values().detach().numpy().copy()


def random_sets(among: np.ndarray, size: int, draws: int, seed: int) -> list[np.ndarray]:
    """Sets of `size` of the parts in `among` (part,), or of all of these where they are fewer, as masks (part,)."""
    generator, numbers = np.random.default_rng(seed), np.flatnonzero(among)
    chosen = (generator.permutation(numbers)[:size] for _ in range(draws))
    return [np.isin(np.arange(len(among)), one) for one in chosen]
