"""Traces on every architecture: all points in one trace in the order of the forward, modules gone around, calls inside forwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cutaway.engine.site import attached
from cutaway.errors import UnknownNameError
from cutaway.models.language import LanguageModel

Tiny = Callable[..., LanguageModel]
TEXT = "w1 w2 w3 w4 w5"
CALL = "layers[1].attn.source.attention_interface_0"


def at(lm: LanguageModel, point: str) -> Any:
    return eval(f"lm.{point}", {"lm": lm})


def in_order(lm: LanguageModel) -> list[str]:
    """All points of a model as its forward comes by them."""
    found: list[str] = []
    with attached([(lm.site(point), lambda raw, point=point: found.append(point)) for point in lm.points()]):
        lm.module(**lm.arguments(lm.prepare((TEXT,)), {})[1])
    return list(dict.fromkeys(found))


def test_every_point_in_one_trace(tiny: Tiny, kind: str) -> None:
    """With gradients kept: as when each is read by itself, and each in the graph."""
    lm = tiny(kind)
    points = in_order(lm)
    alone = {point: lm.run(TEXT, read=[point])[point] for point in points}
    with lm.trace(TEXT) as run:
        together = {point: at(lm, point) for point in points}
    for point in points:
        torch.testing.assert_close(together[point], alone[point], rtol=1e-4, atol=1e-4)
    shared = [point for point in points if kind == "opt" and point.endswith(".mid")]  # written in place, for others hold the same tensor
    torch.autograd.grad(run.output.logits.sum(), [together[point] for point in points if point not in shared])


def test_skip(tiny: Tiny, kind: str) -> None:
    """A block whose output is its input; attention that adds nothing."""
    lm = tiny(kind)
    blocks = lm.family.layers

    def by_hand(path: str, around: Callable[..., Any]) -> Tensor:
        handle = lm.part(path).register_forward_hook(around, with_kwargs=True)
        try:
            with torch.no_grad():
                found: Tensor = lm.module(**lm.arguments((lm.tokens(TEXT),), {})[1]).logits
        finally:
            handle.remove()
        return found

    def same(module: Any, args: Any, kwargs: Any, out: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        return (given, *out[1:]) if isinstance(out, tuple) else given

    def nothing(module: Any, args: Any, kwargs: Any, out: Any) -> Any:
        return (out[0] * 0, *out[1:]) if isinstance(out, tuple) else out * 0

    with torch.no_grad(), lm.trace(TEXT) as run:
        lm.layers[1].skip(lm.layers[1].input)
    assert torch.equal(run.output.logits, by_hand(f"{blocks}.1", same))
    if not lm.family.attn:
        return
    with torch.no_grad(), lm.trace(TEXT) as run:
        lm.layers[1].attn.skip(torch.zeros(1, 6, lm.sizes.d_model))
    assert torch.equal(run.output.logits, by_hand(f"{blocks}.1.{lm.family.attn}", nothing))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_calls_inside_attention(tiny: Tiny, family: str) -> None:
    lm = tiny(family)
    with lm.trace(TEXT) as run:
        args, _ = lm.layers[1].attn.source.attention_interface_0.inputs
        out = lm.layers[1].attn.source.attention_interface_0.output[0]
        z = lm.layers[1].attn.z
        lm.layers[1].output  # noqa: B018
    assert len(args) >= 4 and torch.equal(out.reshape(z.shape), z)
    assert torch.equal(run.output.logits, lm.run(TEXT).output.logits)
    assert lm.run(TEXT, read=[f"{CALL}.output"])[f"{CALL}.output"][0].shape == out.shape


def test_calls_inside_calls(tiny: Tiny) -> None:
    """The rotary embedding, below the name of the call."""
    lm = tiny("llama")
    with torch.no_grad(), lm.trace(TEXT) as run:
        turned = lm.layers[1].attn.source.apply_rotary_pos_emb_0
        half = turned.source.rotate_half_0.source.torch_cat_0.output
        query, key = turned.output
        turned.output = (query * 0, key)
    assert half.shape == query.shape == (1, 4, 6, 16)
    flat = lm.run(TEXT, edits=[("layers[1].attn.q", lambda q: q * 0)]).output.logits
    torch.testing.assert_close(run.output.logits, flat)


def test_calls_in_runs_gradients_and_sweeps(tiny: Tiny) -> None:
    lm = tiny("llama")
    point = "layers[1].mlp.source.self_act_fn_0.output"
    changes = [("layers[1].attn.source.apply_rotary_pos_emb_0.input", lambda q: q * 0)]
    flat = lm.run(TEXT, edits=[("layers[1].attn.q", lambda q: q * 0)]).output.logits
    torch.testing.assert_close(lm.run(TEXT, edits=changes).output.logits, flat)
    values, slopes = lm.gradients(TEXT, of=lambda out: out.logits[0, -1, 3], at=[point])
    assert values[point].shape == slopes[point].shape == (1, 6, 48) and slopes[point].abs().sum() > 0
    edits = [[(point, lambda v, by=by: v * by)] for by in (0.0, 2.0)]
    swept = lm.sweep(TEXT, edits=edits, metric=lambda out: out)
    for row, edit in zip(swept, edits, strict=True):
        torch.testing.assert_close(row, lm.run(TEXT, edits=edit).output.logits[:, -1], rtol=1e-4, atol=1e-4)


def test_unknown_calls(tiny: Tiny) -> None:
    lm = tiny("llama")
    with pytest.raises(AttributeError, match=r"self_q_prj_0(?s:.*)self_q_proj_0"):
        lm.layers[0].attn.source.self_q_prj_0  # noqa: B018
    with pytest.raises(UnknownNameError, match=r"attention_interface_0\.output"):
        lm.run(TEXT, read=["layers[0].attn.source.attention_interfce_0.output"])
    shown = repr(lm.layers[0].attn.source).splitlines()
    assert any(line.lstrip().startswith("attention_interface_0  ") and "attn_output, attn_weights" in line for line in shown)


def test_a_call_of_a_part_inside_the_body(tiny: Tiny) -> None:
    """The logit lens: the model's own norm and head on any state, in the middle of its forward."""
    lm = tiny("llama")
    with torch.no_grad(), lm.trace(TEXT) as run:
        early = lm.unembed(lm.layers[0].output)
        inner = lm.layers[2].mlp(lm.layers[1].output)
        late = lm.layers[2].mlp.output
    assert early.shape == run.output.logits.shape and inner.shape == late.shape and not torch.equal(inner, late)
    assert torch.equal(run.output.logits, lm.run(TEXT).output.logits)


def test_any_function_drives(tiny: Tiny) -> None:
    lm = tiny("llama")

    def twice(input_ids: Tensor, **options: Any) -> Tensor:
        first = lm.module(input_ids=input_ids, **options).logits
        second = lm.module(input_ids=first.argmax(-1), **options).logits
        return first - second

    seen = []
    with torch.no_grad(), lm.trace(TEXT, fn=twice) as run:
        for step in run.steps:
            seen.append(lm.layers[1].output)
            if step:
                lm.logits = torch.zeros_like(lm.logits)
    assert len(seen) == 2 and not torch.equal(*seen) and torch.equal(run.output, lm.run(TEXT).output.logits)
