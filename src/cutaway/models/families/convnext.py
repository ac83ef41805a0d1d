"""ConvNeXt: stages of depthwise convolutions, each followed by an MLP over channels."""

from __future__ import annotations

from dataclasses import replace

from cutaway.models.families.base import Where
from cutaway.models.families.resnet import resnet

convnext = replace(
    resnet,
    name="convnext",
    model_types=("convnext", "convnextv2"),
    points={**resnet.points, "embed": Where("embeddings", "output"), "pooled": Where("layernorm", "output")},
)
