"""BART and mBART's kin with norms after the sums: an encoder-decoder. Its `logits` are those before `final_logits_bias`, a constant, is added."""

from __future__ import annotations

from cutaway.models.families.base import Layout, Where, attention, heads_of

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def _blocks(stack: str, mid: str) -> dict[str, Where]:
    name, path = f"{stack}.layers[i]", f"{stack}.layers.{{i}}"
    attn = f"{path}.self_attn"
    return {
        f"{stack}.embed": Where(f"{stack}.layernorm_embedding", "output"),
        f"{name}.input": Where(path, "input"),
        **attention(f"{name}.attn", attn, _PROJECTIONS, f"{attn}.out_proj", heads_of(f"{stack}_attention_heads")),
        f"{name}.attn.output": Where(attn, "output"),
        f"{name}.mid": Where(f"{path}.{mid}", "output"),
        f"{name}.mlp.hidden": Where(f"{path}.fc2", "input"),
        f"{name}.mlp.output": Where(f"{path}.fc2", "output"),
        f"{name}.output": Where(path, "output"),
    }


_CROSS = "decoder.layers.{i}.encoder_attn"

bart = Layout(
    name="bart",
    kind="encoder_decoder",
    model_types=("bart",),
    points={
        **_blocks("encoder", "self_attn_layer_norm"),
        **_blocks("decoder", "encoder_attn_layer_norm"),
        **attention("decoder.layers[i].cross", _CROSS, _PROJECTIONS, f"{_CROSS}.out_proj", heads_of("decoder_attention_heads")),
        "decoder.layers[i].cross.output": Where(_CROSS, "output"),
        "logits": Where("lm_head", "output"),
    },
    modules={
        "encoder": "encoder",
        "encoder.layers[i].attn": "encoder.layers.{i}.self_attn",
        "encoder.layers[i].mlp": "encoder.layers.{i}.fc2",
        "decoder": "decoder",
        "decoder.layers[i].attn": "decoder.layers.{i}.self_attn",
        "decoder.layers[i].cross": _CROSS,
        "decoder.layers[i].mlp": "decoder.layers.{i}.fc2",
    },
    missing={
        f"{stack}.norm": ("every block ends with its own norm", f"{stack}.layers[i].output of the last block")
        for stack in ("encoder", "decoder")
    },
)
