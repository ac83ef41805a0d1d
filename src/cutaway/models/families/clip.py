"""CLIP: a text and a vision tower, and a space they share."""

from __future__ import annotations

from dataclasses import replace

from cutaway.engine.site import entry
from cutaway.models.families.base import Layout, Where, attention, heads_of
from cutaway.models.families.clip_text import clip_text
from cutaway.models.families.clip_vision import clip_vision


def _tower(name: str, layout: Layout) -> dict[str, Where]:
    """The points of a tower by itself, seen from the model that holds it."""
    attn = f"{name}_model.encoder.layers.{{i}}.self_attn"
    return {
        **{f"{name}.{point}": replace(where, path=f"{name}_model.{where.path}") for point, where in layout.points.items()},
        **attention(
            f"{name}.layers[i].attn",
            attn,
            ("q_proj", "k_proj", "v_proj"),
            f"{attn}.out_proj",
            heads_of(f"{name}_config.num_attention_heads"),
        ),
    }


clip = Layout(
    name="clip",
    kind="dual_encoder",
    model_types=("clip",),
    points={
        **_tower("text", clip_text),
        **_tower("vision", clip_vision),
        "text.embedding": Where("text_projection", "output"),
        "vision.embedding": Where("visual_projection", "output"),
        "logits": Where("", "output", lambda config: entry("logits_per_image")),
    },
    modules={
        **{
            f"text{'.' if name else ''}{name}": f"text_model{'.' if path else ''}{path}"
            for name, path in {"": "", **clip_text.modules}.items()
        },
        **{
            f"vision{'.' if name else ''}{name}": f"vision_model{'.' if path else ''}{path}"
            for name, path in {"": "", **clip_vision.modules}.items()
        },
    },
    missing={"vision.norm": ("the last norm sees the first token alone", "vision_model.post_layernorm.output")},
)
