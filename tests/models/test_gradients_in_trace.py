"""Gradients in a trace: read, changed, cut off and started anew at a point, on a language model; each against hooks put on by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cutaway.models.language import LanguageModel

Tiny = Callable[..., LanguageModel]
TEXT = "w1 w2 w3 w4"
POINTS = ["embed", "layers[1].input", "layers[1].attn.q", "layers[1].attn.v", "layers[1].attn.scores", "layers[1].attn.pattern"]
POINTS += ["layers[1].attn.z", "layers[1].attn.output", "layers[1].mlp.hidden", "layers[1].mlp.output", "layers[1].output", "norm"]


def at(lm: LanguageModel, point: str) -> Any:
    return eval(f"lm.{point}")


def loss(output: Any) -> Tensor:
    found: Tensor = output.logits[0, -1, 3]
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
@pytest.mark.parametrize("point", POINTS)
def test_gradient_at_every_point(tiny: Tiny, family: str, point: str) -> None:
    """Of what the body read, after the block: equal to what `gradients` gives there."""
    lm = tiny(family)
    _, expected = lm.gradients(TEXT, of=loss, at=[point])
    with lm.trace(TEXT) as run:
        value = at(lm, point)
    (found,) = torch.autograd.grad(loss(run.output), value)
    torch.testing.assert_close(found, expected[point], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("point", ["layers[1].output", "layers[1].attn.z", "layers[1].attn.q", "layers[1].attn.pattern"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradient_is_changed_at_a_point(tiny: Tiny, family: str, point: str) -> None:
    lm = tiny(family)
    seen: list[Tensor] = []

    def double(slope: Tensor) -> Tensor:
        seen.append(slope)
        return slope * 2

    def upstream(by_hook: bool) -> tuple[Tensor, ...]:
        with lm.trace(TEXT) as run:
            first = lm.layers[0].output
            value = at(lm, point)
            if by_hook:
                value.register_hook(double)
        return first, *torch.autograd.grad(loss(run.output), [first, value])

    _, plain, at_point = upstream(False)
    _, changed, _ = upstream(True)
    torch.testing.assert_close(seen[0], at_point)
    assert not torch.allclose(changed, plain)
    _, twice, _ = upstream(True)
    assert torch.equal(twice, changed)
    if point == "layers[1].output":  # where all that comes after passes
        torch.testing.assert_close(changed, plain * 2)


def test_several_views_of_one_projection(tiny: Tiny) -> None:
    """q, k and v of a model that computes all three at once."""
    lm = tiny("gpt2")
    points = [f"layers[1].attn.{name}" for name in "qkv"]
    _, expected = lm.gradients(TEXT, of=loss, at=points)
    with lm.trace(TEXT) as run:
        values = [at(lm, point) for point in points]
        assert all(at(lm, point) is value for point, value in zip(points, values, strict=True))
    found = torch.autograd.grad(loss(run.output), values)
    for point, slope in zip(points, found, strict=True):
        torch.testing.assert_close(slope, expected[point], rtol=1e-4, atol=1e-5)


def test_a_view_that_is_changed_in_place(tiny: Tiny) -> None:
    lm = tiny("gpt2")
    vector = torch.ones(8, requires_grad=True)
    by_hand = lm.run(TEXT, edits=[("layers[1].attn.q[head=2]", lambda q: q * 2)], read=["logits"])["logits"]
    with lm.trace(TEXT) as run:
        lm.layers[1].attn.q[:, :, 2] *= 2 * vector
        lm.layers[1].attn.k  # noqa: B018
    torch.testing.assert_close(run.output.logits, by_hand)
    loss(run.output).backward()
    assert vector.grad is not None and vector.grad.abs().sum() > 0
    lm.module.zero_grad()


@pytest.mark.parametrize("point", ["layers[1].output", "layers[1].attn.z", "layers[1].attn.k"])
def test_a_fresh_leaf(tiny: Tiny, point: str) -> None:
    """Everything before it is constant: no weight up to there gets a gradient, and the leaf gets its own."""
    lm = tiny("llama")
    _, expected = lm.gradients(TEXT, of=loss, at=[point])
    with lm.trace(TEXT) as run:
        leaf = at(lm, point).detach().requires_grad_()
        exec(f"lm.{point} = leaf", {"lm": lm, "leaf": leaf})
        assert at(lm, point) is leaf or leaf.is_leaf
    loss(run.output).backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, expected[point], rtol=1e-4, atol=1e-5)
    before = lm.part("model.layers.0.mlp.down_proj").weight
    after = lm.part("model.layers.2.mlp.down_proj").weight
    assert after.grad is not None and (before.grad is None) == (point == "layers[1].output")
    lm.module.zero_grad()


def test_gradient_inside_the_body_steers_the_rest(tiny: Tiny) -> None:
    """One step along the gradient of a norm, as an attack in activation space makes it."""
    lm = tiny("llama")
    with lm.trace(TEXT) as run:
        early, late = lm.layers[0].output, lm.layers[1].attn.z
        (slope,) = torch.autograd.grad(late.square().sum(), early, retain_graph=True)
        lm.layers[1].output = lm.layers[1].output + slope
    loss(run.output).backward()
    handle = lm.part("model.layers.1").register_forward_hook(lambda module, args, out: out + slope)
    with torch.no_grad():
        by_hand = lm.module(**lm.arguments((lm.tokens(TEXT),), {})[1]).logits
    handle.remove()
    lm.module.zero_grad()
    assert slope.abs().sum() > 0 and torch.equal(run.output.logits, by_hand)


def test_inside_attention_then_what_it_gives(tiny: Tiny) -> None:
    for family in ("llama", "gpt2"):
        lm = tiny(family)
        with lm.trace(TEXT):
            pattern = lm.layers[1].attn.pattern
            z, out, block = lm.layers[1].attn.z, lm.layers[1].attn.output, lm.layers[1].output
        (slope,) = torch.autograd.grad(out.square().sum(), pattern, retain_graph=True)
        assert slope.abs().sum() > 0 and z.shape[:2] == out.shape[:2] == block.shape[:2]


def test_second_derivatives(tiny: Tiny) -> None:
    lm = tiny("llama", torch.float64)
    with lm.trace(TEXT) as run:
        lm.layers[2].attn.pattern  # noqa: B018  # fused attention has no second derivative
        hidden = lm.layers[2].attn.output
    (slope,) = torch.autograd.grad(loss(run.output), hidden, create_graph=True)
    (curve,) = torch.autograd.grad(slope.square().sum(), hidden)
    assert curve.abs().sum() > 0


def test_reading_leaves_the_forward_as_it_is(tiny: Tiny) -> None:
    """With gradients kept, to the bit."""
    for family in ("llama", "gpt2", "neox"):
        lm = tiny(family)
        plain = lm.module(**lm.arguments((lm.tokens(TEXT),), {})[1]).logits
        with lm.trace(TEXT) as run:
            for point in ("q", "k", "v", "z"):
                getattr(lm.layers[1].attn, point)
        assert torch.equal(run.output.logits, plain)


def test_checkpointed_parts_can_be_read(fresh: Callable[..., nn.Module], tokenizer: Callable[..., Any]) -> None:
    import cutaway as cut

    module = fresh("llama")
    lm = cut.open(module, tokenizer=tokenizer())
    module.train()
    for block in module.model.layers:
        block.gradient_checkpointing, block._gradient_checkpointing_func = True, partial(checkpoint, use_reentrant=False)
    with lm.trace(TEXT) as run:
        z = lm.layers[1].attn.z
    loss(run.output).backward()
    assert z.shape == (1, 5, 4, 16) and module.model.layers[0].mlp.down_proj.weight.grad is not None
