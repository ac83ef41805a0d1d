"""Attention of diffusers that shows its pattern.

While a pattern is looked at, the module's processor is diffusers' own that computes it step by step; everything else stays fused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import MethodType
from typing import Any, final

from greenlet import greenlet
from torch import Tensor, nn

from cutaway.engine.site import LOCK, tap, tapped

_FUSED = ("AttnProcessor", "AttnProcessor2_0")
"""Processors that compute what diffusers' step-by-step one does."""


@final
class Shown:
    """A processor: the module's own, or the one that computes the pattern while the running forward is listened to."""

    def __init__(self, before: Any) -> None:
        from diffusers.models.attention_processor import AttnProcessor

        self.before, self._open, self.holders = before, AttnProcessor(), 0

    def __call__(self, attn: Any, *args: Any, **kwargs: Any) -> Any:
        return (self._open if tapped(attn) else self.before)(attn, *args, **kwargs)


def _probabilities(self: Any, query: Tensor, key: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Stands for `Attention.get_attention_scores`, which returns (batch * head, query, key) after the softmax."""
    probabilities: Tensor = type(self).get_attention_scores(self, query, key, attention_mask)
    pattern: Tensor = tap(self, "pattern", probabilities.unflatten(0, (-1, self.heads)))
    return pattern.flatten(0, 1)


@contextlib.contextmanager
def opened(module: nn.Module, owner: greenlet | None = None) -> Iterator[None]:
    """Let every attention inside `module` that runs through one of diffusers' plain processors show its pattern. Owners may overlap."""
    found: list[Any] = [part for part in module.modules() if isinstance(getattr(part, "processor", None), Shown) or _plain(part)]
    with LOCK:
        for part in found:
            if not isinstance(part.processor, Shown):
                part.processor = Shown(part.processor)
                part.get_attention_scores = MethodType(_probabilities, part)
            part.processor.holders += 1
    try:
        yield
    finally:
        with LOCK:
            for part in found:
                part.processor.holders -= 1
                if not part.processor.holders:
                    part.processor = part.processor.before
                    del part.get_attention_scores


def _plain(part: nn.Module) -> bool:
    return type(getattr(part, "processor", None)).__name__ in _FUSED
