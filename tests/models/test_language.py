"""A language model by its own names: texts in, logits out, heads and words as directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import cutaway as cut
from cutaway.address import Address
from cutaway.errors import AddressError, NumericError, OutOfOrderError, PromptError, UnknownNameError
from cutaway.mediators.ablate import ablate
from cutaway.mediators.scale import scale
from cutaway.models.language import LanguageModel
from cutaway.models.prompt import Prompt

Tiny = Callable[..., LanguageModel]
TEXT = Prompt.fill("w1 {subject} w4 w5", subject="w2 w3")


def hooks(lm: LanguageModel) -> int:
    """Hooks on the module, some of which transformers may have put there."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.module.modules())


# Text


def test_beginning_of_text(fresh: Callable[..., nn.Module], tokenizer: Callable[..., Any]) -> None:
    """The tokenizer alone decides whether a text gets a token at its beginning, and ids get what texts get."""
    with_bos, without = (cut.open(fresh("llama"), tokenizer=tokenizer(bos)) for bos in (True, False))
    assert with_bos.bos_id == 0 and without.bos_id is None
    assert with_bos.tokens("w1 w2").ids.tolist() == [[0, 1, 2]] and without.tokens("w1 w2").ids.tolist() == [[1, 2]]
    ids = Prompt("", {"target": (1, 2)}, ids=(1, 2))
    for lm in (with_bos, without):
        assert torch.equal(lm.tokens(ids).ids, lm.tokens("w1 w2").ids)
        target, last = (f"layers[1].output[pos={pos}]" for pos in ("target", "last"))
        assert torch.equal(lm.run(ids, read=[target])[target], lm.run("w1 w2", read=[last])[last])
    assert with_bos.run("").output.logits.shape == (1, 1, 40)
    with pytest.raises(PromptError, match="not empty"):
        without.run("")


def test_prompt_longer_than_the_context(tiny: Tiny) -> None:
    lm = tiny("gpt2")
    assert lm.run(" ".join(["w1"] * 31)).output.logits.shape[1] == 32
    with pytest.raises(PromptError, match=r"(?s)33 tokens.*at most 32, this model's context"):
        lm.run(" ".join(["w1"] * 32))


def test_inputs_in_every_form(tiny: Tiny) -> None:
    lm = tiny("llama")
    tokens = lm.tokens("w1 w2")
    outputs = [lm.run(what).output.logits for what in ("w1 w2", ["w1 w2"], Prompt("w1 w2"), [Prompt("w1 w2")], tokens)]
    assert all(torch.equal(o, outputs[0]) for o in outputs) and lm.tokens(tokens) is tokens
    with pytest.raises(PromptError, match="2 inputs"):
        lm.run("w1", "w2")
    with pytest.raises(PromptError, match="empty list"):
        lm.run([])


def test_words_and_tokens(tiny: Tiny) -> None:
    lm = tiny("llama")
    assert lm.token_id("w7") == 7 and lm.token_text(7) == "w7" and lm.first_token("w7 w8") == "w7"
    with pytest.raises(PromptError, match="2 tokens: 'w7' \\+ 'w8'"):
        lm.token_id("w7 w8")
    for empty in (lm.token_id, lm.first_token):
        with pytest.raises(PromptError):
            empty("")


def test_next_logits(tiny: Tiny) -> None:
    """For any number of prompts of any lengths, in batches."""
    lm = tiny("llama")
    texts = [" ".join(f"w{1 + (i * j) % 30}" for j in range(1 + i % 7)) for i in range(40)]
    every = lm.next_logits(texts)
    assert every.shape == (40, 40)
    for i in (0, 5, 33, 39):
        torch.testing.assert_close(every[i], lm.run(texts[i]).output.logits[0, -1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers(fresh: Callable[..., nn.Module], tokenizer: Callable[..., Any], bad: float) -> None:
    lm = cut.open(fresh("llama"), tokenizer=tokenizer())
    with torch.no_grad():
        lm.part("lm_head").weight[3] = bad
    with pytest.raises(NumericError, match="NaN or infinite"):
        lm.next_logits("w1 w2")


# Directions


def test_unembed_reads_any_state(tiny: Tiny, kind: str) -> None:
    lm = tiny(kind)
    found = lm.run(TEXT, read=["layers[2].output", "layers[0].output", "logits"])
    torch.testing.assert_close(lm.unembed(found["layers[2].output"]), found["logits"])
    assert not torch.allclose(lm.unembed(found["layers[0].output"]), found["logits"], atol=0.1)


def test_word_directions(tiny: Tiny, kind: str) -> None:
    lm = tiny(kind)
    ids = torch.tensor([3, 9])
    directions, biases = lm.word_directions(ids)
    seen = lm.run(TEXT, read=["norm", "logits"])
    found = seen["norm"] @ directions.T + biases
    cap = getattr(lm.module.config, "final_logit_softcapping", None)
    torch.testing.assert_close(torch.tanh(found / cap) * cap if cap else found, seen["logits"][..., ids])
    assert not directions.requires_grad


def test_word_directions_with_a_bias() -> None:
    lm = cut.open("planted_circuit")
    _, biases = lm.word_directions(torch.tensor([1, 2, 3]))
    assert biases.shape == (3,)


# Names


def test_native_names_beside_standard_ones(tiny: Tiny) -> None:
    lm = tiny("llama")
    pairs = {
        "layers[1].output": "model.layers[1].output",
        "layers[1].attn.z": "model.layers.1.self_attn.o_proj.input",
        "layers[1].mlp.hidden": "layers[1].mlp.down_proj.input",
        "layers[1].attn.q": "layers[1].attn.q_proj.output",
        "norm": "model.norm.output",
    }
    seen = lm.run(TEXT, read=[*pairs, *pairs.values()])
    for standard, native in pairs.items():
        assert torch.equal(seen[standard].flatten(2), seen[native]), standard
    with lm.trace(TEXT):
        assert torch.equal(lm.layers[0].self_attn.q_proj.output, lm.layers[0].attn.q.flatten(2))
        assert lm.layers[1].attn.o_proj.weight is lm.part("model.layers.1.self_attn.o_proj").weight


def test_names_that_are_not_there(tiny: Tiny) -> None:
    lm = tiny("llama")
    with pytest.raises(UnknownNameError, match=r"layers\[1\]\.attn\.(q|z)"):
        lm.run(TEXT, read=["layers[1].attn.zz"])
    with pytest.raises(AddressError, match=r"(?s)3 layers.*layers\[0\] to layers\[2\]"):
        lm.run(TEXT, read=["layers[3].output"])
    with pytest.raises(IndexError, match="3 items"):
        lm.layers[3]
    with pytest.raises(AttributeError, match=r"layers\[1\]\.output"):
        lm.layers[1].outptu  # noqa: B018


def test_completion_lists_standard_and_native_names(tiny: Tiny) -> None:
    lm = tiny("llama")
    assert {"embed", "layers", "norm", "logits", "lm_head", "model", "trace", "sizes"} <= set(dir(lm))
    assert {"q", "k", "v", "scores", "pattern", "z", "output", "q_proj", "input"} <= set(dir(lm.layers[0].attn))
    assert {"input", "mid", "output", "attn", "mlp", "input_layernorm"} <= set(dir(lm.layers[0]))


def test_options_reach_the_forward(tiny: Tiny) -> None:
    lm = tiny("llama")
    assert lm.run("w1 w2 w3", logits_to_keep=1).output.logits.shape == (1, 1, 40)


# Selecting


def test_selectors(tiny: Tiny, neural: str) -> None:
    """Every selector reads the part of the whole it names."""
    lm = tiny(neural)
    z, pattern, hidden = (f"layers[1].{p}" for p in ("attn.z", "attn.pattern", "mlp.hidden"))
    k = "layers[1].attn.k"
    cases: dict[str, Any] = {
        f"{z}[head=2]": lambda w: w[z][:, :, 2],
        f"{z}[head=2, pos=subject.last]": lambda w: w[z][:, 3, 2],
        f"{z}[head=2, unit=1, pos=-1]": lambda w: w[z][:, -1, 2, 1],
        f"{z}[pos=subject]": lambda w: w[z][:, 2:4],
        f"{k}[head=1, pos=0]": lambda w: w[k][:, 0, 1],
        f"{pattern}[head=1]": lambda w: w[pattern][:, 1],
        f"{pattern}[head=1, pos=last]": lambda w: w[pattern][:, 1, -1],
        f"{pattern}[head=1, pos=last, unit=2]": lambda w: w[pattern][:, 1, -1, 2],
        f"{hidden}[unit=5]": lambda w: w[hidden][..., 5],
        f"{hidden}[unit=5, pos=subject.first]": lambda w: w[hidden][:, 2, 5],
        "logits[pos=last, unit=3]": lambda w: w["logits"][:, -1, 3],
        "embed[pos=1]": lambda w: w["embed"][:, 1],
    }
    whole = lm.run(TEXT, read=[z, k, pattern, hidden, "logits", "embed"])
    parts = lm.run(TEXT, read=list(cases))
    edited = lm.run(TEXT, edits=[(f"{pattern}[head=0]", lambda p: p)], read=["logits"])["logits"]
    torch.testing.assert_close(edited, whole["logits"])
    for address, select in cases.items():
        torch.testing.assert_close(parts[address], select(whole), msg=address)
        changed = lm.run(TEXT, edits=[(address, lambda v: v + 1)], read=[Address.parse(address).point])
        point = Address.parse(address).point
        assert int(((changed[point] - whole[point]).abs() > 0.5).sum()) == parts[address].numel(), address


BAD = [
    ("layers[0].output[head=1]", "selector 'head'"),
    ("layers[0].attn.z[head=4]", "4 heads there"),
    ("layers[0].attn.k[head=2]", "2 heads there"),
    ("layers[0].mlp.hidden[unit=48]", "48 units there"),
    ("layers[0].output[pos=6]", "a prompt of 6 tokens"),
    ("layers[0].output[pos=-7]", "a prompt of 6 tokens"),
    ("layers[0].output[pos=object]", "roles: subject"),
    ("layers[0].output[position=3]", "Selector 'position=3'"),
    ("layers[0].output[pos=subject.middle]", "pos='subject.middle'"),
]


@pytest.mark.parametrize(("address", "message"), BAD)
def test_bad_selectors(tiny: Tiny, address: str, message: str) -> None:
    lm = tiny("llama")
    before = hooks(lm)
    for attempt in (
        lambda: lm.run(TEXT, read=[address]),
        lambda: lm.run(TEXT, edits=[(address, ablate())]),
        lambda: lm.sweep(TEXT, edits=[[(address, ablate())]], metric=lambda x: x),
        lambda: lm.gradients(TEXT, of=lm.last, at=[address]),
    ):
        with pytest.raises(AddressError, match=message):
            attempt()
    assert hooks(lm) == before


# Traces of a language model


def test_several_points_of_one_projection(tiny: Tiny, attending: str) -> None:
    """q, k and v of a fused projection are read and written in any order while the forward stands at it."""
    lm = tiny(attending)
    order = ("v", "q", "k") if attending == "gemma3" else ("q", "k", "v")
    edits = [(f"layers[1].attn.{which}", scale(factor)) for which, factor in zip(order, (2.0, 0.5, -1.0), strict=True)]
    expected = lm.run(TEXT, edits=edits).output.logits
    with torch.no_grad(), lm.trace(TEXT) as run:
        attn = lm.layers[1].attn
        setattr(attn, order[0], getattr(attn, order[0]) * 2.0)
        getattr(attn, order[1]).mul_(0.5)
        setattr(attn, order[2], getattr(attn, order[2]) * -1.0)
    assert torch.equal(run.output.logits, expected)
    if attending in ("gpt2", "neox", "bloom", "phi3"):
        with torch.no_grad(), lm.trace(TEXT) as run:
            lm.layers[1].attn.v *= -1.0
            lm.layers[1].attn.q *= 2.0
            lm.layers[1].attn.k *= 0.5
        assert torch.equal(run.output.logits, expected)


def test_change_in_a_trace_is_change_in_a_run(tiny: Tiny, kind: str) -> None:
    lm = tiny(kind)
    names = [n for n in lm.points() if n.startswith("layers[1]") or "layers" not in n]
    for name in names:
        expected = lm.run(TEXT, edits=[(f"{name}[pos=-1]", scale(2.0))]).output.logits
        with torch.no_grad(), lm.trace(TEXT) as run:
            value = eval(f"lm.{name}", {"lm": lm})
            (value[:, :, -1] if name.endswith(("scores", "pattern")) else value[:, -1]).mul_(2.0)
        torch.testing.assert_close(run.output.logits, expected, rtol=0, atol=1e-5, msg=name)


def test_point_that_is_past(tiny: Tiny) -> None:
    lm = tiny("llama")
    with pytest.raises(OutOfOrderError, match=r"(?s)layers\[0\]\.attn\.pattern after layers\[2\]\.mid"), lm.trace(TEXT):
        lm.layers[2].mid  # noqa: B018
        lm.layers[0].attn.pattern  # noqa: B018
    assert lm.module.config._attn_implementation == "sdpa"


def test_early_stop_of_a_run(tiny: Tiny) -> None:
    lm = tiny("llama")
    ran: list[int] = []
    handles = [block.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, block in enumerate(lm.part("model.layers"))]
    lm.run(TEXT, read=["layers[1].attn.z"])
    for handle in handles:
        handle.remove()
    assert ran == [0]


def test_generation_is_traced_from_its_first_step(tiny: Tiny) -> None:
    lm = tiny("llama")
    ids = lm.tokens("w1 w2").ids
    plain = lm.module.generate(ids, max_new_tokens=3, do_sample=False, use_cache=True)
    with lm.trace("w1 w2", fn=lm.module.generate, max_new_tokens=3, do_sample=False, use_cache=True) as run:
        hidden = lm.layers[1].output
    assert torch.equal(run.output, plain) and hidden.shape == (1, 3, 32)
