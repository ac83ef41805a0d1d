"""Whisper: BART's modules with the norms before the branches; the encoder reads a spectrogram."""

from __future__ import annotations

from dataclasses import replace

from cutaway.models.families.bart import bart
from cutaway.models.families.base import Where, shared

whisper = replace(
    bart,
    name="whisper",
    model_types=("whisper",),
    points={
        **bart.points,
        **{
            name: where
            for stack in ("encoder", "decoder")
            for name, where in {
                f"{stack}.embed": Where(f"{stack}.layers.0", "input"),
                f"{stack}.layers[i].mid": Where(f"{stack}.layers.{{i}}.final_layer_norm", "input", shared),
                f"{stack}.norm": Where(f"{stack}.layer_norm", "output"),
            }.items()
        },
        "logits": Where("proj_out", "output"),
    },
    missing={},
)
