"""Every layout against a tiny model of its architecture: the names mean what the tables of kinds say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import cutaway as cut
from cutaway import registry
from cutaway.errors import AddressError, SlowSweepWarning
from cutaway.mediators.add import add
from cutaway.models.families.base import Layout
from cutaway.models.named_module import NamedModule
from cutaway.models.points import KINDS, generic

LAYERS, HEADS, D, MLP, WORDS = 2, 4, 32, 48, 40
_SIZES: dict[str, Any] = {"hidden_size": D, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": MLP}
_TEXT = {**_SIZES, "vocab_size": WORDS, "max_position_embeddings": 24, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_IMAGE = {**_SIZES, "image_size": 8, "patch_size": 4}
_SEQ2SEQ = {
    "vocab_size": WORDS,
    "d_model": D,
    **{
        f"{stack}_{name}": n
        for stack in ("encoder", "decoder")
        for name, n in (("layers", LAYERS), ("attention_heads", HEADS), ("ffn_dim", MLP))
    },
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
_SOUND = {
    **_SIZES,
    "conv_dim": (16, 16),
    "conv_stride": (4, 2),
    "conv_kernel": (8, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": WORDS,
    "feat_proj_dropout": 0.0,
}
_WORDS = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 11, 2]])
_PIXELS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
_WAVE = torch.randn(2, 60, generator=torch.Generator().manual_seed(0))
_READ = {"input_ids": _WORDS, "decoder_input_ids": _WORDS[:, :3]}

CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Tensor]]] = {
    "bert": ("BertForMaskedLM", "BertConfig", _TEXT, {"input_ids": _WORDS}),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", _TEXT, {"input_ids": _WORDS}),
    "esm": ("EsmForMaskedLM", "EsmConfig", {**_TEXT, "mask_token_id": 3, "position_embedding_type": "rotary"}, {"input_ids": _WORDS}),
    "distilbert": (
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        {"vocab_size": WORDS, "dim": D, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": MLP, "max_position_embeddings": 24},
        {"input_ids": _WORDS},
    ),
    "modernbert": (
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        {**_TEXT, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 4},
        {"input_ids": _WORDS},
    ),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": WORDS, "d_model": D, "d_kv": 8, "d_ff": MLP, "num_layers": LAYERS, "num_heads": HEADS, "decoder_start_token_id": 0},
        _READ,
    ),
    "bart": ("BartForConditionalGeneration", "BartConfig", {**_SEQ2SEQ, "max_position_embeddings": 24}, _READ),
    "whisper": (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {**_SEQ2SEQ, "num_mel_bins": 8, "max_source_positions": 5, "max_target_positions": 16},
        {"input_features": _WAVE[:, :40].reshape(2, 8, 5).repeat(1, 1, 2), "decoder_input_ids": _WORDS[:, :3]},
    ),
    "vit": ("ViTForImageClassification", "ViTConfig", _IMAGE, {"pixel_values": _PIXELS}),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", {**_IMAGE, "mlp_ratio": 2}, {"pixel_values": _PIXELS}),
    "clip_vision": ("CLIPVisionModel", "CLIPVisionConfig", _IMAGE, {"pixel_values": _PIXELS}),
    "siglip_vision": ("SiglipVisionModel", "SiglipVisionConfig", _IMAGE, {"pixel_values": _PIXELS}),
    "clip_text": ("CLIPTextModel", "CLIPTextConfig", _TEXT, {"input_ids": _WORDS}),
    "clip": (
        "CLIPModel",
        "CLIPConfig",
        {"text_config": _TEXT, "vision_config": _IMAGE, "projection_dim": 24},
        {"input_ids": _WORDS, "pixel_values": _PIXELS},
    ),
    "siglip": (
        "SiglipModel",
        "SiglipConfig",
        {"text_config": _TEXT, "vision_config": _IMAGE},
        {"input_ids": _WORDS, "pixel_values": _PIXELS},
    ),
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", _SOUND, {"input_values": _WAVE}),
    "wav2vec2_stable": ("HubertForCTC", "HubertConfig", {**_SOUND, "do_stable_layer_norm": True}, {"input_values": _WAVE}),
    "esmfold": ("", "", {}, {}),
}
"""Layout -> class and config class of transformers, options, inputs. The windows of ModernBERT are smaller than its texts."""
ATTENTION = [name for name in CASES if name != "esmfold"]
QUICK = ("bert", "vit", "clip", "whisper", "t5", "esmfold")


def _tiered(names: Iterable[str]) -> list[Any]:
    """The quick tier has a few of each sort."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


each_case = pytest.mark.parametrize("case", _tiered(CASES))
each_attention = pytest.mark.parametrize("case", _tiered(ATTENTION))


_TRUNK: dict[str, Any] = {
    "num_blocks": LAYERS,
    "sequence_state_dim": D,
    "sequence_head_width": D // HEADS,
    "pairwise_state_dim": 16,
    "pairwise_head_width": 8,
    "position_bins": 4,
    "structure_module": {
        "sequence_dim": 16,
        "pairwise_dim": 8,
        "ipa_dim": 4,
        "resnet_dim": 8,
        "num_heads_ipa": 2,
        "num_qk_points": 2,
        "num_v_points": 2,
        "num_blocks": 1,
    },
}


def _folding() -> tuple[nn.Module, dict[str, Any]]:
    from transformers.models.esm.configuration_esm import TrunkConfig
    from transformers.models.esm.modeling_esmfold import EsmFoldingTrunk

    trunk = EsmFoldingTrunk(TrunkConfig(**_TRUNK))
    draw = torch.Generator().manual_seed(1)
    inputs: dict[str, Any] = {"seq_feats": torch.randn(2, 5, D, generator=draw), "pair_feats": torch.randn(2, 5, 5, 16, generator=draw)}
    inputs |= {"true_aa": torch.ones(2, 5, dtype=torch.long), "residx": torch.arange(5).repeat(2, 1)}
    return trunk, inputs | {"mask": torch.ones(2, 5), "no_recycles": 0}


@cache
def _opened(case: str) -> tuple[NamedModule, dict[str, Any]]:
    kind, config, options, inputs = CASES[case]
    if case == "esmfold":
        module, inputs = _folding()
    else:
        module = getattr(transformers, kind)(getattr(transformers, config)(**options))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in module.eval().parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            weight.copy_(drawn * weight.shape[-1] ** -0.5 * 1.5 if weight.ndim > 1 else weight + 0.2 * drawn)
    return cut.open(module), inputs


@pytest.fixture
def model(case: str) -> NamedModule:
    return _opened(case)[0]


@pytest.fixture
def inputs(case: str) -> dict[str, Any]:
    return _opened(case)[1]


def tensors(output: Any) -> list[Tensor]:
    """Every tensor in what a module returned."""
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if hasattr(output, "values") else output if isinstance(output, (tuple, list)) else ()
    return [found for part in parts for found in tensors(part)]


def forward(model: NamedModule, inputs: dict[str, Any], edits: Any = ()) -> list[Tensor]:
    return tensors(model.run(inputs, edits=edits).output)


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) > 0 and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def sides(model: NamedModule, name: str) -> tuple[str, str]:
    """Which sequence a point's `pos` and `query`, and its `key`, count."""
    stack = name.partition(".")[0]
    if model.layout.kind == "encoder_decoder":
        reads = "encoder" if ".cross." in name or stack == "encoder" else "decoder"
        own = reads if ".cross.k" in name or ".cross.v" in name else ("decoder" if name == "logits" else stack)
        return own, reads
    side = {"vision": "patches", "audio": "frames"}.get(stack if model.layout.kind == "dual_encoder" else model.layout.kind, "words")
    return side, side


LENGTHS = {"encoder": 5, "decoder": 3, "words": 5, "patches": 5, "frames": 6}
WIDTHS = {"batch": 2, "head": HEADS, "d_head": D // HEADS, "d_model": D, "d_mlp": MLP, "vocab": WORDS, "text": 2, "label": 2}
WIDTHS |= {"d_feature": 16, "pos2": 5, "d_pair": 16}


def shape(case: str, model: NamedModule, name: str) -> tuple[int, ...]:
    own, reads = sides(model, name)
    sizes = WIDTHS | {"pos": LENGTHS[own], "query": LENGTHS[own], "key": LENGTHS[reads]}
    if case in ("siglip_vision",) or (case == "siglip" and name.startswith("vision")):
        sizes |= {"pos": 4, "query": 4, "key": 4}  # no token besides the patches
    if case == "dinov2":
        sizes["d_mlp"] = 2 * D
    sizes["d_embedding"] = D if case == "siglip" else 24
    if case == "esmfold":
        sizes["d_mlp"] = 4 * (16 if ".pair_mlp." in name else D)
    point = {point.name: point for point in KINDS[model.layout.kind]}[generic(name)[0]]
    return tuple(sizes[d] for d in point.dims)


def test_every_layout_has_a_model_here() -> None:
    kinds = {"encoder", "encoder_decoder", "vision", "dual_encoder", "audio", "folding"}
    known = (registry.load("models.families", name) for name in registry.names("models.families"))
    assert {layout.name for layout in known if isinstance(layout, Layout) and layout.kind in kinds} == set(CASES)


@each_case
def test_opening_changes_nothing(case: str, model: NamedModule, inputs: dict[str, Any]) -> None:
    assert isinstance(model, NamedModule) and model.layout.name == case
    with torch.no_grad():
        plain = tensors(model.module(**inputs))
    assert same(plain, forward(model, inputs))
    model.run(inputs, read=model.points())
    assert same(plain, forward(model, inputs))


@each_case
def test_points_have_the_axes_of_their_table(case: str, model: NamedModule, inputs: dict[str, Any]) -> None:
    seen = model.run(inputs, read=model.points())
    for name in model.points():
        assert seen[name].shape == shape(case, model, name), name
    generics = {generic(name)[0] for name in model.points()}
    assert generics == set(model.layout.points)
    per_layer = sum("[i]" in name for name in generics)
    assert len(model.points()) == len(generics) - per_layer + LAYERS * per_layer


@each_case
def test_a_trace_reads_the_same_in_the_order_of_points(case: str, model: NamedModule, inputs: dict[str, Any]) -> None:
    seen = model.run(inputs, read=model.points())
    with torch.no_grad(), model.trace(inputs):
        for name in model.points():
            assert torch.equal(eval(f"model.{name}", {"model": model}), seen[name]), name


@each_case
def test_a_change_at_every_point_reaches_the_output(case: str, model: NamedModule, inputs: dict[str, Any]) -> None:
    plain, seen = forward(model, inputs), model.run(inputs, read=model.points())
    for name in model.points():
        drawn = torch.randn(seen[name].shape, generator=torch.Generator().manual_seed(0))
        changed = forward(model, inputs, [(name, add(drawn))])
        assert max(float((a - b).abs().max()) for a, b in zip(plain, changed, strict=True)) > 1e-3, name
        assert all(tensor.isfinite().all() for tensor in changed), name
    assert same(plain, forward(model, inputs))


def by_hand(model: NamedModule, name: str, change: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    """A torch hook of one's own on the module of a point: `change` is given the tensor that the module takes or returns."""
    where = model.layout.points[generic(name)[0]]
    module = model.module.get_submodule(model.site(name).path)
    if where.event in ("input", "inputs"):

        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
            n = 1 if name.endswith("pair_input") else 0
            if not args:
                first = next(iter(kwargs))
                return args, {**kwargs, first: change(kwargs[first])}
            return (*args[:n], change(args[n]), *args[n + 1 :]), kwargs

        return module.register_forward_pre_hook(before, with_kwargs=True).remove

    def after(module: nn.Module, args: Any, out: Any) -> Any:
        n = 1 if name.endswith(".pair") else 0
        return (*out[:n], change(out[n]), *out[n + 1 :]) if isinstance(out, tuple) else change(out)

    return module.register_forward_hook(after).remove


@each_case
def test_writing_equals_a_hook_by_hand(case: str, model: NamedModule, inputs: dict[str, Any]) -> None:
    """Tripling part of every point that a module takes or returns whole; a state that a norm reads is written where it lies, for all its readers."""
    for name in model.points():
        where = model.layout.points[generic(name)[0]]
        whole = where.event in ("input", "output", "inputs") and "attn." not in name.replace("attn.output", "")
        if not whole or name == "logits" or name.endswith("embedding"):  # those without positions
            continue
        in_place = where.event == "input" and name.endswith(".mid") and case not in ("t5", "esmfold")

        def change(value: Tensor, in_place: bool = in_place) -> Tensor:
            new = value if in_place else value.clone()
            new[:, 1] *= 3
            return new

        undo = by_hand(model, name, change)
        try:
            hand = forward(model, inputs)
        finally:
            undo()
        ours = forward(model, inputs, [(f"{name}[pos=1]", lambda x: 3 * x)])
        assert same(ours, hand), name


def heads(model: NamedModule) -> list[str]:
    return [name for name in model.points() if name.split(".")[-1] in ("q", "k", "v", "z") and "[1]" in name]


@each_case
def test_heads_are_slices_of_the_projections(case: str, model: NamedModule, inputs: dict[str, Any]) -> None:
    """Tripling head 1 is tripling its columns, wherever the architecture keeps them."""
    for name in heads(model):
        which, width = name.split(".")[-1], D // HEADS
        start = width
        if case == "modernbert" and which != "z":
            start += "qkv".index(which) * D
        if case == "esmfold" and which != "z":
            start = 3 * width + "qkv".index(which) * width

        def change(value: Tensor, start: int = start, width: int = width) -> Tensor:
            new = value.clone()
            new[..., start : start + width] *= 3
            return new

        undo = by_hand(model, name, change)
        try:
            hand = forward(model, inputs)
        finally:
            undo()
        ours = forward(model, inputs, [(f"{name}[head=1]", lambda x: 3 * x)])
        assert same(ours, hand) and not same(ours, forward(model, inputs)), name


def eager(model: NamedModule, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """Attention weights as transformers' own slow attention returns them, by the name of the pattern."""
    before = model.module.config._attn_implementation
    model.module.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            out = model.module(**inputs, output_attentions=True)
    finally:
        model.module.set_attn_implementation(before)
    if model.layout.kind == "dual_encoder":
        found = {f"{tower}.layers[{{}}].attn": out[f"{tower}_model_output"].attentions for tower in ("text", "vision")}
    elif model.layout.kind == "encoder_decoder":
        found = {"encoder.layers[{}].attn": out.encoder_attentions, "decoder.layers[{}].attn": out.decoder_attentions}
        found["decoder.layers[{}].cross"] = out.cross_attentions
    else:
        found = {"layers[{}].attn": out.attentions}
    return {f"{name.format(i)}.pattern": weights for name, layers in found.items() for i, weights in enumerate(layers)}


@each_attention
def test_patterns_are_those_of_eager_attention(case: str, model: NamedModule, inputs: dict[str, Any]) -> None:
    theirs = eager(model, inputs)
    names = [name.removesuffix("pattern") for name in theirs]
    assert {name for name in model.points() if name.endswith("pattern")} == set(theirs)
    seen = model.run(inputs, read=[f"{name}{part}" for name in names for part in ("pattern", "scores", "v", "z")])
    for name in names:
        pattern = seen[f"{name}pattern"]
        torch.testing.assert_close(pattern, theirs[f"{name}pattern"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
        torch.testing.assert_close(seen[f"{name}scores"].softmax(-1), pattern)
        read = torch.einsum("bhqk,bkhd->bqhd", pattern, seen[f"{name}v"])
        torch.testing.assert_close(read, seen[f"{name}z"], rtol=1e-4, atol=1e-5)


@each_attention
def test_opening_attention_leaves_the_output_as_it_is(case: str, model: NamedModule, inputs: dict[str, Any]) -> None:
    plain = forward(model, inputs)
    shown = forward(model, inputs, [(name, lambda x: x) for name in model.points() if name.endswith("pattern")])
    for a, b in zip(plain, shown, strict=True):
        assert float((a - b).abs().max()) <= 1e-4 * max(1.0, float(a.abs().max()))
    assert model.module.config._attn_implementation != "cutaway"


CAUSAL = {"t5": "decoder.", "bart": "decoder.", "whisper": "decoder.", "clip": "text.", "clip_text": ""}


@each_attention
def test_only_causal_attention_is_blind_to_what_follows(case: str, model: NamedModule, inputs: dict[str, Any]) -> None:
    names = [name for name in model.points() if name.endswith("attn.pattern")]
    seen = model.run(inputs, read=names)
    for name in names:
        causal = case in CAUSAL and name.startswith(CAUSAL[case])
        assert bool((seen[name].triu(1) == 0).all()) is causal, name


PRE_NORM = (
    "esm",
    "modernbert",
    "t5",
    "whisper",
    "vit",
    "dinov2",
    "clip_vision",
    "siglip_vision",
    "clip_text",
    "clip",
    "siglip",
    "wav2vec2_stable",
)
NORMS = {
    "bert": ("attention.output.LayerNorm", "output.LayerNorm"),
    "roberta": ("attention.output.LayerNorm", "output.LayerNorm"),
    "distilbert": ("sa_layer_norm", "output_layer_norm"),
    "bart": ("self_attn_layer_norm", "final_layer_norm"),
    "wav2vec2": ("layer_norm", "final_layer_norm"),
}


@each_attention
@pytest.mark.parametrize("edited", ["", "input", "mid"])
def test_the_residual_stream_adds_up(case: str, edited: str, model: NamedModule, inputs: dict[str, Any]) -> None:
    """Also where it was changed: the change is in the stream, and not in the branch alone."""
    blocks = sorted({name.rpartition(".")[0] for name in model.points() if name.endswith(".mid")})
    edits = [(f"{block}.{edited}[pos=1]", add(torch.linspace(-1, 1, D))) for block in blocks] if edited else []
    seen = model.run(inputs, edits=edits, read=model.points())
    assert len(blocks) == LAYERS * (2 if model.layout.kind in ("encoder_decoder", "dual_encoder") else 1)
    for block in blocks:
        at = {point: seen[f"{block}.{point}"] for point in ("input", "attn.output", "mid", "mlp.output", "output")}
        first = at["input"] + at["attn.output"]
        cross = seen.get(f"{block}.cross.output")
        after = nn.Identity(), nn.Identity()
        if case not in PRE_NORM:
            own = model.module_at(block)
            assert own is not None
            after = tuple(own.get_submodule(name) for name in NORMS[case])  # type: ignore[assignment]
        with torch.no_grad():
            mid = after[0](first)
            if cross is not None:
                mid = mid + cross if case in PRE_NORM else own.encoder_attn_layer_norm(mid + cross)  # type: ignore[operator]
            if edited != "mid":
                torch.testing.assert_close(at["mid"], mid, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(at["output"], after[1](at["mid"] + at["mlp.output"]), rtol=1e-4, atol=1e-5)


def test_the_folding_trunk_adds_up() -> None:
    model, inputs = _opened("esmfold")
    seen = model.run(inputs, read=model.points())
    for i in range(LAYERS):
        at = {name.removeprefix(f"blocks[{i}]."): seen[name] for name in model.points() if name.startswith(f"blocks[{i}]")}
        torch.testing.assert_close(at["mid"], at["input"] + at["attn.output"])
        torch.testing.assert_close(at["output"], at["mid"] + at["mlp.output"])
        added = sum(at[f"triangle.{name}"] for name in ("outgoing", "incoming", "starting", "ending"))
        torch.testing.assert_close(at["pair"], at["pair_input"] + at["to_pair"] + added + at["pair_mlp.output"], rtol=1e-4, atol=1e-5)
        scores = torch.einsum("bqhd,bkhd->bqkh", at["attn.q"], at["attn.k"]) * (D // HEADS) ** -0.5 + at["attn.bias"]
        read = torch.einsum("bqkh,bkhd->bqhd", scores.softmax(2), at["attn.v"])
        attn = model.module_at(f"blocks[{i}].attn")
        assert attn is not None
        with torch.no_grad():
            gate = attn.g_proj(model.module_at(f"blocks[{i}]").layernorm_1(at["input"])).sigmoid()  # type: ignore[operator, union-attr]
        torch.testing.assert_close(at["attn.z"], read * gate.unflatten(-1, (HEADS, -1)), rtol=1e-4, atol=1e-5)
    out = model.run(inputs).output
    assert torch.equal(out["s_s"], seen[f"blocks[{LAYERS - 1}].output"]) and torch.equal(out["s_z"], seen[f"blocks[{LAYERS - 1}].pair"])


@each_case
def test_selectors(case: str, model: NamedModule, inputs: dict[str, Any]) -> None:
    state = next(name for name in model.points() if name.endswith("[1].output"))
    z = next(name for name in model.points() if name.endswith("[1].attn.z"))
    wanted = [state, f"{state}[pos=2]", f"{state}[unit=3]", f"{state}[unit=3, pos=-1]", z, f"{z}[head=1, pos=0]"]
    seen = model.run(inputs, read=wanted)
    assert torch.equal(seen[wanted[1]], seen[state][:, 2]) and torch.equal(seen[wanted[2]], seen[state][..., 3])
    assert torch.equal(seen[wanted[3]], seen[state][:, -1, 3]) and torch.equal(seen[wanted[5]], seen[z][:, 0, 1])
    with pytest.warns(SlowSweepWarning):
        swept = model.sweep(inputs, edits=[[(f"{z}[head={h}, pos=1]", lambda x: 3 * x)] for h in (0, 2)], metric=lambda out: out)
    for row, head in zip(swept, (0, 2), strict=True):
        alone = model.run(inputs, edits=[(f"{z}[head={head}, pos=1]", lambda x: 3 * x)])
        torch.testing.assert_close(row, model.last(alone.output))


@each_case
def test_missing_points_and_numbers_say_why(case: str, model: NamedModule, inputs: dict[str, Any]) -> None:
    for name, (why, works) in model.layout.missing.items():
        with pytest.raises(AddressError, match=why) as caught:
            model.run(inputs, read=[name])
        assert works in str(caught.value)
    beyond = next(name for name in model.points() if name.endswith("[1].output")).replace("[1]", "[7]")
    with pytest.raises(AddressError, match=f"{LAYERS} parts"):
        model.run(inputs, read=[beyond])


@each_case
def test_native_paths_below_standard_names(case: str, model: NamedModule) -> None:
    for name in model.points():
        path = name.rpartition(".")[0]
        assert path == "" or model.module_at(path) is not None, name
        last = name.rpartition(".")[2]
        assert last in model.below(path)


# Models that wrap the bare one


@pytest.mark.parametrize(
    ("case", "wrapper"),
    [
        ("bert", "BertModel"),
        ("bert", "BertForSequenceClassification"),
        ("bart", "BartModel"),
        ("clip_vision", "CLIPVisionModelWithProjection"),
        ("clip_text", "CLIPTextModelWithProjection"),
        ("vit", "ViTModel"),
        ("wav2vec2", "Wav2Vec2Model"),
        ("t5", "T5EncoderModel"),
    ],
)
def test_wherever_the_bare_model_lies(case: str, wrapper: str) -> None:
    """The same points, but for those of a part it lacks."""
    _, config, options, inputs = CASES[case]
    model = cut.open(getattr(transformers, wrapper)(getattr(transformers, config)(**options)).eval())
    assert model.layout.name == case
    dropped = {"logits"} | ({name for name in model.layout.points if name.startswith("decoder")} if case == "t5" else set())
    assert {generic(name)[0] for name in model.points()} == set(model.layout.points) - dropped
    if case == "t5":
        inputs = {"input_ids": _WORDS}
    assert len(model.run(inputs, read=model.points())) == len(model.points())


def test_the_folding_trunk_inside_its_model() -> None:
    from transformers.models.esm.configuration_esm import get_default_vocab_list

    folding = {"trunk": _TRUNK, "fp16_esm": False, "lddt_head_hid_dim": 8}
    letters = list(get_default_vocab_list())
    sizes = {**_TEXT, "vocab_size": len(letters), "pad_token_id": 1, "mask_token_id": 32, "position_embedding_type": "rotary"}
    config = transformers.EsmConfig(is_folding_model=True, esmfold_config=folding, vocab_list=letters, **sizes)
    model = cut.open(transformers.EsmForProteinFolding(config).eval())
    assert model.layout.name == "esmfold"
    seen = model.run(torch.arange(5)[None], read=model.points(), num_recycles=0)
    assert seen["blocks[1].pair"].shape == (1, 5, 5, 16) and len(seen) == 20 * LAYERS
