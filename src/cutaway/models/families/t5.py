"""T5: an encoder-decoder with norms before the branches and relative positions, which are added to the scores."""

from __future__ import annotations

from cutaway.models.families.base import Layout, Where, attention, heads_of

_HEADS = heads_of("num_heads")
_PROJECTIONS = ("q", "k", "v")


def _blocks(stack: str, mlp: int) -> dict[str, Where]:
    name, path = f"{stack}.layers[i]", f"{stack}.block.{{i}}"
    attn = f"{path}.layer.0.SelfAttention"
    return {
        f"{stack}.embed": Where(f"{stack}.embed_tokens", "output"),
        f"{name}.input": Where(path, "input"),
        **attention(f"{name}.attn", attn, _PROJECTIONS, f"{attn}.o", _HEADS),
        f"{name}.attn.output": Where(attn, "output"),
        f"{name}.mid": Where(f"{path}.layer.{mlp}", "input"),
        f"{name}.mlp.hidden": Where(f"{path}.layer.{mlp}.DenseReluDense.wo", "input"),
        f"{name}.mlp.output": Where(f"{path}.layer.{mlp}.DenseReluDense", "output"),
        f"{name}.output": Where(path, "output"),
        f"{stack}.norm": Where(f"{stack}.final_layer_norm", "output"),
    }


_CROSS = "decoder.block.{i}.layer.1.EncDecAttention"

t5 = Layout(
    name="t5",
    kind="encoder_decoder",
    model_types=("t5", "mt5"),
    points={
        **_blocks("encoder", 1),
        **_blocks("decoder", 2),
        **attention("decoder.layers[i].cross", _CROSS, _PROJECTIONS, f"{_CROSS}.o", _HEADS),
        "decoder.layers[i].cross.output": Where(_CROSS, "output"),
        "logits": Where("lm_head", "output"),
    },
    modules={
        "encoder.layers": "encoder.block",
        "encoder.layers[i].attn": "encoder.block.{i}.layer.0.SelfAttention",
        "encoder.layers[i].mlp": "encoder.block.{i}.layer.1.DenseReluDense",
        "decoder.layers": "decoder.block",
        "decoder.layers[i].attn": "decoder.block.{i}.layer.0.SelfAttention",
        "decoder.layers[i].cross": _CROSS,
        "decoder.layers[i].mlp": "decoder.block.{i}.layer.2.DenseReluDense",
    },
)
