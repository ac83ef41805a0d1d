"""Mamba-2: blocks of one state space each, with heads; its output passes a gate and a norm."""

from __future__ import annotations

import dataclasses

from cutaway.engine.site import View, part
from cutaway.models.families.base import Sizes, Where
from cutaway.models.families.mamba import mamba


def _first(sizes: Sizes) -> View:
    return part(0, sizes.d_inner)


_NO_CONV = (
    "its convolution is a function, which no hook sees",
    "layers[i].ssm.scan, or layers[i].ssm.source.causal_conv1d_fn_0.output (channels first, with the state space's B and C)",
)

mamba2 = dataclasses.replace(
    mamba,
    name="mamba2",
    model_types=("mamba2",),
    points={
        **{name: where for name, where in mamba.points.items() if name != "layers[i].ssm.conv"},
        "layers[i].ssm.gate": Where("backbone.layers.{i}.mixer.in_proj", "output", _first),
        "layers[i].ssm.scan": Where("backbone.layers.{i}.mixer.norm", "input"),
    },
    missing={**{name: why for name, why in mamba.missing.items() if name != "layers[i].ssm.scan"}, "layers[i].ssm.conv": _NO_CONV},
)
