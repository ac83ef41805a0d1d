"""DistilBERT: an encoder whose norms come after the sums."""

from __future__ import annotations

from cutaway.models.families.base import Layout, Where, attention, heads_of

distilbert = Layout(
    name="distilbert",
    kind="encoder",
    model_types=("distilbert",),
    points={
        "embed": Where("embeddings", "output"),
        "layers[i].input": Where("transformer.layer.{i}", "input"),
        **attention(
            "layers[i].attn",
            "transformer.layer.{i}.attention",
            ("q_lin", "k_lin", "v_lin"),
            "transformer.layer.{i}.attention.out_lin",
            heads_of("num_attention_heads"),
        ),
        "layers[i].attn.output": Where("transformer.layer.{i}.attention", "output"),
        "layers[i].mid": Where("transformer.layer.{i}.sa_layer_norm", "output"),
        "layers[i].mlp.hidden": Where("transformer.layer.{i}.ffn.lin2", "input"),
        "layers[i].mlp.output": Where("transformer.layer.{i}.ffn", "output"),
        "layers[i].output": Where("transformer.layer.{i}", "output"),
        "logits": Where("vocab_projector", "output"),
    },
    modules={
        "layers": "transformer.layer",
        "layers[i].attn": "transformer.layer.{i}.attention",
        "layers[i].mlp": "transformer.layer.{i}.ffn",
    },
    missing={"norm": ("every block ends with its own norm", "layers[i].output of the last block")},
)
