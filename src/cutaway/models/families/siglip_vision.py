"""The vision tower of SigLIP: CLIP's blocks, and a norm over every token after them."""

from __future__ import annotations

from dataclasses import replace

from cutaway.models.families.base import Where
from cutaway.models.families.clip_vision import clip_vision

siglip_vision = replace(
    clip_vision,
    name="siglip_vision",
    model_types=("siglip_vision_model",),
    points={**clip_vision.points, "norm": Where("post_layernorm", "output")},
    missing={"logits": clip_vision.missing["logits"]},
)
