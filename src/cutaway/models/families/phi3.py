"""Phi-3 and Phi-4: the Llama layout with q, k and v one after another in one projection, and the MLP's gate and neurons in another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from cutaway.engine.site import View, heads, part
from cutaway.models.families.base import Sizes, Where
from cutaway.models.families.llama import llama


def _split(which: int) -> Callable[[Sizes], View]:
    """Queries (0), of all heads, keys (1) or values (2), of the shared heads."""

    def view(sizes: Sizes) -> View:
        numbers = (sizes.n_heads, sizes.n_kv_heads, sizes.n_kv_heads)
        start = sum(numbers[:which]) * sizes.d_head
        return part(start, start + numbers[which] * sizes.d_head).then(heads(numbers[which]))

    return view


phi3 = dataclasses.replace(
    llama,
    name="phi3",
    model_types=("phi3",),
    points={
        **llama.points,
        **{f"layers[i].attn.{name}": Where("model.layers.{i}.self_attn.qkv_proj", "output", _split(n)) for n, name in enumerate("qkv")},
    },
)
