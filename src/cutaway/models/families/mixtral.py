"""Mixtral: the Llama layout with a router and experts in the MLP's place."""

from __future__ import annotations

import dataclasses

from cutaway.models.families.base import Where
from cutaway.models.families.llama import llama
from cutaway.models.folded import LOGITS, Routing, unfolded

mixtral = dataclasses.replace(
    llama,
    name="mixtral",
    model_types=("mixtral",),
    points={
        **{name: where for name, where in llama.points.items() if name != "layers[i].mlp.hidden"},
        "layers[i].mlp.router": Where("model.layers.{i}.mlp.gate", LOGITS, unfolded, Routing),
    },
    missing={
        "layers[i].mlp.hidden": ("every token goes through the neurons of its own experts", "layers[i].mlp.router or layers[i].mlp.output")
    },
)
