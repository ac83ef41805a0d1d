"""Qwen3 with experts: the Mixtral layout with a norm on each query and key."""

from __future__ import annotations

import dataclasses

from cutaway.models.families.mixtral import mixtral
from cutaway.models.families.qwen3 import qwen3

qwen3_moe = dataclasses.replace(
    mixtral,
    name="qwen3_moe",
    model_types=("qwen3_moe",),
    points={**mixtral.points, **{name: qwen3.points[name] for name in ("layers[i].attn.q", "layers[i].attn.k")}},
)
