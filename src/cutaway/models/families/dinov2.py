"""DINOv2: ViT with a learned scale on what each branch adds. The sizes with a gated MLP have their neurons elsewhere: see `mlp.weights_out`."""

from __future__ import annotations

from cutaway.models.families.base import Layout, Where, attention, heads_of, shared

dinov2 = Layout(
    name="dinov2",
    kind="vision",
    model_types=("dinov2",),
    points={
        "embed": Where("embeddings", "output"),
        "layers[i].input": Where("encoder.layer.{i}", "input"),
        **attention(
            "layers[i].attn",
            "encoder.layer.{i}.attention",
            ("q_proj", "k_proj", "v_proj"),
            "encoder.layer.{i}.attention.o_proj",
            heads_of("num_attention_heads"),
        ),
        "layers[i].attn.output": Where("encoder.layer.{i}.layer_scale1", "output"),
        "layers[i].mid": Where("encoder.layer.{i}.norm2", "input", shared),
        "layers[i].mlp.hidden": Where("encoder.layer.{i}.mlp.fc2", "input"),
        "layers[i].mlp.output": Where("encoder.layer.{i}.layer_scale2", "output"),
        "layers[i].output": Where("encoder.layer.{i}", "output"),
        "norm": Where("layernorm", "output"),
        "logits": Where("classifier", "output"),
    },
    modules={
        "layers": "encoder.layer",
        "layers[i].attn": "encoder.layer.{i}.attention",
        "layers[i].mlp": "encoder.layer.{i}.mlp",
    },
)
