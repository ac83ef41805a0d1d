"""The models a server offers, each known without its weights: who they are, what they would take, and what a work on them would."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, final

import torch

from cutaway.engine import stopping, wire
from cutaway.engine.graph import Graph
from cutaway.engine.model import Model
from cutaway.engine.node import Limits
from cutaway.errors import InputError, UnknownNameError
from cutaway.models.language import LanguageModel
from cutaway.models.weightless import described, weightless
from cutaway.remote.work import Work
from cutaway.service.execution import Execution
from cutaway.service.measured import Measured

PATIENCE = 60.0
"""Seconds that the admission of a work may take; others on the same model wait for it."""
_REMEMBERED = 4_096
"""Works of a model whose measure is kept: those that wait, and those that a class sends many times."""


@final
class Offer:
    """One model. Raises WeightsError, UnknownNameError and others where there is no such model."""

    def __init__(self, name: str, dtype: str, limits: Limits) -> None:
        self.name, self._limits = name, limits
        self._size = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
        self._lock = threading.Lock()
        self._measured: dict[str, Measured] = {}
        data: dict[str, Any] = described(name, dtype=dtype)
        self.revision: str = data["revision"]
        self.description = wire.packed(data)

    @cached_property
    def model(self) -> Model:
        """The model without weights."""
        model = weightless(wire.unpacked(self.description, 2**40))
        stopping.watch(model.module)
        return model

    @cached_property
    def bytes(self) -> int:
        """What its weights will take."""
        return sum(t.numel() for t in (*self.model.module.parameters(), *self.model.module.buffers())) * self._size

    @property
    def context(self) -> int | None:
        """Tokens it can take; None for what is no language model."""
        return self.model.sizes.context if isinstance(self.model, LanguageModel) else None

    def measure(self, work: Work) -> Measured:
        """Raises GraphError, InputError, PromptError, ...: what the run of the work would raise before it computes."""
        if work.kind != "graph":
            return Measured()
        Graph.from_bytes(work.graph, self._limits)  # the hash of a graph without bounds would take as long as it likes
        known = self.known(work.hash)
        if known is not None:
            return known
        with self._lock:
            known = self.known(work.hash)  # who waited may have waited for an equal one
            if known is not None:
                return known
            until = time.monotonic() + PATIENCE

            def check() -> None:
                if time.monotonic() > until:
                    raise InputError(
                        "Admit a graph.", f"more than {PATIENCE:g} seconds on shapes alone", "a shorter body, or fewer new tokens"
                    )

            with stopping.asking(check):
                measured = Execution(self.model, self._limits).measure(work)
        self.remember(work.hash, measured)
        return measured

    def known(self, hash: str) -> Measured | None:
        """What a work of that hash was measured to take, where that is remembered."""
        return self._measured.get(hash)

    def remember(self, hash: str, measured: Measured) -> None:
        """Know it from now on."""
        self._measured[hash] = measured
        for oldest in list(self._measured)[:-_REMEMBERED]:
            self._measured.pop(oldest, None)


@final
class Catalogue:
    """The models that are offered, by name. tokens: rows x width of the largest forward that is taken on."""

    def __init__(self, names: Iterable[str], *, dtype: str = "float32", limits: Limits | None = None, tokens: int = 2**31) -> None:
        self._tokens = tokens
        self._offers = {name: Offer(name, dtype, limits or Limits()) for name in names}
        if not self._offers:
            raise InputError("Serve models.", "no names", "at least one, such as smollm2-135m")

    def __iter__(self) -> Iterator[str]:
        return iter(self._offers)

    def __contains__(self, name: str) -> bool:
        return name in self._offers

    def __getitem__(self, name: str) -> Offer:
        if name not in self._offers:
            raise UnknownNameError("model of this server", name[:80], self._offers)
        return self._offers[name]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of the weights of each model."""
        return {name: offer.bytes for name, offer in self._offers.items()}

    def admit(self, work: Work) -> Measured:
        """What a work would take. Raises UnknownNameError, InputError where it is too much, and what its run would raise before it computes."""
        measured = self[work.model].measure(work)
        measured.refuse(self._tokens)
        return measured
