"""diffusers' UNet2DModel: convolutions, and attention of a map's cells to one another."""

from __future__ import annotations

from cutaway.models.families.base import Layout, Where
from cutaway.models.points import KINDS

_STAGES = (("down[i]", "down_blocks.{i}", "[j]", "{j}"), ("mid", "mid_block", "[i]", "{i}"), ("up[i]", "up_blocks.{i}", "[j]", "{j}"))

unet2d = Layout(
    name="unet2d",
    kind="unet",
    classes=("UNet2DModel",),
    points={
        "embed": Where("conv_in", "output"),
        **{
            name: where
            for stage, path, index, number in _STAGES
            for name, where in {
                f"{stage}.resnets{index}.output": Where(f"{path}.resnets.{number}", "output"),
                f"{stage}.attentions{index}.input": Where(f"{path}.attentions.{number}", "input"),
                f"{stage}.attentions{index}.output": Where(f"{path}.attentions.{number}", "output"),
                f"{stage}.output": Where(path, "output"),
            }.items()
        },
        "norm": Where("conv_norm_out", "output"),
    },
    missing={
        point.name: (
            "its attention is one module, with no blocks inside",
            "attentions[j].output beside it, or a path of its own, such as to_q.output",
        )
        for point in KINDS["unet"]
        if ".blocks[" in point.name
    },
    modules={"down": "down_blocks", "mid": "mid_block", "up": "up_blocks"},
)
