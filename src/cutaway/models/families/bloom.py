"""BLOOM: q, k and v head by head in one projection; a bias of scores by distance in the place of positions; both parts add to the stream inside."""

from __future__ import annotations

from cutaway.models.families.base import Family, Where, query_heads, scores_of_softmax, shared, third_of_each_head, within_attention

_INSIDE = within_attention("self_attention")

bloom = Family(
    name="bloom",
    model_types=("bloom",),
    config={"apply_residual_connection_post_layernorm": False, "slow_but_exact": False},
    layers="transformer.h",
    attn="self_attention",
    mlp="mlp",
    projection="dense",
    final_norm="transformer.ln_f",
    unembed="lm_head",
    norm="layer",
    points={
        "embed": Where("transformer.word_embeddings", "output"),
        "layers[i].input": Where("transformer.h.{i}", "input"),
        "layers[i].mid": Where("transformer.h.{i}.post_attention_layernorm", "input", shared),
        "layers[i].output": Where("transformer.h.{i}", "output"),
        "layers[i].attn.q": Where("transformer.h.{i}.self_attention.query_key_value", "output", third_of_each_head(0), _INSIDE),
        "layers[i].attn.k": Where("transformer.h.{i}.self_attention.query_key_value", "output", third_of_each_head(1), _INSIDE),
        "layers[i].attn.v": Where("transformer.h.{i}.self_attention.query_key_value", "output", third_of_each_head(2), _INSIDE),
        "layers[i].attn.scores": Where("transformer.h.{i}.self_attention", "F_softmax_0:inputs", scores_of_softmax, _INSIDE),
        "layers[i].attn.pattern": Where("transformer.h.{i}.self_attention", "F_softmax_0:output", offering=_INSIDE),
        "layers[i].attn.z": Where("transformer.h.{i}.self_attention.dense", "input", query_heads, _INSIDE),
        "layers[i].attn.output": Where("transformer.h.{i}.self_attention.dense", "output", offering=_INSIDE),
        "layers[i].mlp.hidden": Where("transformer.h.{i}.mlp.dense_4h_to_h", "input"),
        "layers[i].mlp.output": Where("transformer.h.{i}.mlp.dense_4h_to_h", "output"),
        "norm": Where("transformer.ln_f", "output"),
    },
)
