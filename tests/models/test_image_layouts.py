"""Denoisers and convolutional classifiers of tiny size: the names mean what the tables of their kinds say."""

from __future__ import annotations

from functools import cache
from typing import Any

import diffusers
import pytest
import torch
import transformers
from torch import Tensor, nn

import cutaway as cut
from cutaway.errors import AddressError
from cutaway.mediators.ablate import ablate
from cutaway.models.named_module import NamedModule
from cutaway.models.points import KINDS, generic

WHICH = ("unet2d", "unet2d_condition", "dit", "resnet", "resnet_bottleneck", "convnext")
UNET: dict[str, Any] = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LATENT = PIXELS[..., :8, :8]
each = pytest.mark.parametrize("which", WHICH)


def built(which: str) -> nn.Module:
    if which == "unet2d":
        blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
        return diffusers.UNet2DModel(**UNET, **blocks)
    if which == "unet2d_condition":
        blocks = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
        return diffusers.UNet2DConditionModel(**UNET, **blocks, in_channels=3, out_channels=3, cross_attention_dim=12)
    if which == "dit":
        return diffusers.DiTTransformer2DModel(2, 4, 3, 6, num_layers=3, sample_size=8, num_embeds_ada_norm=5, norm_num_groups=1)
    if which == "convnext":
        return transformers.ConvNextForImageClassification(
            transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 2], num_stages=2, layer_scale_init_value=1.0, num_labels=3)
        )
    kind = "bottleneck" if which.endswith("bottleneck") else "basic"
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type=kind, num_labels=3)
    return transformers.ResNetForImageClassification(config)


@cache
def tiny(which: str) -> NamedModule:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = built(which).eval()
        for weight in module.parameters():
            weight.data.normal_(0, weight.shape[1:].numel() ** -0.5 if weight.ndim > 1 else 0.2)
    return cut.open(module)


def inputs(which: str) -> tuple[Any, ...]:
    t = torch.tensor([3, 500])
    if which == "unet2d_condition":
        return (LATENT, t, torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1)))
    return {"unet2d": (LATENT, t), "dit": (LATENT, t, torch.tensor([1, 2]))}.get(which, (PIXELS,))


def result(model: NamedModule, which: str, edits: Any = ()) -> Tensor:
    return model.last(model.run(*inputs(which), edits=edits).output)


@each
def test_is_recognised_and_computes_the_same(which: str) -> None:
    model = tiny(which)
    assert model.layout.name == which.removesuffix("_bottleneck")
    with torch.no_grad():
        assert torch.equal(result(model, which), model.last(model.module(*inputs(which))))


@each
def test_every_point_is_there_with_the_tables_axes_and_matters(which: str) -> None:
    model, plain = tiny(which), result(tiny(which), which)
    table = {point.name: point for point in KINDS[model.layout.kind]}
    names = model.points()
    assert {generic(name)[0] for name in names} == set(model.layout.points)
    seen = model.run(*inputs(which), read=names)
    for name in names:
        value, dims = seen[name], table[generic(name)[0]].dims
        assert value.ndim == len(dims) and value.shape[0] == 2, name
        direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(2))
        moved = result(model, which, [(name, lambda x, d=direction: x + d)])
        assert (moved - plain).abs().max() > 1e-4, name
        if name.endswith("pattern"):
            torch.testing.assert_close(value.sum(-1), torch.ones_like(value[..., 0]))
    torch.testing.assert_close(result(model, which), plain, rtol=0, atol=0)


@each
def test_unit_of_a_map_is_a_channel(which: str) -> None:
    model = tiny(which)
    name = next((n for n in model.points() if n.endswith("].output") and model.find(n).dims[1:2] == ("channel",)), None)
    if name is None:
        assert which == "dit"
        return
    for point in (name, f"{model.find(name).path}.output"):
        ours = result(model, which, [(f"{point}[unit=3]", ablate())])

        def by_hand(module: nn.Module, args: Any, out: Any) -> Any:
            value = (out[0] if isinstance(out, tuple) else out).clone()
            value[:, 3] = 0
            return (value, *out[1:]) if isinstance(out, tuple) else value

        hook = model.find(point).module.register_forward_hook(by_hand)
        hand = result(model, which)
        hook.remove()
        assert torch.equal(ours, hand) and not torch.allclose(ours, result(model, which))
    with pytest.raises(AddressError, match="units there"):
        model.run(*inputs(which), read=[f"{name}[unit=99]"])


def test_pattern_of_cross_attention() -> None:
    """A condition of which every token is looked at alike gives what its mean gives."""
    model, (latent, t, words) = tiny("unet2d_condition"), inputs("unet2d_condition")
    at = "down[0].attentions[0].blocks[0].cross"
    seen = model.run(latent, t, words, edits=[(f"{at}.pattern", lambda p: torch.full_like(p, 0.2))], read=[f"{at}.output"])
    attention = model.find(f"{at}.output").module
    expected = attention.to_out[0](attention.to_v(words).mean(1))
    torch.testing.assert_close(seen[f"{at}.output"], expected[:, None].expand_as(seen[f"{at}.output"]))
    with pytest.raises(AddressError, match="softmax in one"):
        tiny("dit").run(*inputs("dit"), read=["layers[0].attn.scores"])


def test_heads_and_patches_of_a_dit() -> None:
    model = tiny("dit")
    seen = model.run(*inputs("dit"), read=[f"layers[1].attn.{p}" for p in ("q", "k", "v", "pattern", "z")])
    q, k, v, pattern, z = seen.values()
    torch.testing.assert_close((torch.einsum("bqhd,bkhd->bhqk", q, k) / 2).softmax(-1), pattern)
    torch.testing.assert_close(torch.einsum("bhqk,bkhd->bqhd", pattern, v), z)
    edited = model.run(*inputs("dit"), edits=[("layers[2].output[pos=5]", ablate())], read=["norm"])["norm"]
    plain = model.run(*inputs("dit"), read=["norm"])["norm"]
    assert (edited != plain).any(-1).nonzero()[:, 1].tolist() == [5, 5]


def test_names_lead_to_modules() -> None:
    model = tiny("unet2d_condition")
    block = model.module.down_blocks[0].attentions[0].transformer_blocks[0]
    assert model.down[0].attentions[0].blocks[0].cross.to_k.weight is block.attn2.to_k.weight
    assert model.mid.resnets[1].conv1.weight is model.module.mid_block.resnets[1].conv1.weight
    assert tiny("dit").layers[1].mlp.net[2].weight is tiny("dit").module.transformer_blocks[1].ff.net[2].weight
    resnet = tiny("resnet")
    assert (
        resnet.stages[1].layers[1].layer[0].convolution.weight
        is resnet.module.resnet.encoder.stages[1].layers[1].layer[0].convolution.weight
    )
    with torch.no_grad(), model.trace(*inputs("unet2d_condition")):
        assert model.down[0].attentions[0].blocks[0].cross.output.shape == (2, 64, 8)
        assert model.mid.output.shape == (2, 16, 4, 4)
