"""diffusers' UNet2DConditionModel, as in Stable Diffusion: convolutions, and transformers that read a condition by cross attention."""

from __future__ import annotations

from dataclasses import replace

from cutaway.models.diffusion_attention import opened
from cutaway.models.families.base import Where
from cutaway.models.families.unet2d import unet2d

_BLOCKS = (
    ("down[i].attentions[j].blocks[k]", "down_blocks.{i}.attentions.{j}.transformer_blocks.{k}"),
    ("mid.attentions[i].blocks[j]", "mid_block.attentions.{i}.transformer_blocks.{j}"),
    ("up[i].attentions[j].blocks[k]", "up_blocks.{i}.attentions.{j}.transformer_blocks.{k}"),
)
_PARTS = (("attn", "attn1"), ("cross", "attn2"), ("mlp", "ff"))

unet2d_condition = replace(
    unet2d,
    name="unet2d_condition",
    classes=("UNet2DConditionModel",),
    points={
        **unet2d.points,
        **{f"{name}.{end}": Where(path, end) for name, path in _BLOCKS for end in ("input", "output")},
        **{f"{name}.{part}.output": Where(f"{path}.{own}", "output") for name, path in _BLOCKS for part, own in _PARTS},
        **{f"{name}.{part}.pattern": Where(f"{path}.{own}", "pattern") for name, path in _BLOCKS for part, own in _PARTS[:2]},
        **{f"{name}.mlp.hidden": Where(f"{path}.ff.net.2", "input") for name, path in _BLOCKS},
    },
    modules={
        **unet2d.modules,
        **{name: path for name, path in _BLOCKS},
        **{name.rpartition("[")[0]: path.rpartition(".")[0] for name, path in _BLOCKS},
        **{f"{name}.{part}": f"{path}.{own}" for name, path in _BLOCKS for part, own in _PARTS},
    },
    missing={},
    opening=opened,
)
