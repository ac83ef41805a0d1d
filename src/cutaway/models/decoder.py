"""A decoder's blocks as a stack that sweeps resume: earlier tokens from the keys and values of the base run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import torch
from torch import Tensor, nn

from cutaway.engine.site import FIRST, attach
from cutaway.engine.stack import Stack, rows_of
from cutaway.errors import LayoutError
from cutaway.models.families.base import Sizes

_TOKEN_AXIS = {"attention_mask": -2, "position_ids": 1, "position_embeddings": 1, "cache_position": 0}
_CACHES = ("past_key_values", "layer_past")
_ALIBI = "alibi"
"""Biases of scores that depend on the key alone, (row x head, 1, key): all keys are there whatever the first query is."""


@final
class _Earlier:
    """A cache that holds the tokens before `start` of one layer and hands them on with the new ones."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._keys, self._values = keys, values

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([self._keys, keys], 2), torch.cat([self._values, values], 2)


@final
class DecoderStack(Stack):
    """`unembed` turns the last block's output into logits; `opening` holds the attention that can look back past a cut; `mlp` is the last block's."""

    def __init__(
        self,
        blocks: nn.ModuleList,
        embed: nn.Module,
        unembed: Callable[[Tensor], Tensor],
        sizes: Sizes,
        opening: Callable[[], AbstractContextManager[None]],
        mlp: nn.Module | None,
    ) -> None:
        self.blocks, self.before = tuple(blocks), (embed,)
        self._unembed, self._sizes, self._opening = unembed, sizes, opening
        parts = [part for block in blocks for part in block.modules()]
        self.causal = all(getattr(part, "is_causal", True) and getattr(getattr(part, "config", None), "is_causal", True) for part in parts)
        self._mlp = mlp if self.causal else None
        self._signature = inspect.signature(type(blocks[0]).forward)

    def opening(self) -> AbstractContextManager[None]:
        return self._opening() if self.causal else nullcontext()

    def begin(self) -> tuple[dict[str, Any], Any]:
        from transformers import DynamicCache

        if not self.causal:
            return {}, None
        cache = DynamicCache()
        return {"past_key_values": cache}, cache

    def resume(
        self, block: int, hidden: Tensor, call: tuple[tuple[Any, ...], dict[str, Any]], memory: Any, rows: Tensor, start: int
    ) -> Tensor:
        args, kwargs = call
        bound = self._signature.bind(self.blocks[block], *args, **kwargs).arguments
        named = {k: v for k, v in bound.items() if k not in ("self", "kwargs")} | bound.get("kwargs", {})
        batch = int(named.pop(next(iter(named))).shape[0])
        passed = {name: self._cut(name, value, rows, batch, start) for name, value in named.items() if name not in _CACHES}
        if start:
            layer = memory.layers[block]
            earlier = _Earlier(*(x.index_select(0, rows)[:, :, :start] for x in (layer.keys, layer.values)))
            passed |= {name: earlier for name in named if name in _CACHES}
        out = FIRST.read(self.blocks[block](hidden, **passed))
        assert isinstance(out, Tensor)
        return out

    def finish(self, hidden: Tensor, call: tuple[tuple[Any, ...], dict[str, Any]], memory: Any, rows: Tensor, start: int) -> Tensor:
        if self._mlp is None:
            return super().finish(hidden, call, memory, rows, start)
        # the MLP takes each token by itself; what it adds is broadcast over the others, which nobody reads
        detach = attach(self._mlp, "inputs", _last_token)
        try:
            return super().finish(hidden, call, memory, rows, start)
        finally:
            detach()

    def tail(self, hidden: Tensor) -> Tensor:
        return hidden[:, -1:].clone()

    def head(self, tail: Tensor) -> Tensor:
        return self._unembed(tail)[:, 0]

    def bytes(self, hidden: Tensor, start: int) -> int:
        tokens, s = hidden.shape[1] - start, self._sizes
        keys = 5 * s.n_heads * s.d_head * hidden.shape[1]
        numbers = tokens * (8 * s.d_model + 3 * s.d_mlp) + keys + 3 * s.n_heads * tokens * hidden.shape[1] + 3 * s.vocab
        return numbers * hidden.element_size()

    def _cut(self, name: str, value: Any, rows: Tensor, batch: int, start: int) -> Any:
        """An argument of the recorded call for some of its rows and for the tokens from `start` on."""
        if name == _ALIBI:
            return value.unflatten(0, (batch, -1)).index_select(0, rows).flatten(0, 1)
        if isinstance(value, Tensor) and name not in _TOKEN_AXIS:
            raise LayoutError(
                f"Resume a {type(self.blocks[0]).__name__}.", f"a tensor argument {name!r}", "arguments " + ", ".join(_TOKEN_AXIS)
            )
        if name == "cache_position" and value is not None:
            return value[start:]
        return _from(rows_of(value, rows, batch), _TOKEN_AXIS.get(name, 0), start)


def _last_token(raw: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    (hidden, *rest), named = raw
    return ((hidden[:, -1:], *rest), named) if hidden.ndim == 3 else None


def _from(value: Any, axis: int, start: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_from(v, axis, start) for v in value)
    if not isinstance(value, Tensor) or not start:
        return value
    return value.narrow(axis, start, value.shape[axis] - start)
