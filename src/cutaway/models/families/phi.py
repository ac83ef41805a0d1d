"""Phi-1, Phi-1.5 and Phi-2: separate q, k, v; rotary positions on a part of each head; attention and MLP side by side after one layer norm."""

from __future__ import annotations

import dataclasses

from cutaway.models.families.base import Where, query_heads
from cutaway.models.families.llama import llama
from cutaway.models.families.neox import neox

phi = dataclasses.replace(
    llama,
    name="phi",
    model_types=("phi",),
    config={"qk_layernorm": False},
    projection="dense",
    final_norm="model.final_layernorm",
    norm="layer",
    points={
        **{name: where for name, where in llama.points.items() if name not in neox.missing},
        "layers[i].attn.z": Where("model.layers.{i}.self_attn.dense", "input", query_heads),
        "layers[i].mlp.hidden": Where("model.layers.{i}.mlp.fc2", "input"),
        "norm": Where("model.final_layernorm", "output"),
    },
    missing=neox.missing,
)
