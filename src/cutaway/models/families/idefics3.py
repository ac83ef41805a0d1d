"""Idefics3 and SmolVLM: as LLaVA, but squares of patches become one image token, and an image may be cut into several."""

from __future__ import annotations

from dataclasses import replace

from cutaway.models.families.base import Where
from cutaway.models.families.llava import llava


def _own(path: str) -> str:
    return (
        path.replace("vision_tower", "vision_model").replace("language_model", "text_model").replace("multi_modal_projector", "connector")
    )


idefics3 = replace(
    llava,
    name="idefics3",
    model_types=("idefics3", "smolvlm"),
    points={
        **{name: replace(where, path=_own(where.path)) for name, where in llava.points.items()},
        "vision.embed": Where("vision_model.embeddings", "output"),
        "vision.norm": Where("vision_model.post_layernorm", "output"),
    },
    modules={name: _own(path) for name, path in llava.modules.items()},
    missing={},
)
