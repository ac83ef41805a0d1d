"""The large sizes of wav2vec 2.0 and HuBERT, whose norms come before the branches."""

from __future__ import annotations

from dataclasses import replace

from cutaway.models.families.base import Where, shared
from cutaway.models.families.wav2vec2 import wav2vec2

wav2vec2_stable = replace(
    wav2vec2,
    name="wav2vec2_stable",
    config={"do_stable_layer_norm": True},
    points={
        **wav2vec2.points,
        "layers[i].mid": Where("encoder.layers.{i}.final_layer_norm", "input", shared),
        "norm": Where("encoder.layer_norm", "output"),
    },
    missing={},
)
