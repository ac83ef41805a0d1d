"""The model with some edges only: all of them is the model, none is the other side, one cut is what edge patching measures; and a forward by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import cutaway as cut
from cutaway.errors import LayoutError
from cutaway.models.edges import Edges, Written
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Pair, Task
from cutaway.zoo.base import Transformer, TransformerConfig

Tiny = Callable[..., LanguageModel]
BASE, OTHER = ("w1 w2 w3 w4 w5", "w5 w1 w7 w2 w1"), ("w1 w2 w7 w4 w5", "w5 w1 w7 w2 w9")
FAMILIES = ("gpt2", "neox", "llama", "qwen3", "gemma2", "gemma3", "olmo2", "opt")
MORE = (
    "neox_sequential",
    "mistral",
    "qwen2",
    "gemma",
    "phi",
    "phi3",
    "olmo",
    "olmo3",
    "gptj",
    "bloom",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
)


def sides(lm: LanguageModel) -> tuple[Edges, Tensor, Tensor, Written]:
    """Edges, all of them kept, none kept, and what the other side writes."""
    edges = Edges(lm)
    whole = torch.ones(len(edges.senders), len(edges.receivers))
    return edges, whole, whole * 0, edges.record(lm.tokens(list(OTHER)))


@pytest.mark.parametrize("family", [*FAMILIES, *(pytest.param(family, marks=pytest.mark.slow) for family in MORE)])
def test_all_edges_are_the_model_and_none_the_other_side(tiny: Tiny, family: str) -> None:
    lm = tiny(family, torch.float64)
    edges, whole, none, other = sides(lm)
    base = lm.tokens(list(BASE))
    with torch.no_grad():
        torch.testing.assert_close(edges.run(base, whole, other), lm.next_logits(base), rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(edges.run(base, none, other), lm.next_logits(list(OTHER)), rtol=1e-6, atol=1e-5)
        assert (edges.run(base, torch.full_like(whole, 0.5), other) - lm.next_logits(base)).abs().max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "neox", "llama", "qwen3", "gemma3"])
def test_one_edge_cut_is_that_edge_patched(tiny: Tiny, family: str) -> None:
    """Of heads only where no norm follows attention: what one head's part of a norm's output is, patching takes in another way."""
    lm = tiny(family)
    edges, whole, _, _ = sides(lm)
    task = Task("mine", (Pair(cut.Prompt(BASE[0]), cut.Prompt(OTHER[0]), "w8", "w9"),))
    scores = cut.circuits.edge_patching(lm, task)
    exact = dict(zip(scores.rows, scores.values[:, 0], strict=True))
    assert set(exact) == {f"{edges.senders[s]} -> {edges.receivers[r]}" for s, r in edges.pairs}
    base, other = lm.tokens(BASE[0]), edges.record(lm.tokens(OTHER[0]))
    words = [lm.token_id("w8"), lm.token_id("w9")]

    def difference(keep: Tensor) -> float:
        logits = edges.run(base, keep, other)[0, words]
        return float(logits[0] - logits[1])

    with torch.no_grad():
        untouched = difference(whole)
        pairs = [(s, r) for s, r in edges.pairs if not (lm.family.attn_norm and ".attn." in edges.senders[s])]
        for s, r in pairs[:: max(1, len(pairs) // 12)]:
            keep = whole.clone()
            keep[s, r] = 0
            found = difference(keep) - untouched
            assert found == pytest.approx(exact[f"{edges.senders[s]} -> {edges.receivers[r]}"], abs=2e-3)


def by_hand(model: Transformer, ids: Tensor, keep: Tensor, other: Written, edges: Edges) -> Tensor:
    """The gated forward of one prompt, receiver after receiver, token after token."""
    s = {name: i for i, name in enumerate(edges.senders)}
    r = {name: i for i, name in enumerate(edges.receivers)}
    written: dict[str, Tensor] = {"embed": (model.embed(ids) + model.position(torch.arange(ids.shape[1])))[0]}

    def reads(receiver: str, stream: Tensor) -> Tensor:
        found = stream.clone()
        for sender, value in written.items():
            found = found + keep[s[sender], r[receiver]] * (value - other.senders[0, s[sender]])
        return found

    streams = iter(other.streams)
    for i, block in enumerate(model.blocks):
        attn, stream = block.attn, next(streams)[0]
        new = {}
        for h in range(attn.n_heads):
            rows = slice(h * attn.d_head, (h + 1) * attn.d_head)
            q, k, v = (
                project(block.norm_1(reads(f"layers[{i}].attn.{name}[head={h}]", stream)))[:, rows]
                for name, project in (("q", attn.q_proj), ("k", attn.k_proj), ("v", attn.v_proj))
            )
            z = []
            for t in range(len(q)):
                weights = torch.softmax(k[: t + 1] @ q[t] / attn.d_head**0.5, 0)
                z.append(weights @ v[: t + 1])
            new[f"layers[{i}].attn.z[head={h}]"] = torch.stack(z) @ attn.o_proj.weight[:, rows].T
        written |= new
        written[f"layers[{i}].mlp.output"] = block.mlp(block.norm_2(reads(f"layers[{i}].mlp.input", next(streams)[0])))
    return model.unembed(model.norm(reads("logits", next(streams)[0])[-1]))


def test_any_mixture_equals_a_forward_by_hand() -> None:
    vocab = ("<bos>", *(f"w{i}" for i in range(1, 12)))
    model = Transformer(TransformerConfig(vocab, n_layers=2, n_heads=2, d_model=12, d_head=5, d_mlp=7), seed=3).double().eval()
    lm = cut.open(model)
    edges, base = Edges(lm), lm.tokens("w1 w2 w3 w4")
    other = edges.record(lm.tokens("w5 w2 w6 w7"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(3):
            keep = torch.rand(len(edges.senders), len(edges.receivers), generator=generator).double()
            torch.testing.assert_close(edges.run(base, keep, other)[0], by_hand(model, base.ids, keep, other, edges))


def test_tokens_can_be_told_apart(tiny: Tiny) -> None:
    lm = tiny("llama")
    edges, whole, _, other = sides(lm)
    base, length = lm.tokens(list(BASE)), 6
    with torch.no_grad():
        same = edges.run(base, whole[..., None].expand(-1, -1, length), other)
        torch.testing.assert_close(same, lm.next_logits(base), rtol=1e-4, atol=1e-4)
        one = whole[..., None].repeat(1, 1, length)
        one[:, :, 3] = 0  # where the first pair differs; the second differs at the last token, which still reads everything
        changed = (edges.run(base, one, other) - same).abs().amax(-1)
    assert changed[0] > 1e-2


def test_gradients_flow_to_the_gates_and_stop_at_the_weights(tiny: Tiny) -> None:
    lm = tiny("gpt2", torch.float64)
    edges, whole, _, other = sides(lm)
    base = lm.tokens(list(BASE))
    keep = torch.full_like(whole, 0.7, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(edges.run(base, keep, other)[:, 8].sum(), [keep])
    sender, receiver = (int(i) for i in edges.pairs[-3])
    step = torch.zeros_like(keep)
    step[sender, receiver] = 1e-4
    with torch.no_grad():
        ends = [edges.run(base, keep + sign * step, other)[:, 8].sum() for sign in (1, -1)]
    assert float(slope[sender, receiver]) == pytest.approx(float(ends[0] - ends[1]) / 2e-4, rel=1e-3)
    assert all(weight.grad is None for weight in lm.module.parameters())


def test_silenced_senders_leave_what_no_part_wrote(tiny: Tiny) -> None:
    """Without a bias anywhere, nothing."""
    lm = tiny("mistral", torch.float64)
    edges, *_, other = sides(lm)
    for stream in other.silenced(edges.readings).streams:
        assert stream.abs().max() < 1e-4


@pytest.mark.parametrize("family", [*FAMILIES, *(pytest.param(family, marks=pytest.mark.slow) for family in MORE)])
def test_slopes_are_those_of_the_run_itself(tiny: Tiny, family: str) -> None:
    """The gradient at what a receiver reads, times a small change there, is how the metric changes where the edge's gate is moved a little."""
    lm = tiny(family, torch.float64)
    edges, whole, _, other = sides(lm)
    base = lm.tokens(list(BASE))
    here = edges.record(base)
    keep = whole.double().requires_grad_()
    (slope,) = torch.autograd.grad(edges.run(base, keep, other)[:, 8].sum(), [keep])
    points = list(dict.fromkeys(p for at in edges.readings for p in edges.seen(at)))
    values, arriving = lm.gradients(base, of=lambda out: lm.last(out)[:, 8], at=points)
    for at in edges.readings:
        found = edges.slopes(at, values[edges.seen(at)[0]], arriving)
        moved = torch.einsum("b r t d, b s t d -> s r", found, (here.senders - other.senders)[:, : at.before])
        torch.testing.assert_close(moved, slope[: at.before, at.first : at.stop], rtol=1e-5, atol=1e-6)


def test_wiring_joins_what_a_head_reads_to_what_it_writes(tiny: Tiny) -> None:
    edges = Edges(tiny("llama"))
    joined = {(edges.receivers[r], edges.senders[s]) for r, s in edges.wiring}
    assert ("layers[1].attn.q[head=3]", "layers[1].attn.z[head=3]") in joined
    assert ("layers[1].attn.k[head=1]", "layers[1].attn.z[head=2]") in joined, "two heads share a key"
    assert ("layers[1].attn.k[head=0]", "layers[1].attn.z[head=2]") not in joined
    assert ("layers[2].mlp.input", "layers[2].mlp.output") in joined
    assert np.unique(edges.pairs, axis=0).shape == edges.pairs.shape


def test_a_model_without_heads_is_refused(tiny: Tiny) -> None:
    with pytest.raises(LayoutError, match="heads"):
        Edges(tiny("mamba"))
