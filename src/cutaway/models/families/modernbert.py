"""ModernBERT: an encoder with norms before the branches, one projection for q, k and v, rotary positions and a gated MLP."""

from __future__ import annotations

from cutaway.models.families.base import Layout, Where, heads_of, rows_of, shared

modernbert = Layout(
    name="modernbert",
    kind="encoder",
    model_types=("modernbert",),
    points={
        "embed": Where("embeddings", "output"),
        "layers[i].input": Where("layers.{i}", "input"),
        "layers[i].attn.q": Where("layers.{i}.attn.Wqkv", "output", rows_of(0)),
        "layers[i].attn.k": Where("layers.{i}.attn.Wqkv", "output", rows_of(1)),
        "layers[i].attn.v": Where("layers.{i}.attn.Wqkv", "output", rows_of(2)),
        "layers[i].attn.scores": Where("layers.{i}.attn", "scores"),
        "layers[i].attn.pattern": Where("layers.{i}.attn", "pattern"),
        "layers[i].attn.z": Where("layers.{i}.attn.Wo", "input", heads_of("num_attention_heads")),
        "layers[i].attn.output": Where("layers.{i}.attn", "output"),
        "layers[i].mid": Where("layers.{i}.mlp_norm", "input", shared),
        "layers[i].mlp.hidden": Where("layers.{i}.mlp.Wo", "input"),
        "layers[i].mlp.output": Where("layers.{i}.mlp", "output"),
        "layers[i].output": Where("layers.{i}", "output"),
        "norm": Where("final_norm", "output"),
        "logits": Where("decoder", "output"),
    },
    modules={"layers": "layers"},
)
