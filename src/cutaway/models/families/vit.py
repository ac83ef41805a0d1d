"""ViT: a transformer over the patches of an image, with norms before the branches."""

from __future__ import annotations

from cutaway.models.families.base import Layout, Where, attention, heads_of, shared

vit = Layout(
    name="vit",
    kind="vision",
    model_types=("vit",),
    points={
        "embed": Where("embeddings", "output"),
        "layers[i].input": Where("layers.{i}", "input"),
        **attention(
            "layers[i].attn",
            "layers.{i}.attention",
            ("q_proj", "k_proj", "v_proj"),
            "layers.{i}.attention.o_proj",
            heads_of("num_attention_heads"),
        ),
        "layers[i].attn.output": Where("layers.{i}.attention", "output"),
        "layers[i].mid": Where("layers.{i}.layernorm_after", "input", shared),
        "layers[i].mlp.hidden": Where("layers.{i}.mlp.fc2", "input"),
        "layers[i].mlp.output": Where("layers.{i}.mlp", "output"),
        "layers[i].output": Where("layers.{i}", "output"),
        "norm": Where("layernorm", "output"),
        "logits": Where("classifier", "output"),
    },
    modules={"layers": "layers", "layers[i].attn": "layers.{i}.attention", "layers[i].mlp": "layers.{i}.mlp"},
)
