"""ResNet, of basic or bottleneck layers: stages of convolutions with a shortcut around each layer."""

from __future__ import annotations

from cutaway.models.families.base import Layout, Where, flat

resnet = Layout(
    name="resnet",
    kind="convolutional",
    model_types=("resnet",),
    points={
        "embed": Where("embedder", "output"),
        "stages[i].layers[j].input": Where("encoder.stages.{i}.layers.{j}", "input"),
        "stages[i].layers[j].output": Where("encoder.stages.{i}.layers.{j}", "output"),
        "stages[i].output": Where("encoder.stages.{i}", "output"),
        "pooled": Where("pooler", "output", flat),
        "logits": Where("classifier", "output"),
    },
    modules={"stages": "encoder.stages"},
)
