"""Modules that are called on the tokens of all rows side by side, (batch x pos, ...): taps that know both axes, and views that show them.

The MLPs of OPT are such modules, and the routers of mixtures of experts. What a router returns is made of its logits (which experts run, and
their weights), so it is made anew when they are looked at or changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, final

import torch
from greenlet import greenlet
from torch import Tensor, nn

from cutaway.engine.site import ARGUMENT, FIRST, View, attach, tap, tapped
from cutaway.errors import EngineError

INPUT, OUTPUT, LOGITS = "tokens in", "tokens out", "expert logits"
"""The taps: a module's first argument, its output, and a router's logits. Their value is the tensor (batch x pos, ...) and the axes (batch, pos)."""

Folded = tuple[Tensor, tuple[int, int]]


def _read(raw: Folded) -> Tensor:
    return raw[0].unflatten(0, raw[1])


def _write_shared(raw: Folded, new: Tensor) -> Folded:
    raw[0].copy_(new.flatten(0, 1))
    return raw


def unfolded(sizes: Any) -> View:
    """A tap's tensor as (batch, pos, ...)."""
    return View(_read, lambda raw, new: (new.flatten(0, 1), raw[1]))


def unfolded_shared(sizes: Any) -> View:
    """The same, written in place because others hold the same tensor."""
    return View(_read, _write_shared)


_BATCH: ContextVar[tuple[int, int]] = ContextVar("rows and positions of the forward that was prepared last")


def prepared(ids: Tensor) -> None:
    """A forward on ids (batch, pos) is about to begin."""
    _BATCH.set((int(ids.shape[0]), int(ids.shape[1])))


@final
@dataclass(frozen=True)
class Unfolded:
    """Makes the context in which `module`, inside `block`, offers its INPUT and OUTPUT."""

    block: nn.Module
    module: nn.Module

    @contextlib.contextmanager
    def __call__(self, owner: greenlet | None = None) -> Iterator[None]:
        axes = _Axes()

        def entering(raw: Any) -> Any:
            return ARGUMENT.write(raw, axes.offer(self.module, INPUT, ARGUMENT.read(raw)))

        def leaving(raw: Any) -> Any:
            return FIRST.write(raw, axes.offer(self.module, OUTPUT, FIRST.read(raw)))

        with contextlib.ExitStack() as stack:
            stack.callback(attach(self.block, "inputs", axes.see, owner))
            stack.callback(attach(self.module, "inputs", entering, owner))
            stack.callback(attach(self.module, "output", leaving, owner))
            yield


@final
@dataclass(frozen=True)
class Routing:
    """Makes the context in which `router`, inside `block`, offers its LOGITS and routes by what becomes of them."""

    block: nn.Module
    router: nn.Module

    @contextlib.contextmanager
    def __call__(self, owner: greenlet | None = None) -> Iterator[None]:
        axes = _Axes()

        def leaving(raw: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor] | None:
            if not tapped(self.router):
                return None
            logits, weights, chosen = raw
            logits = axes.offer(self.router, LOGITS, logits)
            return logits, *_routed(logits, chosen.shape[-1], getattr(self.router, "norm_topk_prob", True), weights.dtype)

        with contextlib.ExitStack() as stack:
            stack.callback(attach(self.block, "inputs", axes.see, owner))
            stack.callback(attach(self.router, "output", leaving, owner))
            yield


def _routed(logits: Tensor, k: int, normed: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights and indices (token, k) of the k likeliest experts; `normed`: the weights of each token sum to one."""
    weights, chosen = torch.softmax(logits, -1, dtype=torch.float32).topk(k, dim=-1)
    return (weights / weights.sum(-1, keepdim=True) if normed else weights).to(dtype), chosen


@final
class _Axes:
    """The axes (batch, pos) that a block's input had last."""

    def __init__(self) -> None:
        self._seen: tuple[int, int] | None = None

    def see(self, raw: Any) -> None:
        self._seen = tuple(ARGUMENT.read(raw).shape[:2])

    def offer(self, module: nn.Module, event: str, value: Tensor) -> Tensor:
        """What becomes of `value` (batch x pos, ...) after it was offered with its axes."""
        # a context opened while the block was running has not seen it begin
        axes = self._seen or _BATCH.get((1, int(value.shape[0])))
        if axes[0] * axes[1] != value.shape[0]:
            found = f"{value.shape[0]} tokens, and not how many rows they make, as their block was running already"
            raise EngineError(
                f"Look into a {type(module).__name__}.", found, "a point of it that is read or changed before its block is entered"
            )
        new: Tensor = tap(module, event, (value, axes))[0]
        return new
