"""Gemma 3 with its SigLIP tower: squares of patches are averaged to one image token; the language model is that of `gemma3`."""

from __future__ import annotations

from dataclasses import replace

from cutaway.models.families.base import Where, heads_first, shared
from cutaway.models.families.llava import llava

_WORDS = "language_model.layers.{i}"

gemma3_vl = replace(
    llava,
    name="gemma3_vl",
    model_types=("gemma3",),
    points={
        **llava.points,
        "vision.embed": Where("vision_tower.embeddings", "output"),
        "vision.norm": Where("vision_tower.post_layernorm", "output"),
        "layers[i].attn.q": Where(f"{_WORDS}.self_attn.q_norm", "output", heads_first),
        "layers[i].attn.k": Where(f"{_WORDS}.self_attn.k_norm", "output", heads_first),
        "layers[i].attn.output": Where(f"{_WORDS}.post_attention_layernorm", "output"),
        "layers[i].mid": Where(f"{_WORDS}.pre_feedforward_layernorm", "input", shared),
        "layers[i].mlp.output": Where(f"{_WORDS}.post_feedforward_layernorm", "output"),
    },
    missing={},
)
