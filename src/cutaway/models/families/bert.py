"""BERT: an encoder whose norms come after the sums, so that `mid` and `output` are normed states."""

from __future__ import annotations

from cutaway.models.families.base import Layout, Where, attention, heads_of

bert = Layout(
    name="bert",
    kind="encoder",
    model_types=("bert",),
    points={
        "embed": Where("embeddings", "output"),
        "layers[i].input": Where("encoder.layer.{i}", "input"),
        **attention(
            "layers[i].attn",
            "encoder.layer.{i}.attention.self",
            ("query", "key", "value"),
            "encoder.layer.{i}.attention.output.dense",
            heads_of("num_attention_heads"),
        ),
        "layers[i].attn.output": Where("encoder.layer.{i}.attention.output.dropout", "output"),
        "layers[i].mid": Where("encoder.layer.{i}.attention", "output"),
        "layers[i].mlp.hidden": Where("encoder.layer.{i}.output.dense", "input"),
        "layers[i].mlp.output": Where("encoder.layer.{i}.output.dropout", "output"),
        "layers[i].output": Where("encoder.layer.{i}", "output"),
        "logits": Where("cls.predictions", "output"),
    },
    modules={
        "layers": "encoder.layer",
        "layers[i].attn": "encoder.layer.{i}.attention",
        "layers[i].mlp": "encoder.layer.{i}.output",
    },
    missing={"norm": ("every block ends with its own norm", "layers[i].output of the last block")},
)
