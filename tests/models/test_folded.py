"""Modules that see the tokens of all rows side by side: their values have both axes, and what a router is told is what runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cutaway as cut
from cutaway.engine.site import attach
from cutaway.errors import AddressError, EngineError, UnknownNameError
from cutaway.mediators.add import add
from cutaway.mediators.scale import scale
from cutaway.models.folded import INPUT, Unfolded, prepared
from cutaway.models.language import LanguageModel
from cutaway.models.prompt import Prompt

Tiny = Callable[..., LanguageModel]
TEXTS = ["w1 w2 w3 w4 w5", "w9 w8"]
ROUTER, OUTPUT = "layers[1].mlp.router", "layers[1].mlp.output"


def hooks(lm: LanguageModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.module.modules())


def forced(expert: int) -> Callable[[Tensor], Tensor]:
    """Logits that leave all the weight to one expert."""
    return lambda logits: torch.full_like(logits, -1e3).index_fill(-1, torch.tensor(expert), 1e3)


def one_expert(lm: LanguageModel, expert: int, text: Any) -> Tensor:
    """What one expert makes of the state before the MLP of layer 1, by its weights."""
    experts: Any = lm.part("model.layers.1.mlp.experts")
    read = lm.run(text, read=["model.layers.1.mlp.input"])["model.layers.1.mlp.input"]
    gate, up = (read @ experts.gate_up_proj[expert].detach().T).chunk(2, -1)
    return nn.functional.silu(gate) * up @ experts.down_proj[expert].detach().T


def test_a_forced_expert_is_the_one_that_runs(tiny: Tiny, routing: str) -> None:
    """Differences, because Qwen2's shared expert adds the same to all."""
    lm = tiny(routing)
    found = [lm.run(TEXTS, edits=[(ROUTER, forced(e))], read=[OUTPUT])[OUTPUT] for e in range(4)]
    for e in range(1, 4):
        expected = one_expert(lm, e, TEXTS) - one_expert(lm, 0, TEXTS)
        torch.testing.assert_close(found[e] - found[0], expected, rtol=0, atol=1e-5)
        assert expected.abs().max() > 0.1


def test_a_banned_expert_does_not_run(tiny: Tiny, routing: str) -> None:
    """Its weights may then be anything."""
    lm = tiny(routing)
    ban = [(f"{ROUTER}[unit=2]", lambda x: torch.full_like(x, -torch.inf))]
    before = lm.run(TEXTS, edits=ban).output.logits
    plain = lm.run(TEXTS).output.logits
    down: Any = lm.part("model.layers.1.mlp.experts").down_proj
    kept = down.detach().clone()
    try:
        with torch.no_grad():
            down[2] = 7.0
        assert torch.equal(lm.run(TEXTS, edits=ban).output.logits, before)
        assert not torch.allclose(lm.run(TEXTS).output.logits, plain)
    finally:
        with torch.no_grad():
            down.copy_(kept)


def test_scaled_logits_are_a_scaled_router(tiny: Tiny, routing: str) -> None:
    lm = tiny(routing)
    ours = lm.run(TEXTS, edits=[(ROUTER, scale(-2.0))]).output.logits
    weight: Any = lm.part("model.layers.1.mlp.gate").weight
    with torch.no_grad():
        weight.mul_(-2.0)
    try:
        hand = lm.run(TEXTS).output.logits
    finally:
        with torch.no_grad():
            weight.div_(-2.0)
    torch.testing.assert_close(ours, hand)
    assert not torch.allclose(ours, lm.run(TEXTS).output.logits)


@pytest.mark.parametrize("normed", [True, False])
def test_looking_changes_nothing(fresh: Callable[..., nn.Module], tokenizer: Callable[..., Any], normed: bool) -> None:
    """With the implementation of experts that is used by default, and however weights are normed."""
    module: Any = fresh("qwen3_moe", norm_topk_prob=normed)
    module.set_experts_implementation("grouped_mm")
    lm = cut.open(module, tokenizer=tokenizer())
    plain = lm.run(TEXTS).output.logits
    seen = lm.run(TEXTS, read=[f"layers[{i}].mlp.router" for i in range(3)] + ["logits"])
    assert torch.equal(seen["logits"], plain)
    torch.testing.assert_close(lm.run(TEXTS, edits=[(ROUTER, lambda x: x)]).output.logits, plain, rtol=0, atol=0)
    assert seen[ROUTER].shape == (2, 6, 4)


def test_one_token_of_one_row_is_routed_elsewhere(tiny: Tiny, routing: str) -> None:
    """Tokens before it, and the other row, are what they were."""
    lm = tiny(routing)
    prompts = [Prompt.fill("w1 {subject} w4 w5", subject="w2 w3"), Prompt.fill("{subject} w7", subject="w9")]
    plain, changed = (lm.run(prompts, edits=edits, read=[OUTPUT])[OUTPUT] for edits in ([], [(f"{ROUTER}[pos=subject.last]", forced(3))]))
    different = (plain - changed).abs().amax(-1) > 1e-5
    assert different.nonzero().tolist() in ([[0, 3], [1, 4]], [[0, 3]], [[1, 4]])
    for i, prompt in enumerate(prompts):
        alone = lm.run(prompt, edits=[(f"{ROUTER}[pos=subject.last]", forced(3))], read=[OUTPUT])[OUTPUT]
        torch.testing.assert_close(changed[i, -alone.shape[1] :], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("one", ["opt", "mixtral"])
def test_in_a_trace_that_is_inside_the_block_already(tiny: Tiny, one: str) -> None:
    """How many rows there are is known although the block was entered before anybody asked."""
    lm = tiny(one)
    point = "layers[1].mlp.hidden" if one == "opt" else ROUTER
    expected = lm.run(TEXTS, read=[point])[point]
    edited = lm.run(TEXTS, edits=[(f"{point}[pos=-1]", scale(3.0))]).output.logits
    with torch.no_grad(), lm.trace(TEXTS) as run:
        lm.layers[1].attn.output  # noqa: B018
        value = lm.layers[1].mlp.hidden if one == "opt" else lm.layers[1].mlp.router
        assert torch.equal(value, expected)
        value[:, -1] *= 3.0
    torch.testing.assert_close(run.output.logits, edited)


def test_a_folded_value_equals_the_native_one(tiny: Tiny) -> None:
    """A hook of one's own sees rows side by side."""
    lm = tiny("opt")
    before = hooks(lm)
    pairs = {
        "layers[1].mid": "model.decoder.layers.1.final_layer_norm.input",
        "layers[1].mlp.hidden": "model.decoder.layers.1.fc2.input",
        "layers[1].mlp.output": "model.decoder.layers.1.fc2.output",
    }
    seen = lm.run(TEXTS, read=[*pairs, *pairs.values()])
    assert seen["layers[1].mlp.hidden"].shape == (2, 6, 48)
    for standard, native in pairs.items():
        assert torch.equal(seen[standard].flatten(0, 1), seen[native]), standard
    ours = lm.run(TEXTS, edits=[("layers[1].mlp.hidden[unit=3]", add(torch.tensor(2.0)))]).output.logits
    hook = lm.part("model.decoder.layers.1.fc2").register_forward_pre_hook(
        lambda module, args: (args[0] + 2.0 * nn.functional.one_hot(torch.tensor(3), 48),)
    )
    hand = lm.run(TEXTS).output.logits
    hook.remove()
    torch.testing.assert_close(ours, hand)
    assert hooks(lm) == before


def test_rows_that_cannot_be_told_apart_are_refused() -> None:
    module = nn.Linear(3, 3)
    prepared(torch.zeros(2, 4))
    with Unfolded(nn.Identity(), module)():
        undo = attach(module, INPUT, lambda raw: None)
        with pytest.raises(EngineError, match="6 tokens"):
            module(torch.zeros(6, 3))
        undo()


def test_layers_without_experts(fresh: Callable[..., nn.Module], tokenizer: Callable[..., Any], tiny: Tiny) -> None:
    lm = cut.open(fresh("qwen2_moe", mlp_only_layers=[1]), tokenizer=tokenizer())
    assert [name for name in lm.points() if name.endswith("router")] == ["layers[0].mlp.router", "layers[2].mlp.router"]
    with pytest.raises(UnknownNameError, match=r"layers\[1\]\.mlp\.output"):
        lm.run("w1", read=[ROUTER])
    with pytest.raises(AddressError, match=r"(?s)no mixtures|not mixtures.*mlp\.hidden"):
        tiny("llama").run("w1", read=[ROUTER])
    with pytest.raises(AddressError, match=r"(?s)its own experts.*mlp\.router"):
        tiny("mixtral").run("w1", read=["layers[1].mlp.hidden"])
