"""ESMFold's trunk: blocks that refine a state of every residue and a state of every pair of residues, each from the other."""

from __future__ import annotations

from typing import Any

from cutaway.engine.site import View, part
from cutaway.engine.site import heads as unfold
from cutaway.models.families.base import Layout, Where, argument, element

_BLOCK = "blocks.{i}"
_TRIANGLES = {"outgoing": "tri_mul_out", "incoming": "tri_mul_in", "starting": "tri_att_start", "ending": "tri_att_end"}


def _width(config: Any) -> tuple[int, int]:
    """Heads of the attention over residues, and the width of each; the config is the trunk's, or of the model around it."""
    trunk = getattr(getattr(config, "esmfold_config", None), "trunk", config)
    return trunk.sequence_state_dim // trunk.sequence_head_width, trunk.sequence_head_width


def _heads(config: Any) -> View:
    return unfold(_width(config)[0])


def _third(number: int) -> Any:
    def view(config: Any) -> View:
        n_heads, width = _width(config)
        return unfold(n_heads).then(part(number * width, (number + 1) * width))

    return view


esmfold = Layout(
    name="esmfold",
    kind="folding",
    classes=("EsmFoldingTrunk", "EsmForProteinFolding"),
    prefixes=("trunk",),
    points={
        "blocks[i].input": Where(_BLOCK, "input"),
        "blocks[i].pair_input": Where(_BLOCK, "inputs", argument(1)),
        **{f"blocks[i].attn.{name}": Where(f"{_BLOCK}.seq_attention.proj", "output", _third(n)) for n, name in enumerate("qkv")},
        "blocks[i].attn.bias": Where(f"{_BLOCK}.pair_to_sequence", "output"),
        "blocks[i].attn.z": Where(f"{_BLOCK}.seq_attention.o_proj", "input", _heads),
        "blocks[i].attn.output": Where(f"{_BLOCK}.seq_attention", "output"),
        "blocks[i].mid": Where(f"{_BLOCK}.mlp_seq", "input"),
        "blocks[i].mlp.hidden": Where(f"{_BLOCK}.mlp_seq.mlp.3", "input"),
        "blocks[i].mlp.output": Where(f"{_BLOCK}.mlp_seq.mlp", "output"),
        "blocks[i].to_pair": Where(f"{_BLOCK}.sequence_to_pair", "output"),
        **{f"blocks[i].triangle.{name}": Where(f"{_BLOCK}.{path}", "output") for name, path in _TRIANGLES.items()},
        "blocks[i].pair_mlp.hidden": Where(f"{_BLOCK}.mlp_pair.mlp.3", "input"),
        "blocks[i].pair_mlp.output": Where(f"{_BLOCK}.mlp_pair.mlp", "output"),
        "blocks[i].output": Where(_BLOCK, "output"),
        "blocks[i].pair": Where(_BLOCK, "output", element(1)),
    },
    modules={
        "blocks": "blocks",
        "blocks[i].attn": f"{_BLOCK}.seq_attention",
        "blocks[i].mlp": f"{_BLOCK}.mlp_seq.mlp",
        "blocks[i].pair_mlp": f"{_BLOCK}.mlp_pair.mlp",
        "blocks[i].triangle": _BLOCK,
    },
)
