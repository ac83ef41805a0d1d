"""SigLIP: CLIP's towers with a pooling head of their own each, which make the vectors of the shared space."""

from __future__ import annotations

from dataclasses import replace

from cutaway.models.families.base import Where
from cutaway.models.families.clip import clip

siglip = replace(
    clip,
    name="siglip",
    model_types=("siglip",),
    points={
        **clip.points,
        "vision.norm": Where("vision_model.post_layernorm", "output"),
        "text.embedding": Where("text_model.head", "output"),
        "vision.embedding": Where("vision_model.head", "output"),
    },
    missing={},
)
