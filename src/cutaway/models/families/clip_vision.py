"""The vision tower of CLIP, alone, with its projection, or under a classifier."""

from __future__ import annotations

from cutaway.models.families.base import Layout, Where, attention, heads_of, shared

clip_vision = Layout(
    name="clip_vision",
    kind="vision",
    model_types=("clip_vision_model",),
    prefixes=("vision_model",),
    points={
        "embed": Where("encoder.layers.0", "input"),
        "layers[i].input": Where("encoder.layers.{i}", "input"),
        **attention(
            "layers[i].attn",
            "encoder.layers.{i}.self_attn",
            ("q_proj", "k_proj", "v_proj"),
            "encoder.layers.{i}.self_attn.out_proj",
            heads_of("num_attention_heads"),
        ),
        "layers[i].attn.output": Where("encoder.layers.{i}.self_attn", "output"),
        "layers[i].mid": Where("encoder.layers.{i}.layer_norm2", "input", shared),
        "layers[i].mlp.hidden": Where("encoder.layers.{i}.mlp.fc2", "input"),
        "layers[i].mlp.output": Where("encoder.layers.{i}.mlp", "output"),
        "layers[i].output": Where("encoder.layers.{i}", "output"),
    },
    modules={
        "layers": "encoder.layers",
        "layers[i].attn": "encoder.layers.{i}.self_attn",
        "layers[i].mlp": "encoder.layers.{i}.mlp",
    },
    missing={
        "norm": ("the last norm sees the first token alone", "post_layernorm.output, or layers[i].output of the last block"),
        "logits": ("it has no classifier", "layers[i].output of the last block"),
    },
)
