"""Qwen1.5 and Qwen2 with experts: the Mixtral layout, with an expert beside them that every token goes through."""

from __future__ import annotations

import dataclasses

from cutaway.models.families.mixtral import mixtral

qwen2_moe = dataclasses.replace(mixtral, name="qwen2_moe", model_types=("qwen2_moe",))
