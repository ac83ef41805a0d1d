"""GPT-J: separate q, k, v; rotary positions; attention and MLP side by side after one layer norm. Scores and pattern through attention's source."""

from __future__ import annotations

from cutaway.models.families.base import Family, Where, query_heads, scores_of_softmax, within_attention
from cutaway.models.families.neox import neox

_INSIDE = within_attention("attn")
_SOFTMAX = "self__attn_0.source.nn_functional_softmax_0"

gptj = Family(
    name="gptj",
    model_types=("gptj",),
    layers="transformer.h",
    attn="attn",
    mlp="mlp",
    projection="out_proj",
    final_norm="transformer.ln_f",
    unembed="lm_head",
    norm="layer",
    points={
        "embed": Where("transformer.wte", "output"),
        "layers[i].input": Where("transformer.h.{i}", "input"),
        "layers[i].output": Where("transformer.h.{i}", "output"),
        "layers[i].attn.q": Where("transformer.h.{i}.attn.q_proj", "output", query_heads, _INSIDE),
        "layers[i].attn.k": Where("transformer.h.{i}.attn.k_proj", "output", query_heads, _INSIDE),
        "layers[i].attn.v": Where("transformer.h.{i}.attn.v_proj", "output", query_heads, _INSIDE),
        "layers[i].attn.scores": Where("transformer.h.{i}.attn", f"{_SOFTMAX}:inputs", scores_of_softmax, _INSIDE),
        "layers[i].attn.pattern": Where("transformer.h.{i}.attn", f"{_SOFTMAX}:output", offering=_INSIDE),
        "layers[i].attn.z": Where("transformer.h.{i}.attn.out_proj", "input", query_heads, _INSIDE),
        "layers[i].attn.output": Where("transformer.h.{i}.attn", "output"),
        "layers[i].mlp.hidden": Where("transformer.h.{i}.mlp.fc_out", "input"),
        "layers[i].mlp.output": Where("transformer.h.{i}.mlp", "output"),
        "norm": Where("transformer.ln_f", "output"),
    },
    missing=neox.missing,
)
