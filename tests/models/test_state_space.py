"""Mamba and Mamba-2: a block computed by hand from its points, its gate, its carried state, and sweeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, silu, softplus

from cutaway.errors import AddressError
from cutaway.mediators.ablate import ablate
from cutaway.mediators.scale import scale
from cutaway.models.language import LanguageModel
from cutaway.models.state_space import StateSpaceStack

Tiny = Callable[..., LanguageModel]
TEXT = "w1 w2 w3 w4 w5 w6"
LAYER = "backbone.layers.1.mixer"


def convolved(mixer: Any, channels: Tensor) -> Tensor:
    """The causal convolution of channels (batch, pos, channel), and its activation."""
    kernel = mixer.conv1d.weight
    padded = torch.nn.functional.pad(channels.transpose(1, 2), (kernel.shape[-1] - 1, 0))
    return silu(conv1d(padded, kernel, mixer.conv1d.bias, groups=kernel.shape[0])).transpose(1, 2)


def recurrence(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """h = exp(dt a) h + dt b x and y = c h, token by token.

    x and dt (batch, pos, channel), a (channel, state), b and c (batch, pos, channel or 1, state).
    """
    state, out = torch.zeros(x.shape[0], x.shape[2], a.shape[1]), []
    for t in range(x.shape[1]):
        state = (dt[:, t, :, None] * a).exp() * state + (dt[:, t] * x[:, t])[..., None] * b[:, t]
        out.append((state * c[:, t]).sum(-1))
    return torch.stack(out, 1)


@torch.no_grad()
def test_mamba_by_hand(tiny: Tiny) -> None:
    """Gu and Dao (2023), algorithm 2, from the input of the block's projection on."""
    lm = tiny("mamba")
    mixer: Any = lm.part(LAYER)
    seen = lm.run(TEXT, read=[*(f"layers[1].ssm.{p}" for p in ("gate", "conv", "z", "output")), f"{LAYER}.in_proj.output"])
    channels, gate = seen[f"{LAYER}.in_proj.output"].chunk(2, -1)
    x = convolved(mixer, channels)
    torch.testing.assert_close(seen["layers[1].ssm.conv"], x)
    assert torch.equal(seen["layers[1].ssm.gate"], gate)
    rank = mixer.time_step_rank
    step, b, c = mixer.x_proj(x).split([rank, 8, 8], -1)
    y = recurrence(x, softplus(mixer.dt_proj(step)), -mixer.A_log.exp(), b[:, :, None], c[:, :, None]) + x * mixer.D
    z = y * silu(gate)
    torch.testing.assert_close(seen["layers[1].ssm.z"], z, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen["layers[1].ssm.output"], z @ mixer.out_proj.weight.T, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_mamba_2_by_hand(tiny: Tiny) -> None:
    """Dao and Gu (2024): one a and one dt a head, b and c shared by the heads of a group."""
    lm = tiny("mamba2")
    mixer: Any = lm.part(LAYER)
    seen = lm.run(TEXT, read=[*(f"layers[1].ssm.{p}" for p in ("gate", "scan", "z", "output")), f"{LAYER}.in_proj.output"])
    gate, channels, dt = seen[f"{LAYER}.in_proj.output"].split([64, 64 + 2 * 2 * 8, 4], -1)
    assert torch.equal(seen["layers[1].ssm.gate"], gate)
    x, b, c = convolved(mixer, channels).split([64, 16, 16], -1)
    b, c = (v.unflatten(-1, (2, 8)).repeat_interleave(32, 2) for v in (b, c))
    step = softplus(dt + mixer.dt_bias).repeat_interleave(16, -1)
    a = -mixer.A_log.exp().repeat_interleave(16)[:, None].expand(64, 8)
    y = recurrence(x, step, a, b, c) + x * mixer.D.repeat_interleave(16)
    torch.testing.assert_close(seen["layers[1].ssm.scan"], y, rtol=1e-4, atol=1e-5)
    gated = (y * silu(gate)).unflatten(-1, (2, 32))
    z = (gated / (gated.pow(2).mean(-1, keepdim=True) + mixer.norm.variance_epsilon).sqrt()).flatten(-2) * mixer.norm.weight
    torch.testing.assert_close(seen["layers[1].ssm.z"], z, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen["layers[1].ssm.output"], z @ mixer.out_proj.weight.T, rtol=1e-4, atol=1e-4)


def test_a_closed_gate_adds_nothing(tiny: Tiny, state_space: str) -> None:
    lm = tiny(state_space)
    points = ["layers[1].ssm.output", "layers[1].input", "layers[1].output"]
    seen = lm.run(TEXT, edits=[("layers[1].ssm.gate[pos=2]", ablate())], read=points)
    added, entering, leaving = (seen[point][0] for point in points)
    assert (added[2] == 0).all() and torch.equal(entering[2], leaving[2]) and (added[[0, 1, 3]].abs().amax(-1) > 1e-3).all()


def test_a_block_adds_its_output(tiny: Tiny, state_space: str) -> None:
    lm = tiny(state_space)
    for i in range(3):
        seen = lm.run(TEXT, read=[f"layers[{i}].{p}" for p in ("input", "ssm.output", "output")])
        torch.testing.assert_close(seen[f"layers[{i}].input"] + seen[f"layers[{i}].ssm.output"], seen[f"layers[{i}].output"])


HOOKS: dict[str, tuple[str, Any]] = {
    "gate": ("in_proj", lambda kind: slice(64, 128) if kind == "mamba" else slice(0, 64)),
    "scan": ("norm", None),
    "z": ("out_proj", None),
}


@pytest.mark.parametrize("point", HOOKS)
def test_writing_is_a_hook_by_hand(tiny: Tiny, state_space: str, point: str) -> None:
    lm = tiny(state_space)
    if f"layers[1].ssm.{point}" not in lm.points():
        assert (state_space, point) == ("mamba", "scan")
        return
    ours = lm.run(TEXT, edits=[(f"layers[1].ssm.{point}[pos=3]", scale(-2.0))]).output.logits
    name, part = HOOKS[point]

    def after(module: Any, args: Any, out: Tensor) -> None:
        out[:, 3, part(state_space)] *= -2

    def before(module: Any, args: Any) -> None:
        args[0][:, 3] *= -2

    module = lm.part(f"{LAYER}.{name}")
    hook = module.register_forward_hook(after) if part else module.register_forward_pre_hook(before)
    with torch.no_grad():
        hand = lm.run(TEXT).output.logits
    hook.remove()
    torch.testing.assert_close(ours, hand)
    assert not torch.allclose(ours, lm.run(TEXT).output.logits)


def test_what_the_state_space_reads_is_changed_everywhere(tiny: Tiny) -> None:
    """Mamba's scan reads the convolution's output beside the projection whose input it is: without it nothing is left, and the state stays zero."""
    lm = tiny("mamba")
    seen = lm.run(TEXT, edits=[("layers[1].ssm.conv", ablate())], read=["layers[1].ssm.z"])
    assert (seen["layers[1].ssm.z"] == 0).all()
    kept = lm.run(TEXT, edits=[("layers[1].ssm.conv", ablate())], use_cache=True).output.cache_params
    assert (kept.layers[1].recurrent_states[0] == 0).all() and (kept.layers[0].recurrent_states[0] != 0).any()


def test_the_carried_state_is_said_to_be_elsewhere(tiny: Tiny, state_space: str) -> None:
    """It is where the message says."""
    lm = tiny(state_space)
    with pytest.raises(AddressError, match=r"use_cache=True.*recurrent_states\[0\]"):
        lm.run(TEXT, read=["layers[1].ssm.state"])
    state = lm.run(TEXT, use_cache=True).output.cache_params.layers[1].recurrent_states[0]
    assert state.shape == ((1, 64, 8) if state_space == "mamba" else (1, 4, 16, 8)) and state.abs().max() > 0
    with pytest.raises(AddressError, match=r"(?s)neither attention nor an MLP.*ssm\.z"):
        lm.run(TEXT, read=["layers[1].attn.z"])


def test_parts_by_their_names(tiny: Tiny, state_space: str) -> None:
    lm = tiny(state_space)
    with lm.trace(TEXT):
        assert torch.equal(lm.layers[1].ssm.out_proj.input, lm.layers[1].ssm.z)
    assert lm.layers[1].ssm.D.shape == ((64,) if state_space == "mamba" else (4,))
    with pytest.raises(AttributeError, match=r"layers\[1\]\.attn"):
        lm.layers[1].attn  # noqa: B018
    assert not hasattr(tiny("llama").layers[1], "ssm")


def test_sweeps_share_the_blocks_before_an_edit(tiny: Tiny, state_space: str) -> None:
    lm = tiny(state_space)
    assert isinstance(lm.stack, StateSpaceStack)
    edits = [[(f"layers[{i}].output[pos={t}]", scale(0.5))] for i in range(3) for t in range(7)]
    before = lm.forwards
    ours = lm.sweep(TEXT, edits=edits, metric=lambda logits: logits)
    assert lm.forwards - before == pytest.approx(1 + 7 * (2 + 1 + 0) / 3)
    hand = torch.stack([lm.last(lm.run(TEXT, edits=one).output) for one in edits])
    torch.testing.assert_close(ours, hand, rtol=0, atol=1e-5)
