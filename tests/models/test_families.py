"""Every family against a tiny model of its architecture: the names mean what the table of points says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cutaway.errors import AddressError
from cutaway.mediators.add import add
from cutaway.models.language import LanguageModel
from cutaway.models.points import POINTS, row
from cutaway.models.prompt import Prompt

Tiny = Callable[..., LanguageModel]
TEXT = "w1 w2 w3 w4 w5 w6"
FORWARD = (
    "input",
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.scores",
    "attn.pattern",
    "attn.z",
    "attn.output",
    "mid",
    "mlp.router",
    "mlp.hidden",
    "mlp.output",
    "ssm.gate",
    "ssm.conv",
    "ssm.scan",
    "ssm.z",
    "ssm.output",
    "output",
)
"""Points of a layer in the order a forward passes them."""
SIDE_BY_SIDE = ("neox", "phi", "gptj")
"""Kinds whose attention and MLP read the same state."""


def logits(lm: LanguageModel, edits: Any = (), text: Any = TEXT) -> Tensor:
    return lm.run(text, edits=edits).output.logits


def in_order(lm: LanguageModel) -> list[str]:
    every = ["embed", *(f"layers[{i}].{p}" for i in range(lm.sizes.n_layers) for p in FORWARD), "norm", "logits"]
    if lm.family.name == "gemma3":  # its norms of queries and keys, where q and k lie, run after all three projections
        for i in range(lm.sizes.n_layers):
            every.remove(f"layers[{i}].attn.v")
            every.insert(every.index(f"layers[{i}].attn.q"), f"layers[{i}].attn.v")
    return [name for name in every if name in lm.points()]


def drawn(like: Tensor, seed: int = 0) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like.dtype)


def in_rows(value: Tensor, row: int, rows: int) -> Tensor:
    """(1, ...) -> (rows, ...): the value in one row, zeros in the others."""
    return torch.cat([value if i == row else torch.zeros_like(value) for i in range(rows)])


def test_is_recognised(tiny: Tiny, kind: str) -> None:
    own = {"mistral": "llama", "qwen2": "llama", "olmo3": "olmo2"}
    assert tiny(kind).family.name == own.get(kind, kind)


def test_has_every_point_of_the_table(tiny: Tiny, kind: str) -> None:
    lm = tiny(kind)
    names = {p.name for p in POINTS} - {
        p.name for p in POINTS if p.name in lm.family.missing or (p.without and p.name not in lm.family.points)
    }
    assert {n.replace("[1]", "[i]") for n in lm.points() if "[0]" not in n and "[2]" not in n} == names
    assert len(lm.points()) == 3 + 3 * (len(names) - 3)


def test_a_point_that_is_missing_says_why(tiny: Tiny) -> None:
    with pytest.raises(AddressError, match="side by side"):
        tiny("neox").run(TEXT, read=["layers[0].mid"])


def test_points_have_the_axes_of_the_table(tiny: Tiny, kind: str) -> None:
    lm = tiny(kind)
    s, n = lm.sizes, 7
    axes = {
        "batch": 1,
        "pos": n,
        "query": n,
        "key": n,
        "d_model": s.d_model,
        "head": s.n_heads,
        "kv_head": s.n_kv_heads,
        "d_head": s.d_head,
    }
    axes |= {"d_mlp": s.d_mlp, "vocab": s.vocab, "d_inner": s.d_inner, "expert": 4}
    seen = lm.run(TEXT, read=lm.points())
    for name in lm.points():
        found = row(name)
        assert found is not None
        assert seen[name].shape == tuple(axes[d] for d in found[0].dims), name


def test_trace_and_run_read_the_same(tiny: Tiny, kind: str) -> None:
    lm = tiny(kind)
    seen = lm.run(TEXT, read=lm.points())
    with torch.no_grad(), lm.trace(TEXT):
        for name in in_order(lm):
            value = eval(f"lm.{name}", {"lm": lm})
            assert torch.equal(value, seen[name]), name


def test_the_residual_stream_adds_up(tiny: Tiny, attending: str) -> None:
    lm = tiny(attending, torch.float64)
    seen = lm.run(TEXT, read=lm.points())
    for i in range(lm.sizes.n_layers):
        at = {p: seen.get(f"layers[{i}].{p}") for p in ("input", "mid", "output", "attn.output", "mlp.output")}
        middle = at["input"] + at["attn.output"]
        if attending not in SIDE_BY_SIDE:
            torch.testing.assert_close(at["mid"], middle, rtol=0, atol=1e-12)
        torch.testing.assert_close(at["output"], middle + at["mlp.output"], rtol=0, atol=1e-12)
        if i:
            assert torch.equal(at["input"], seen[f"layers[{i - 1}].output"])
    torch.testing.assert_close(lm.part(lm.family.final_norm)(seen[f"layers[{i}].output"]), seen["norm"], rtol=0, atol=1e-12)
    torch.testing.assert_close(lm.unembed(seen[f"layers[{i}].output"]), seen["logits"], rtol=0, atol=1e-12)


def test_neurons_are_what_the_last_projection_reads(tiny: Tiny, neural: str) -> None:
    lm = tiny(neural)
    seen = lm.run(TEXT, read=["layers[1].mlp.hidden", "layers[1].mlp.output"])
    mlp = lm.part(f"{lm.family.layers}.1" + ("" if neural == "opt" else f".{lm.family.mlp}"))
    projection = next(getattr(mlp, n) for n in ("c_proj", "down_proj", "dense_4h_to_h", "fc2", "fc_out") if hasattr(mlp, n))
    written = projection(seen["layers[1].mlp.hidden"])
    if neural in ("gemma2", "gemma3", "olmo2", "olmo3"):
        written = lm.part("model.layers.1.post_feedforward_layernorm")(written)
    torch.testing.assert_close(written, seen["layers[1].mlp.output"])


def test_heads_write_what_attention_adds(tiny: Tiny, attending: str) -> None:
    lm = tiny(attending, torch.float64)
    seen = lm.run(TEXT, read=["layers[1].attn.z", "layers[1].attn.output"])
    projection = lm.part(f"{lm.family.layers}.1.{lm.family.attn}.{lm.family.projection}")
    bias = getattr(projection, "bias", None)
    written = torch.einsum("bthd,hdm->btm", seen["layers[1].attn.z"], lm.head_writes(1)) + (0 if bias is None else bias)
    if lm.family.attn_norm:
        written = lm.part(f"{lm.family.layers}.1.{lm.family.attn_norm}")(written)
    torch.testing.assert_close(written, seen["layers[1].attn.output"], rtol=0, atol=1e-6)


def test_pattern_is_eager_attention(tiny: Tiny, attending: str) -> None:
    lm = tiny(attending)
    names = [f"layers[{i}].attn.{p}" for i in range(3) for p in ("scores", "pattern", "z", "v")]
    seen = lm.run(TEXT, read=names)
    fused = lm.module.config._attn_implementation
    lm.module.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            theirs = lm.module(**lm.arguments(lm.prepare((TEXT,)), {})[1], output_attentions=True).attentions
    finally:
        lm.module.set_attn_implementation(fused)
    for i in range(3):
        pattern = seen[f"layers[{i}].attn.pattern"]
        torch.testing.assert_close(pattern, theirs[i])
        torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
        torch.testing.assert_close(seen[f"layers[{i}].attn.scores"].softmax(-1), pattern)
        v = seen[f"layers[{i}].attn.v"].repeat_interleave(lm.sizes.n_heads // lm.sizes.n_kv_heads, 2)
        torch.testing.assert_close(torch.einsum("bhqk,bkhd->bqhd", pattern, v), seen[f"layers[{i}].attn.z"])


def test_what_a_part_adds_is_added_to_the_stream(tiny: Tiny, attending: str) -> None:
    """Heads are separable, and without neurons an MLP adds its bias."""
    lm = tiny(attending, torch.float64)
    out = "layers[1].attn.output"
    plain = lm.run(TEXT, read=["layers[1].attn.z", out, "layers[1].output"])
    if not lm.family.attn_norm:
        without = lm.run(TEXT, edits=[("layers[1].attn.z[head=1]", lambda x: 0 * x)], read=[out])[out]
        wrote = plain["layers[1].attn.z"][:, :, 1] @ lm.head_writes(1)[1]
        torch.testing.assert_close(plain[out] - without, wrote, rtol=0, atol=1e-6)
    vector = drawn(plain["layers[1].output"])
    end = lm.run(TEXT, edits=[("layers[1].mlp.output", add(vector))], read=["layers[1].output"])["layers[1].output"]
    torch.testing.assert_close(end, plain["layers[1].output"] + vector, rtol=0, atol=1e-12)
    if "layers[1].mlp.hidden" in lm.points():
        written = lm.run(TEXT, edits=[("layers[1].mlp.hidden", lambda x: 0 * x)], read=["layers[1].mlp.output"])["layers[1].mlp.output"]
        torch.testing.assert_close(written, written[:, :1].expand_as(written), rtol=0, atol=0)


@pytest.mark.parametrize("windowed", ["mistral", "gemma2", "gemma3"])
def test_sliding_window_is_seen_in_the_pattern(tiny: Tiny, windowed: str) -> None:
    lm = tiny(windowed)
    pattern = lm.run(TEXT, read=["layers[0].attn.pattern"])["layers[0].attn.pattern"]
    assert (pattern[0, :, -1, :4] == 0).all() and (pattern[0, :, -1, 4:] > 0).all()


def test_opening_attention_leaves_no_trace(tiny: Tiny, attending: str) -> None:
    lm = tiny(attending)
    before, plain = lm.module.config._attn_implementation, logits(lm)
    shown = lm.run(TEXT, read=["layers[0].attn.pattern", "logits"])["logits"]
    assert lm.module.config._attn_implementation == before != "cutaway"
    torch.testing.assert_close(shown, plain, rtol=0, atol=1e-4)
    assert torch.equal(logits(lm), plain)


def by_hand(lm: LanguageModel, which: str) -> Callable[[], None]:
    """Double queries, keys or values of head 1 in layer 1 with a hook of one's own; returns what undoes it."""
    attn, d = lm.part(f"{lm.family.layers}.1.{lm.family.attn}"), lm.sizes.d_head

    def hook(module: Any, args: Any, out: Tensor) -> Tensor:
        out = out.clone()
        if lm.family.name == "gpt2":
            start = "qkv".index(which) * 32 + d
            out[..., start : start + d] *= 2
        elif lm.family.name.startswith(("neox", "bloom")):
            start = 3 * d + "qkv".index(which) * d
            out[..., start : start + d] *= 2
        elif lm.family.name == "phi3":
            start = {"q": 0, "k": 4 * d, "v": 6 * d}[which] + d
            out[..., start : start + d] *= 2
        elif out.ndim == 4:  # a norm of queries or keys, after heads were unfolded
            out[(slice(None), 1) if lm.family.name == "gemma3" else (slice(None), slice(None), 1)] *= 2
        else:
            out[..., d : 2 * d] *= 2
        return out

    names = (f"{which}_norm", f"{which}_proj", "c_attn", "query_key_value", "qkv_proj")
    return next(getattr(attn, n) for n in names if hasattr(attn, n)).register_forward_hook(hook).remove


@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_edit_before_the_rotary_embedding(tiny: Tiny, attending: str, which: str) -> None:
    """The pattern is recomputed from the edited queries and keys, and everything after it follows."""
    lm = tiny(attending)
    reads = ["layers[1].attn.pattern" if "layers[1].attn.pattern" in lm.points() else "layers[0].attn.z", "logits"]
    plain = lm.run(TEXT, read=reads)
    ours = lm.run(TEXT, edits=[(f"layers[1].attn.{which}[head=1]", lambda x: 2 * x)], read=reads)
    undo = by_hand(lm, which)
    try:
        hand = lm.run(TEXT, read=reads)
    finally:
        undo()
    assert torch.equal(ours["logits"], hand["logits"])
    assert torch.equal(ours[reads[0]], hand[reads[0]])
    assert torch.equal(ours[reads[0]], plain[reads[0]]) is (which == "v" or "pattern" not in reads[0])
    assert not torch.allclose(ours["logits"], plain["logits"])


def test_a_change_at_every_point_reaches_the_logits(tiny: Tiny, kind: str) -> None:
    """One row a point, in which nothing else is changed."""
    lm = tiny(kind)
    points, plain, seen = lm.points(), logits(lm), lm.run(TEXT, read=lm.points())
    edits = [(name, add(in_rows(drawn(seen[name]), i, len(points)))) for i, name in enumerate(points)]
    changed = logits(lm, edits, lm.tokens([TEXT] * len(points)))
    for name, one in zip(points, changed, strict=True):
        assert (one - plain[0]).abs().max() > 1e-3, name
    assert torch.equal(logits(lm), plain)


@pytest.mark.parametrize("layer", [0, 2])
def test_change_between_attention_and_mlp_reaches_the_residual_stream(tiny: Tiny, attending: str, layer: int) -> None:
    """`mid` is where attention's output was just added, so the same vector added to either is the same change."""
    lm = tiny(attending, torch.float64)
    if "layers[0].mid" not in lm.points():
        assert attending in SIDE_BY_SIDE
        return
    vector = drawn(torch.zeros(32, dtype=torch.float64))
    mid, output = (logits(lm, [(f"layers[{layer}].{p}[pos=2]", add(vector))]) for p in ("mid", "attn.output"))
    torch.testing.assert_close(mid, output, rtol=0, atol=1e-5)  # norms compute in float32
    assert not torch.allclose(mid, logits(lm))
    with torch.no_grad(), lm.trace(TEXT):
        lm.layers[layer].mid[:, 2] += vector
        in_place = lm.logits
    torch.testing.assert_close(in_place, mid, rtol=0, atol=1e-5)


def test_left_padding_changes_nothing(tiny: Tiny, kind: str) -> None:
    lm = tiny(kind)
    texts = ["w1 w2 w3", "w4 w5 w6 w7 w8 w9", "w9"]
    pattern = "layers[1].attn.pattern[pos=-1]"
    points = [f"{name}[pos=-1]" for name in lm.points() if name.startswith("layers[1]") and not name.endswith((".scores", ".pattern"))]
    maps = [pattern] if "layers[1].attn.pattern" in lm.points() else []
    batch = lm.run(texts, read=[*points, *maps, "logits"])
    for i, text in enumerate(texts):
        alone = lm.run(text, read=[*points, *maps, "logits"])
        n = alone["logits"].shape[1]
        torch.testing.assert_close(batch["logits"][i, -n:], alone["logits"][0], rtol=0, atol=1e-4)
        for point in points:
            torch.testing.assert_close(batch[point][i], alone[point][0], rtol=1e-5, atol=1e-4, msg=point)
        if maps:
            torch.testing.assert_close(batch[pattern][i, :, -n:], alone[pattern][0], rtol=0, atol=1e-4)
            assert (batch[pattern][i, :, :-n] == 0).all()


def test_roles_select_in_padded_batches(tiny: Tiny, kind: str) -> None:
    """An edit at a role falls on that role's tokens in every row, wherever padding has put them."""
    lm = tiny(kind)
    prompts = [Prompt.fill("w1 {subject} w4", subject="w2 w3"), Prompt.fill("w5 w6 w7 {subject} w9 w1", subject="w8 w2")]
    for where in ("subject", "subject.first", "subject.last", "last", "-2", "0"):
        second = f"layers[1].attn.z[head=2, pos={where}]" if lm.family.attn else f"layers[1].ssm.z[unit=5, pos={where}]"
        edits = [(f"layers[0].output[pos={where}]", lambda x: -x), (second, lambda x: 3 * x)]
        batch = logits(lm, edits, prompts)[:, -1]
        for i, prompt in enumerate(prompts):
            torch.testing.assert_close(batch[i], logits(lm, edits, prompt)[0, -1], rtol=0, atol=1e-4)


def test_gradients_are_slopes(tiny: Tiny, kind: str) -> None:
    """Along a random direction at every point, against a difference quotient of edited runs and against autograd in a trace."""
    lm = tiny(kind, torch.float64)
    points = lm.points()[:-1]  # the output itself is no point inside
    weights = drawn(torch.zeros(40, dtype=torch.float64), 1)

    def metric(output: Any) -> Tensor:
        return lm.last(output).double() @ weights  # Mamba's logits are float32 in any dtype

    values, slopes = lm.gradients(TEXT, of=metric, at=points)
    seen = lm.run(TEXT, read=points)
    directions = {name: drawn(seen[name]) * (seen[name] > -1e30) for name in points}  # what the mask hides stays hidden
    step, rows = 3e-4, 2 * len(points)  # the norms compute in float32, so not smaller; two rows a point, in which nothing else is changed
    edits = [
        (name, add(step * (in_rows(directions[name], 2 * i, rows) - in_rows(directions[name], 2 * i + 1, rows))))
        for i, name in enumerate(points)
    ]
    ends = metric(lm.run(lm.tokens([TEXT] * rows), edits=edits).output).unflatten(0, (-1, 2))
    for name, (up, down) in zip(points, ends, strict=True):
        torch.testing.assert_close(values[name], seen[name], rtol=0, atol=1e-5)
        expected = float((slopes[name] * directions[name]).sum())
        assert float(up - down) / (2 * step) == pytest.approx(expected, rel=5e-3, abs=3e-2), name
    with lm.trace(TEXT) as run:
        at = {name: eval(f"lm.{name}", {"lm": lm}) for name in in_order(lm)[:-1]}
        by_autograd = torch.autograd.grad(metric(run.output).sum(), list(at.values()), allow_unused=True)
    for name, slope in zip(at, by_autograd, strict=True):
        if slope is not None:  # views are not the tensors the graph went on with
            torch.testing.assert_close(slopes[name], slope, rtol=1e-6, atol=1e-8)
    assert by_autograd[in_order(lm).index("layers[1].output")] is not None
    assert all(p.grad is None for p in lm.module.parameters())


def test_gradients_with_frozen_weights(tiny: Tiny, kind: str) -> None:
    """The first point is then the start of the graph; the residual stream beside it must be too."""
    lm = tiny(kind, torch.float64)
    points = [n for n in lm.points() if n.startswith("layers[1]") or n == "embed"]
    weights = drawn(torch.zeros(40, dtype=torch.float64), 1)
    free = lm.gradients(TEXT, of=lambda o: lm.last(o).double() @ weights, at=points)[1]
    lm.module.requires_grad_(False)
    try:
        for name in points:
            frozen = lm.gradients(TEXT, of=lambda o: lm.last(o).double() @ weights, at=[name])[1][name]
            torch.testing.assert_close(frozen, free[name], rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
        every = lm.gradients(TEXT, of=lambda o: lm.last(o).double() @ weights, at=points)[1]
        for name in points:
            torch.testing.assert_close(every[name], free[name], rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    finally:
        lm.module.requires_grad_(True)
