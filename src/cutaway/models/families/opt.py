"""OPT with norms before attention and MLP: learned positions; the MLP is no module, and is called on the tokens of all rows side by side."""

from __future__ import annotations

from cutaway.models.families.base import Family, Where, query_heads
from cutaway.models.folded import INPUT, OUTPUT, Unfolded, unfolded, unfolded_shared

opt = Family(
    name="opt",
    model_types=("opt",),
    config={"do_layer_norm_before": True, "_remove_final_layer_norm": False},
    layers="model.decoder.layers",
    attn="self_attn",
    mlp="fc1",
    projection="out_proj",
    final_norm="model.decoder.final_layer_norm",
    unembed="lm_head",
    norm="layer",
    points={
        "embed": Where("model.decoder.embed_tokens", "output"),
        "layers[i].input": Where("model.decoder.layers.{i}", "input"),
        "layers[i].mid": Where("model.decoder.layers.{i}.final_layer_norm", INPUT, unfolded_shared, Unfolded),
        "layers[i].output": Where("model.decoder.layers.{i}", "output"),
        "layers[i].attn.q": Where("model.decoder.layers.{i}.self_attn.q_proj", "output", query_heads),
        "layers[i].attn.k": Where("model.decoder.layers.{i}.self_attn.k_proj", "output", query_heads),
        "layers[i].attn.v": Where("model.decoder.layers.{i}.self_attn.v_proj", "output", query_heads),
        "layers[i].attn.scores": Where("model.decoder.layers.{i}.self_attn", "scores"),
        "layers[i].attn.pattern": Where("model.decoder.layers.{i}.self_attn", "pattern"),
        "layers[i].attn.z": Where("model.decoder.layers.{i}.self_attn.out_proj", "input", query_heads),
        "layers[i].attn.output": Where("model.decoder.layers.{i}.self_attn", "output"),
        "layers[i].mlp.hidden": Where("model.decoder.layers.{i}.fc2", INPUT, unfolded, Unfolded),
        "layers[i].mlp.output": Where("model.decoder.layers.{i}.fc2", OUTPUT, unfolded, Unfolded),
        "norm": Where("model.decoder.final_layer_norm", "output"),
    },
)
