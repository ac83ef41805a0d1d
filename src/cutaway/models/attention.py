"""Attention that shows its inside, through transformers' own registry of attention functions.

Registered as "cutaway" and switched on only while a point inside attention is used, or while a sweep resumes blocks on part of the
tokens. While nobody
listens to scores or pattern it stays fused.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from cutaway.engine.site import LOCK, tap, tapped

NAME = "cutaway"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """query (batch, head, q, d), key and value (batch, kv_head, k, d), after the rotary embedding; returns (batch, q, head, d).

    Without a mask the queries are the last of the keys and look back, unless `is_causal`, or else the module's own, is False. A mask is
    boolean (True: look) or added to the scores, as is `position_bias`.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    n_queries, n_keys = query.shape[2], key.shape[2]
    causal = attention_mask is None and bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    fused = not tapped(module) and softcap is None and position_bias is None
    if causal and not (fused and n_queries == n_keys):
        attention_mask = torch.ones(n_queries, n_keys, dtype=torch.bool, device=query.device).tril(n_keys - n_queries)[None, None]
    if fused:
        causal = attention_mask is None and causal and n_queries > 1
        out = scaled_dot_product_attention(query, key, value, attention_mask, dropout, is_causal=causal, scale=scaling)
        return out.transpose(1, 2), None
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if position_bias is not None:
        scores = scores + position_bias
    if attention_mask is None:
        attention_mask = torch.ones((), dtype=torch.bool, device=query.device)
    lowest = torch.finfo(scores.dtype).min
    if attention_mask.dtype == torch.bool:
        hidden = ~attention_mask
    else:
        scores, hidden = scores + attention_mask, attention_mask < lowest / 2
    scores = tap(module, "scores", scores.masked_fill(hidden, lowest))
    # once more, because an edit that scales or negates scores must not show what is hidden, nor make it infinite
    pattern = torch.softmax(scores.masked_fill(hidden, lowest), -1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    pattern = tap(module, "pattern", pattern)
    pattern = nn.functional.dropout(pattern, dropout, module.training)
    return (pattern @ value).transpose(1, 2), None


@final
@dataclass
class _Held:
    """A config whose attention is opened: what it used before, and the greenlets that asked."""

    config: Any
    before: str
    owners: list[Any]


_HELD: dict[int, _Held] = {}


def _elsewhere(config: Any) -> str | None:
    """The implementation that a forward of another greenlet goes on using while attention is opened; None for one that asked for ours."""
    with LOCK:  # another thread may be closing what this forward found open
        held = _HELD.get(id(config))
        if held is None:
            before = getattr(config, "_attn_implementation", NAME)
            return None if before == NAME else before
        return None if any(owner is getcurrent() for owner in held.owners) else held.before


def _route(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What is registered: our attention where it was asked for, the model's own in any other forward that runs meanwhile."""
    before = _elsewhere(getattr(module, "config", None))
    if before is None:
        return attend(module, *args, **kwargs)
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    return ALL_ATTENTION_FUNCTIONS.get_interface(before, eager)(module, *args, **kwargs)


def _mask(*args: Any, config: Any = None, **kwargs: Any) -> Any:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

    before = _elsewhere(config)
    return (sdpa_mask if before is None else ALL_MASK_ATTENTION_FUNCTIONS[before])(*args, config=config, **kwargs)


@contextlib.contextmanager
def opened(module: nn.Module, owner: greenlet | None = None) -> Iterator[None]:
    """Let every attention inside `module` run through `attend`, in forwards that `owner` runs (the calling greenlet, if not given)."""
    from transformers import AttentionInterface, AttentionMaskInterface

    runner = getcurrent() if owner is None else owner
    found: list[Any] = [getattr(part, "config", None) for part in module.modules()]
    configs = {id(config): config for config in found if hasattr(config, "_attn_implementation")}
    with LOCK:
        AttentionInterface.register(NAME, _route)
        AttentionMaskInterface.register(NAME, _mask)
        for key, config in configs.items():
            held = _HELD.setdefault(key, _Held(config, config._attn_implementation, []))
            held.owners.append(runner)
            config._attn_implementation = NAME
    try:
        yield
    finally:
        with LOCK:
            for key, config in configs.items():
                _HELD[key].owners.remove(runner)
                if not _HELD[key].owners:
                    config._attn_implementation = _HELD.pop(key).before
