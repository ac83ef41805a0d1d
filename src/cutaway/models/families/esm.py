"""ESM-2: an encoder of protein sequences; BERT's modules with the norms before the branches and rotary positions."""

from __future__ import annotations

from dataclasses import replace

from cutaway.models.families.base import Where, shared
from cutaway.models.families.bert import bert

esm = replace(
    bert,
    name="esm",
    model_types=("esm",),
    points={
        **bert.points,
        "layers[i].mid": Where("encoder.layer.{i}.LayerNorm", "input", shared),
        "norm": Where("encoder.emb_layer_norm_after", "output"),
        "logits": Where("lm_head", "output"),
    },
    missing={},
)
