"""DiT: a transformer over the patches of a latent, whose norms and gates depend on time and class (Peebles & Xie 2022, arXiv:2212.09748)."""

from __future__ import annotations

from cutaway.models.diffusion_attention import opened
from cutaway.models.families.base import Layout, Where, heads_of

_HEADS = heads_of("num_attention_heads")
_BLOCK = "transformer_blocks.{i}"

dit = Layout(
    name="dit",
    kind="diffusion_transformer",
    classes=("DiTTransformer2DModel",),
    points={
        "embed": Where("pos_embed", "output"),
        "layers[i].input": Where(_BLOCK, "input"),
        **{f"layers[i].attn.{point}": Where(f"{_BLOCK}.attn1.to_{point}", "output", _HEADS) for point in "qkv"},
        "layers[i].attn.pattern": Where(f"{_BLOCK}.attn1", "pattern"),
        "layers[i].attn.z": Where(f"{_BLOCK}.attn1.to_out.0", "input", _HEADS),
        "layers[i].attn.output": Where(f"{_BLOCK}.attn1", "output"),
        "layers[i].mlp.hidden": Where(f"{_BLOCK}.ff.net.2", "input"),
        "layers[i].mlp.output": Where(f"{_BLOCK}.ff", "output"),
        "layers[i].output": Where(_BLOCK, "output"),
        "norm": Where("norm_out", "output"),
    },
    modules={"layers": "transformer_blocks", "layers[i].attn": f"{_BLOCK}.attn1", "layers[i].mlp": f"{_BLOCK}.ff"},
    missing={"layers[i].attn.scores": ("diffusers computes scores and softmax in one", "layers[i].attn.pattern")},
    opening=opened,
)
