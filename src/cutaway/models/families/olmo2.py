"""OLMo 2 and 3: norms after attention and MLP, none before them, and one on all queries and all keys."""

from __future__ import annotations

import dataclasses

from cutaway.models.families.base import Where, kv_heads, query_heads, shared
from cutaway.models.families.llama import llama

olmo2 = dataclasses.replace(
    llama,
    name="olmo2",
    model_types=("olmo2", "olmo3"),
    attn_norm="post_attention_layernorm",
    points={
        **llama.points,
        "layers[i].mid": Where("model.layers.{i}.mlp", "input", shared),
        "layers[i].attn.q": Where("model.layers.{i}.self_attn.q_norm", "output", query_heads),
        "layers[i].attn.k": Where("model.layers.{i}.self_attn.k_norm", "output", kv_heads),
        "layers[i].attn.output": Where("model.layers.{i}.post_attention_layernorm", "output"),
        "layers[i].mlp.output": Where("model.layers.{i}.post_feedforward_layernorm", "output"),
    },
)
