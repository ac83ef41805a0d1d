"""Bodies of many kinds: recorded and replayed, streamed, and packed into one forward, each compared with itself run live."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import einops
import pytest
import torch
import transformers
from torch import Tensor

import cutaway as cut
from cutaway.engine.graph import Graph
from cutaway.engine.interleave import Trace
from cutaway.engine.node import Limits
from cutaway.engine.streaming import Executor
from cutaway.models.language import LanguageModel

Tiny = Callable[..., LanguageModel]
Body = Callable[[LanguageModel, Any], None]
TEXT = "w1 w2 w3 w4 w5 w6"
LIMITS = Limits()
KINDS = ("llama", "gpt2", "neox", "gemma2", "opt")
BODIES: dict[str, Body] = {}


def body(function: Body) -> Body:
    BODIES[function.__name__] = function
    return function


@body
def reads(lm: LanguageModel, run: Any) -> None:
    run.save(embed=lm.embed, h=lm.layers[0].output, z=lm.layers[1].attn.z, hidden=lm.layers[1].mlp.hidden, logits=lm.logits)


@body
def writes(lm: LanguageModel, run: Any) -> None:
    h = lm.layers[0].output
    lm.layers[1].output = (h - h.mean(dim=-1, keepdim=True)) * 1.5
    lm.layers[2].mlp.output *= 0
    run.save(logits=lm.logits)


@body
def in_place(lm: LanguageModel, run: Any) -> None:
    h = lm.layers[1].output
    h += 1
    h[:, -1].mul_(2).clamp_(max=3)
    torch.nn.functional.relu(h[:, 0], inplace=True)
    run.save(h=h, logits=lm.logits)


@body
def assigned_items(lm: LanguageModel, run: Any) -> None:
    z = lm.layers[1].attn.z
    z[:, -1, 3] = 0
    z[:, 1:3, 0, ::2] = z[:, 0, 1, :1].unsqueeze(1)
    run.save(z=z, logits=lm.logits)


@body
def slices(lm: LanguageModel, run: Any) -> None:
    h = lm.layers[0].output
    run.save(a=h[0, -1], b=h[..., :4], c=h[:, None, 1:, 3:9:2], d=h[0][-1][:3], whole=h[:])


@body
def fused(lm: LanguageModel, run: Any) -> None:
    q = lm.layers[1].attn.q
    lm.layers[1].attn.q = q * 0.5
    lm.layers[1].attn.k = lm.layers[1].attn.k + 0.1
    lm.layers[1].attn.v[:, 0] = 0
    run.save(q=q, logits=lm.logits)


@body
def pattern(lm: LanguageModel, run: Any) -> None:
    p = lm.layers[1].attn.pattern
    lm.layers[1].attn.pattern = torch.tril(torch.ones_like(p)) / torch.arange(1, p.shape[-1] + 1).view(-1, 1)
    run.save(p=p, logits=lm.logits)


@body
def skips(lm: LanguageModel, run: Any) -> None:
    lm.layers[1].skip(lm.layers[1].input * 2)
    run.save(logits=lm.logits)


@body
def stops(lm: LanguageModel, run: Any) -> None:
    h = lm.layers[0].output
    run.stop()
    run.save(h=h.norm(dim=-1))


@body
def calls(lm: LanguageModel, run: Any) -> None:
    h = lm.layers[0].output
    mlp = lm.layers[2].mlp(h) if len(lm.layers[2].mlp.__dir__()) else h
    run.save(mlp=mlp[0] if isinstance(mlp, tuple) else mlp, lens=lm.unembed(lm.layers[1].output), logits=lm.logits)


@body
def weights(lm: LanguageModel, run: Any) -> None:
    h = lm.layers[2].output
    words = h @ lm.lm_head.weight.T
    run.save(words=words, norms=words.norm(dim=-1), logits=lm.logits)


@body
def products(lm: LanguageModel, run: Any) -> None:
    z = lm.layers[0].attn.z
    values, indices = torch.einsum("bthd,bshd->bhts", z, z).topk(2, dim=-1)
    pieces = torch.cat(values.chunk(2, dim=1)[::-1], dim=1)
    run.save(values=values, indices=indices, pieces=pieces, near=torch.gather(values, -1, indices.clamp(max=1)))


@body
def chosen(lm: LanguageModel, run: Any) -> None:
    h = lm.layers[0].output
    top = h.abs().amax(-1, keepdim=True)
    kept = torch.where(h.abs() < top, h, torch.zeros_like(h))
    lm.layers[0].output = kept.scatter(-1, kept.argmax(-1, keepdim=True), 7.0)
    run.save(mask=h > 0, any=(h > 0).any(), logits=lm.logits)


@body
def casts(lm: LanguageModel, run: Any) -> None:
    h = lm.layers[0].output
    half = h.to(torch.bfloat16).float() + h.double().to(h.dtype) + h.to(h.device)
    run.save(half=half, ints=h.long(), bools=h.bool(), same=h.type_as(half))


@body
def grads(lm: LanguageModel, run: Any) -> None:
    h = lm.layers[0].output
    (grad,) = torch.autograd.grad(lm.logits[0, -1, 3], h)
    with torch.no_grad():
        scaled = grad * h
    run.save(grad=grad, scaled=scaled)


@body
def rearranged(lm: LanguageModel, run: Any) -> None:
    h = lm.layers[0].output
    heads = einops.rearrange(h, "b s (n d) -> b n s d", n=4)
    run.save(heads=heads, total=einops.reduce(heads, "b n s d -> b n", "sum"), outer=einops.einsum(h, h, "b s d, b t d -> b s t"))


@body
def indices(lm: LanguageModel, run: Any) -> None:
    h = lm.layers[0].output
    where = torch.tensor([0, -1])
    h[:, where] = h[:, where.flip(0)]
    best = h[:, -1].argmax(dim=-1)
    run.save(at=h[:, :, best], picked=h.index_select(1, where.abs()), logits=lm.logits)


@body
def constants(lm: LanguageModel, run: Any) -> None:
    h = lm.layers[0].output
    direction = torch.linspace(-1, 1, h.shape[-1])
    lm.layers[0].output = h + direction * float("1e-3") + torch.tensor(2.0)
    direction += 1  # the graph holds both states of it
    run.save(after=h * direction, nothing=h[:, :0], infinite=h * float("inf"), none=h * torch.tensor(float("nan")))


@body
def plain(lm: LanguageModel, run: Any) -> None:
    h = lm.layers[0].output
    run.save(shape=h.shape, size=h.numel(), listed=[h.sum(), (h.mean(), {"a": h.max()})], text="done", nothing=None)


@body
def whole_output(lm: LanguageModel, run: Any) -> None:
    h = lm.layers[0].output
    out = run.output
    run.save(last=out.logits[:, -1].softmax(-1), h=h)


@body
def native(lm: LanguageModel, run: Any) -> None:
    args, kwargs = lm.layers[1].inputs
    hidden = args[0] if args else kwargs["hidden_states"]
    lm.layers[1].inputs = ((hidden * 1.1, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden * 1.1})
    first = lm.layers[1].output
    run.save(first=first, logits=lm.logits)


EVERY = pytest.mark.parametrize("name", list(BODIES))


def kind_of(name: str) -> str:
    return KINDS[list(BODIES).index(name) % len(KINDS)]


def ran(body: Body, lm: LanguageModel, run: Trace) -> Trace:
    with run:
        body(lm, run)
    return run


@cache
def recorded(lm: LanguageModel, name: str, *texts: str) -> Graph:
    return ran(BODIES[name], lm, lm.record(list(texts))).graph


@cache
def weightless(lm: LanguageModel) -> LanguageModel:
    with torch.device("meta"):
        empty = transformers.AutoModelForCausalLM.from_config(lm.module.config)
    thin = cut.open(empty, tokenizer=lm.tokenizer, verify=False)
    assert isinstance(thin, LanguageModel)
    return thin


def assert_same(found: Any, wanted: Any, close: float = 0.0) -> None:
    if isinstance(wanted, Tensor):
        assert isinstance(found, Tensor) and (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        scale = (
            float(wanted.detach().abs().max()) if wanted.numel() and wanted.is_floating_point() and torch.isfinite(wanted).all() else 1.0
        )
        torch.testing.assert_close(found, wanted, rtol=0, atol=close * scale, equal_nan=True)
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert_same(found[key], wanted[key], close)
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other, close)
    else:
        assert found == wanted


@EVERY
def test_replayed_is_live(tiny: Tiny, name: str) -> None:
    lm = tiny(kind_of(name))
    graph = recorded(lm, name, TEXT)
    again = Graph.from_bytes(graph.to_bytes())
    assert again.hash == graph.hash
    live = ran(BODIES[name], lm, lm.trace(TEXT))
    replayed = lm.replay(again, TEXT, limits=LIMITS)
    assert_same(replayed.saved, live.saved)
    assert replayed.finished == live.finished
    if live.finished:
        assert_same(replayed.output.logits, live.output.logits)


@EVERY
def test_streamed_is_live(tiny: Tiny, name: str) -> None:
    lm = tiny(kind_of(name))
    live = ran(BODIES[name], lm, lm.trace(TEXT))
    thin = weightless(lm)
    with thin.stream(TEXT, to=Executor(lm)) as run:
        BODIES[name](thin, run)
    assert_same(run.saved, live.saved)


@pytest.mark.slow
@pytest.mark.parametrize("of", KINDS)
def test_packed_is_alone(tiny: Tiny, of: str) -> None:
    """Different lengths, several rows."""
    lm = tiny(of)
    texts = [["w1 w2 w3"], [TEXT], ["w7 w8"], ["w4 w5 w6 w7", "w8 w9 w1 w2"]]
    names = [n for n in BODIES if kind_of(n) == of]
    jobs = [(recorded(lm, name, *texts[i % len(texts)]), texts[i % len(texts)]) for i, name in enumerate(names)]
    with torch.no_grad():
        alone = [
            lm.replay(graph, text) if name not in ("grads", "casts") else None for name, (graph, text) in zip(names, jobs, strict=True)
        ]
    calls: list[None] = []
    hook = lm.module.register_forward_hook(lambda module, args, out: calls.append(None))
    packed = lm.replay_together(jobs)
    hook.remove()
    assert len(calls) <= 4 + sum(name in ("grads", "native") for name in names)  # three of them on shapes
    for one, together in zip(alone, packed, strict=True):
        if one is not None:
            assert_same(together.saved, one.saved, close=1e-4)
            assert together.finished == one.finished
            if one.finished:
                assert_same(together.output.logits, one.output.logits, close=1e-4)


@pytest.mark.slow
def test_a_real_model(smollm: LanguageModel) -> None:
    texts = ["The Eiffel Tower is in the city of", "Hello", "One two three four"]

    def own(run: Any) -> None:
        h = smollm.layers[5].output
        smollm.layers[8].output = h * 0.5 + smollm.layers[8].output
        smollm.layers[12].attn.z[:, -1, 3] = 0
        p = smollm.layers[13].attn.pattern
        run.save(p=p, lens=smollm.unembed(smollm.layers[20].output), logits=smollm.logits)

    graph = ran(lambda lm, run: own(run), smollm, smollm.record(texts[0])).graph
    together = smollm.replay_together([(graph, text) for text in texts], limits=LIMITS)
    for text, packed in zip(texts, together, strict=True):
        live = ran(lambda lm, run: own(run), smollm, smollm.trace(text))
        assert_same(smollm.replay(graph, text).saved, live.saved)
        assert_same(packed.saved, live.saved, close=1e-4)
