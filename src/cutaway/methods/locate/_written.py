"""Heads, and what each writes to the residual stream at the last token."""

from __future__ import annotations

from collections.abc import Iterator

from einops import einsum
from jaxtyping import Float
from torch import Tensor

from cutaway.address import Address
from cutaway.engine.passes import Readings
from cutaway.methods.base import components
from cutaway.models.freeze import frozen
from cutaway.models.language import LanguageModel


def heads(lm: LanguageModel) -> list[Address]:
    """Every head, layer by layer. Raises AddressError for a model without heads."""
    lm.site("layers[0].attn.z")
    return [part for part in components(lm) if part.head is not None]


def points(lm: LanguageModel) -> list[str]:
    """What has to be read for `written`."""
    layers = range(lm.sizes.n_layers)
    return [*(f"layers[{i}].attn.z[pos=-1]" for i in layers), *(_projected(lm, i) for i in layers if lm.family.attn_norm)]


def written(lm: LanguageModel, seen: Readings) -> Iterator[Float[Tensor, "prompt head d_model"]]:
    """What heads add to the stream at the last token of each prompt, layer by layer: z W_O. The projection's bias is no head's, and is left out."""
    for i in range(lm.sizes.n_layers):
        z = seen[f"layers[{i}].attn.z[pos=-1]"]
        found = einsum(z, lm.head_writes(i), "prompt head d_head, head d_head d_model -> prompt head d_model")
        if lm.family.attn_norm:  # what attention adds is the norm of its projection
            norm = lm.part(f"{lm.family.layers}.{i}.{lm.family.attn_norm}")
            linear, _ = frozen(norm, lm.family.norm, seen[_projected(lm, i)][:, None])
            found = linear(found)
        yield found


def _projected(lm: LanguageModel, layer: int) -> str:
    return f"{lm.family.layers}.{layer}.{lm.family.attn}.{lm.family.projection}.output[pos=-1]"
