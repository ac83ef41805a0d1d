"""Mamba: blocks of one state space each, which gates its own output."""

from __future__ import annotations

from cutaway.engine.site import View, part
from cutaway.models.families.base import Family, Sizes, Where, shared
from cutaway.models.points import POINTS


def _second_half(sizes: Sizes) -> View:
    return part(sizes.d_inner, 2 * sizes.d_inner)


_NO_SCAN = ("one function runs the state space and the gate after it", "layers[i].ssm.z, which has passed the gate")
_NO_STATE = (
    "the state after the last token has no part in this forward, and only a cache keeps it",
    "run(text, use_cache=True).output.cache_params.layers[i].recurrent_states[0]",
)
_NO_ATTENTION = ("its blocks have neither attention nor an MLP", "layers[i].ssm.z, layers[i].ssm.output or layers[i].output")

mamba = Family(
    name="mamba",
    model_types=("mamba",),
    layers="backbone.layers",
    attn="",
    mlp="",
    ssm="mixer",
    projection="",
    final_norm="backbone.norm_f",
    unembed="lm_head",
    norm="rms",
    points={
        "embed": Where("backbone.embeddings", "output"),
        "layers[i].input": Where("backbone.layers.{i}", "input"),
        "layers[i].output": Where("backbone.layers.{i}", "output"),
        "layers[i].ssm.gate": Where("backbone.layers.{i}.mixer.in_proj", "output", _second_half),
        # the scan reads the same tensor, so it is written in place
        "layers[i].ssm.conv": Where("backbone.layers.{i}.mixer.x_proj", "input", shared),
        "layers[i].ssm.z": Where("backbone.layers.{i}.mixer.out_proj", "input"),
        "layers[i].ssm.output": Where("backbone.layers.{i}.mixer", "output"),
        "norm": Where("backbone.norm_f", "output"),
    },
    missing={
        **{point.name: _NO_ATTENTION for point in POINTS if point.name.startswith(("layers[i].attn.", "layers[i].mlp.", "layers[i].mid"))},
        "layers[i].ssm.scan": _NO_SCAN,
        "layers[i].ssm.state": _NO_STATE,
    },
)
