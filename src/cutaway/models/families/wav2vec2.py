"""wav2vec 2.0 and HuBERT: convolutions over sound, then a transformer whose norms come after the sums."""

from __future__ import annotations

from cutaway.models.families.base import Layout, Where, attention, heads_of

wav2vec2 = Layout(
    name="wav2vec2",
    kind="audio",
    model_types=("wav2vec2", "hubert"),
    config={"do_stable_layer_norm": False},
    points={
        "features": Where("feature_projection", "input"),
        "embed": Where("encoder.layers.0", "input"),
        "layers[i].input": Where("encoder.layers.{i}", "input"),
        **attention(
            "layers[i].attn",
            "encoder.layers.{i}.attention",
            ("q_proj", "k_proj", "v_proj"),
            "encoder.layers.{i}.attention.out_proj",
            heads_of("num_attention_heads"),
        ),
        "layers[i].attn.output": Where("encoder.layers.{i}.attention", "output"),
        "layers[i].mid": Where("encoder.layers.{i}.layer_norm", "output"),
        "layers[i].mlp.hidden": Where("encoder.layers.{i}.feed_forward.output_dense", "input"),
        "layers[i].mlp.output": Where("encoder.layers.{i}.feed_forward", "output"),
        "layers[i].output": Where("encoder.layers.{i}", "output"),
        "logits": Where("lm_head", "output"),
    },
    modules={
        "layers": "encoder.layers",
        "layers[i].attn": "encoder.layers.{i}.attention",
        "layers[i].mlp": "encoder.layers.{i}.feed_forward",
    },
    missing={"norm": ("every block ends with its own norm", "layers[i].output of the last block")},
)
