"""The text tower of CLIP or SigLIP, alone or with its projection. CLIP's tokens see only what comes before them, SigLIP's see all."""

from __future__ import annotations

from dataclasses import replace

from cutaway.models.families.base import Where
from cutaway.models.families.clip_vision import clip_vision

clip_text = replace(
    clip_vision,
    name="clip_text",
    kind="encoder",
    model_types=("clip_text_model", "siglip_text_model"),
    prefixes=("text_model",),
    points={**clip_vision.points, "norm": Where("final_layer_norm", "output")},
    missing={"logits": ("it predicts no words", "norm")},
)
