"""Vision-language models of tiny size: names, and the way from a cell of an image to its tokens and back."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import cutaway as cut
from cutaway.errors import AddressError, InputError, LayoutError
from cutaway.mediators.ablate import ablate
from cutaway.models.families.vit import vit
from cutaway.models.named_module import NamedModule
from cutaway.models.points import KINDS, generic
from cutaway.models.vision_language import VisionLanguageModel

IMAGE, WORDS = 39, 40
VISION: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}
TEXT: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
WHICH = ("llava", "llava_full", "idefics3", "smolvlm", "gemma3_vl")
each = pytest.mark.parametrize("which", WHICH)
SIDE = 3


@cache
def tiny(which: str, attends: bool = True) -> VisionLanguageModel:
    """An image of 3 x 3 cells. Without `attends`, the language model is given the embeddings of patches: LLaVA reads them before the first block."""
    vision = VISION if attends or which.startswith("llava") else VISION | {"num_hidden_layers": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if which.startswith("llava"):
            config: Any = transformers.LlavaConfig(
                vision_config=transformers.CLIPVisionConfig(**vision, image_size=12),
                text_config=transformers.LlamaConfig(**TEXT),
                image_token_index=IMAGE,
                vision_feature_layer=-1 if attends else -3,
                vision_feature_select_strategy="full" if which.endswith("full") else "default",
            )
            module: Any = transformers.LlavaForConditionalGeneration(config)
        elif which == "gemma3_vl":
            config = transformers.Gemma3Config(
                vision_config={**vision, "image_size": 24, "model_type": "siglip_vision_model"},
                text_config={
                    **TEXT,
                    "head_dim": 16,
                    "sliding_window": 3,
                    "query_pre_attn_scalar": 16,
                    "bos_token_id": 1,
                    "eos_token_id": 2,
                },
                mm_tokens_per_image=SIDE**2,
                image_token_id=IMAGE,
                boi_token_index=37,
                eoi_token_index=38,
            )
            module = transformers.Gemma3ForConditionalGeneration(config)
        else:
            name = {"idefics3": "Idefics3", "smolvlm": "SmolVLM"}[which]
            config = getattr(transformers, f"{name}Config")(
                vision_config={**vision, "image_size": 24},
                text_config={**TEXT, "model_type": "llama"},
                scale_factor=2,
                image_token_id=IMAGE,
                pad_token_id=0,
            )
            module = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            weight.copy_(drawn * weight.shape[-1] ** -0.5 * 1.5 if weight.ndim > 1 else weight + 0.2 * drawn)
    return cut.open(module.eval())


def inputs(which: str, seed: int = 0) -> dict[str, Tensor]:
    """Two rows whose images begin at different tokens."""
    n = SIDE**2 + (which == "llava_full")
    ids = torch.tensor([[1, 2, *[IMAGE] * n, 5, 6, 7], [3, 4, 5, 6, *[IMAGE] * n, 8]])
    size = 12 if which.startswith("llava") else 24
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "pixel_values": pixels[:, None] if which in ("idefics3", "smolvlm") else pixels}


def repainted(which: str, y: int, x: int) -> dict[str, Tensor]:
    """The same images, but for the pixels of one cell."""
    given = inputs(which)
    pixels, width = given["pixel_values"].clone(), given["pixel_values"].shape[-1] // SIDE
    pixels[..., y * width : (y + 1) * width, x * width : (x + 1) * width] += 1.0
    return {**given, "pixel_values": pixels}


@each
def test_where_the_image_lies(which: str) -> None:
    vlm, before = tiny(which), which == "llava_full"
    found = vlm.image_positions(inputs(which))
    assert found.shape == (2, SIDE, SIDE)
    assert found[0].flatten().tolist() == list(range(2 + before, 11 + before))
    assert found[1].flatten().tolist() == list(range(4 + before, 13 + before))
    with pytest.raises(InputError, match="Find image 1"):
        vlm.image_positions(inputs(which), image=1)
    with pytest.raises(InputError, match="1 image tokens"):
        vlm.image_positions({"input_ids": torch.tensor([[1, IMAGE]])})
    with pytest.raises(InputError, match="input_ids"):
        vlm.image_positions({})
    twice = torch.cat([inputs(which)["input_ids"]] * 2, 1)
    assert torch.equal(vlm.image_positions({"input_ids": twice}, image=1), found + twice.shape[1] // 2)


@each
@pytest.mark.parametrize(("y", "x"), [(0, 0), (1, 2), (2, 1)])
def test_pixels_of_a_cell_change_that_cell_alone(which: str, y: int, x: int) -> None:
    """Without attention in the vision tower nothing can carry them elsewhere; the prompt's other tokens stay as they were."""
    vlm = tiny(which, attends=False)
    names = ["projected", "layers[0].input", "vision.embed"]
    plain, changed = (vlm.run(given, read=names) for given in (inputs(which), repainted(which, y, x)))
    there = ~torch.isclose(plain["projected"], changed["projected"]).all(-1)
    expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    expected[y, x] = True
    assert torch.equal(there[:, vlm.grid.kept :].unflatten(1, (SIDE, SIDE)), expected.expand(2, SIDE, SIDE))
    assert not there[:, : vlm.grid.kept].any()
    prompt = ~torch.isclose(plain["layers[0].input"], changed["layers[0].input"]).all(-1)
    assert prompt.nonzero().tolist() == [[row, int(at)] for row, at in enumerate(vlm.image_positions(inputs(which))[:, y, x])]
    for point in names:
        selected = f"{point}[pos={vlm.patch(y, x)}]"
        one, other = vlm.run(inputs(which), read=[selected])[selected], vlm.run(repainted(which, y, x), read=[selected])[selected]
        moved = ~torch.isclose(plain[point], changed[point]).all(-1)
        assert not torch.isclose(one, other).all(-1).any() and one.shape[:-1].numel() == int(moved.sum()), point


@each
def test_edit_of_a_cell(which: str) -> None:
    vlm, given = tiny(which), inputs(which)
    at = vlm.image_positions(given)
    edited = vlm.run(given, edits=[("layers[0].output[pos=patch_1_2]", ablate())], read=["layers[0].output"])["layers[0].output"]
    zero = (edited == 0).all(-1).nonzero().tolist()
    assert zero == [[0, int(at[0, 1, 2])], [1, int(at[1, 1, 2])]]
    edited = vlm.run(given, edits=[("layers[0].output[pos=image]", ablate())], read=["layers[0].output"])["layers[0].output"]
    assert torch.equal((edited == 0).all(-1).nonzero()[:, 1].unflatten(0, (2, SIDE, SIDE)), at)
    assert (vlm.run(given).output.logits - vlm.run(given, edits=[("projected[pos=patch_0_1]", ablate())]).output.logits).abs().max() > 1e-3


@each
def test_every_point_means_what_the_table_says(which: str) -> None:
    vlm, given = tiny(which), inputs(which)
    seen, plain = vlm.run(given, read=vlm.points()), vlm.run(given).output.logits
    table = {point.name: point for point in KINDS["vision_language"]}
    assert {generic(name)[0] for name in vlm.points()} == set(table) - set(vlm._named.layout.missing)
    for name in vlm.points():
        assert seen[name].ndim == len(table[generic(name)[0]].dims), name
        direction = torch.randn(seen[name].shape, generator=torch.Generator().manual_seed(2))
        moved = vlm.run(given, edits=[(name, lambda x, d=direction: x + d)]).output.logits
        assert (moved - plain).abs().max() > 1e-3, name
    for layer in ("vision.layers[1]", "layers[1]"):
        at = {part: seen[f"{layer}.{part}"] for part in ("input", "attn.output", "mid", "mlp.output", "output")}
        torch.testing.assert_close(at["mid"], at["input"] + at["attn.output"])
        torch.testing.assert_close(at["output"], at["mid"] + at["mlp.output"])
        pattern, v = seen[f"{layer}.attn.pattern"], seen[f"{layer}.attn.v"]
        torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
        v = v.repeat_interleave(pattern.shape[1] // v.shape[2], 2)
        torch.testing.assert_close(torch.einsum("bhqk,bkhd->bqhd", pattern, v), seen[f"{layer}.attn.z"])
    assert torch.equal(vlm.last(vlm.run(given).output), plain[:, -1])


def test_trace() -> None:
    vlm, given = tiny("llava"), inputs("llava")
    with torch.no_grad(), vlm.trace(given) as run:
        projected = vlm.projected.clone()
        vlm.projected = projected.flip(1)
        h = vlm.layers[1].output
        assert vlm.vision.layers[0].attn.q_proj.weight.shape == (16, 16)
    assert h.shape == (2, 14, 32)
    assert not torch.allclose(run.output.logits, vlm.run(given).output.logits)


def test_what_is_refused() -> None:
    vlm = tiny("llava")
    with pytest.raises(AddressError, match="3 x 3 cells"):
        vlm.patch(3, 0)
    with pytest.raises(AddressError, match="3 x 3 cells"):
        vlm.run(inputs("llava"), read=["layers[0].output[pos=patch_0_7]"])
    with pytest.raises(AddressError, match="pos=image"):
        vlm.run(inputs("llava"), read=["layers[0].output[pos=subject]"])
    with pytest.raises(AddressError, match="no mapping"):
        vlm.run(**inputs("llava"), read=["layers[0].output[pos=image]"])
    with pytest.raises(AddressError, match="before the norm"):
        vlm.run(inputs("llava"), read=["vision.norm"])
    with pytest.raises(LayoutError, match="gemma3_vl, idefics3, llava"):
        VisionLanguageModel(NamedModule(torch.nn.Linear(2, 2), "linear", vit))
