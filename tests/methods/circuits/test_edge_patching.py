"""Edges against the planted circuit, against forwards with one edge changed by hand in every layout, and by what they cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import cutaway as cut
from cutaway.address import Address
from cutaway.errors import InputError
from cutaway.methods.base import examples
from cutaway.models.language import LanguageModel
from cutaway.results.scores import Scores
from cutaway.tasks.base import Pair, Task

Known = tuple[LanguageModel, Task]
WORDS = 24


@dataclass(frozen=True)
class Layout:
    """Where the modules of an architecture are. after: norms of what attention and MLP write, where it has them."""

    config: str
    layers: str
    attn: str
    out: str
    norms: tuple[str, str, str]
    after: tuple[str, str] = ("", "")


LLAMA = Layout("LlamaConfig", "model.layers", "self_attn", "o_proj", ("input_layernorm", "post_attention_layernorm", "model.norm"))
LAYOUTS = {
    "gpt2": Layout("GPT2Config", "transformer.h", "attn", "c_proj", ("ln_1", "ln_2", "transformer.ln_f")),
    "neox": Layout(
        "GPTNeoXConfig",
        "gpt_neox.layers",
        "attention",
        "dense",
        ("input_layernorm", "post_attention_layernorm", "gpt_neox.final_layer_norm"),
    ),
    "llama": LLAMA,
    "gemma2": Layout(
        "Gemma2Config",
        LLAMA.layers,
        LLAMA.attn,
        LLAMA.out,
        ("input_layernorm", "pre_feedforward_layernorm", "model.norm"),
        ("post_attention_layernorm", "post_feedforward_layernorm"),
    ),
}


@cache
def tiny(layout: str, n_layers: int = 2) -> LanguageModel:
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": n_layers, "num_attention_heads": 4, "intermediate_size": 24}
    if layout in ("llama", "gemma2"):
        sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    if layout == "gpt2":
        sizes = {"n_embd": 16, "n_layer": n_layers, "n_head": 4}
    config = getattr(transformers, LAYOUTS[layout].config)(
        vocab_size=WORDS, bos_token_id=None, eos_token_id=None, pad_token_id=None, **sizes
    )
    module = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in module.parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            weight.copy_(drawn * weight.shape[-1] ** -0.5 * 1.5 if weight.ndim > 1 else weight + 0.2 * drawn)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return cut.open(module.double(), tokenizer=transformers.PreTrainedTokenizerFast(tokenizer_object=words))


PAIR = Pair(cut.Prompt("w1 w2 w3 w4 w5"), cut.Prompt("w1 w2 w7 w4 w5"), "w8", "w9")
LATE = Pair(cut.Prompt("w1 w2 w3"), cut.Prompt("w1 w2 w4"), "w8", "w9")
"""Sides that differ in the last token alone."""


class ByHand:
    """One edge at a time: a forward of the base in which one module is called again on a changed input."""

    def __init__(self, lm: LanguageModel, layout: str, pair: Pair) -> None:
        self.lm, self.layout, self.at = lm, layout, LAYOUTS[layout]
        self.blocks: Sequence[Any] = list(lm.part(self.at.layers).children())
        self.ids = [lm.tokens(side).ids for side in (pair.base, pair.counterfactual)]
        self.written = [self._written(ids) for ids in self.ids]

    def _out(self, layer: int) -> Any:
        return getattr(getattr(self.blocks[layer], self.at.attn), self.at.out)

    def _written(self, ids: Tensor) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}

        def note(name: str) -> Callable[..., None]:
            return lambda module, args, out=None: seen.__setitem__(name, args[0] if out is None else out)

        hooks = [self.blocks[0].register_forward_pre_hook(note("embed"))]
        for i, block in enumerate(self.blocks):
            hooks.append(self._out(i).register_forward_pre_hook(note(f"z{i}")))
            hooks.append(getattr(block, self.at.after[1] or "mlp").register_forward_hook(note(f"mlp{i}")))
        self._run(ids, hooks)
        return seen

    def change(self, sender: str) -> Tensor:
        address = Address.parse(sender)
        base, there = self.written
        if address.head is None:
            name = "embed" if sender == "embed" else f"mlp{address.layer}"
            return there[name] - base[name]
        assert address.layer is not None
        d, z, other = self.lm.sizes.d_head, base[f"z{address.layer}"], there[f"z{address.layer}"]
        part = slice(address.head * d, (address.head + 1) * d)
        mixed = z.clone()
        mixed[..., part] = other[..., part]
        out, after = self._out(address.layer), self.at.after[0]
        norm = getattr(self.blocks[address.layer], after) if after else nn.Identity()
        return norm(out(mixed)) - norm(out(z))

    def logits(self, sender: str, receiver: str) -> Tensor:
        change, hooks = self.change(sender), []
        if receiver == "logits":
            hooks.append(self.lm.part(self.at.norms[2]).register_forward_pre_hook(lambda module, args: (args[0] + change,)))
            return self._run(self.ids[0], hooks)
        address = Address.parse(receiver)
        assert address.layer is not None
        block, found = self.blocks[address.layer], {}
        norm = getattr(block, self.at.norms[1 if address.head is None else 0])
        hooks.append(norm.register_forward_pre_hook(lambda module, args: found.update(x=args[0].clone())))
        if address.head is None:
            hooks.append(block.mlp.register_forward_pre_hook(lambda module, args: (norm.forward(found["x"] + change),)))
        else:
            projection, part = self._projection(getattr(block, self.at.attn), receiver, address.head)

            def again(module: nn.Module, args: Any, out: Tensor) -> Tensor:
                out = out.clone()
                out[..., part] = module.forward(norm.forward(found["x"] + change))[..., part]
                return out

            hooks.append(projection.register_forward_hook(again))
        return self._run(self.ids[0], hooks)

    def _projection(self, attn: Any, receiver: str, head: int) -> tuple[Any, slice]:
        which, d = receiver.partition("attn.")[2][0], self.lm.sizes.d_head
        if self.layout == "gpt2":
            start = "qkv".index(which) * self.lm.sizes.d_model + head * d
            return attn.c_attn, slice(start, start + d)
        if self.layout == "neox":
            start = (3 * head + "qkv".index(which)) * d
            return attn.query_key_value, slice(start, start + d)
        return getattr(attn, f"{which}_proj"), slice(head * d, (head + 1) * d)

    def _run(self, ids: Tensor, hooks: Sequence[Any]) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.lm.module(ids, use_cache=False).logits[:, -1]
        for hook in hooks:
            hook.remove()
        return logits


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "pair"), [*((layout, PAIR) for layout in LAYOUTS), ("llama", LATE)])
def test_every_edge_equals_a_forward_with_that_edge_changed(layout: str, pair: Pair) -> None:
    lm, task = tiny(layout), Task("mine", (pair,))
    scores = cut.circuits.edge_patching(lm, task)
    (example,) = examples(lm, task, "logit_difference")
    hand = ByHand(lm, layout, pair)
    with torch.no_grad():
        naive = np.array([float(example.score(hand.logits(*row.split(" -> ")))) - example.at_base for row in scores.rows])
    assert np.abs(scores.values[:, 0] - naive).max() < 1e-4 * max(1.0, np.abs(naive).max())
    assert (np.abs(naive) > 1e-3).sum() > 20
    sizes = lm.sizes
    written, read = sizes.n_heads + 1, sizes.n_heads + 2 * sizes.n_kv_heads + 1
    within = 0 if layout == "neox" else 2 * sizes.n_heads  # from attention to the MLP after it
    assert len(set(scores.rows)) == len(scores.rows) == (1 + 1 + written) * read + (1 + 2 * written) + within


@pytest.fixture(scope="module")
def on_planted(planted: Known) -> Scores:
    return cut.circuits.edge_patching(*planted)


def test_only_the_planted_edges_have_an_effect(on_planted: Scores) -> None:
    """The relation's token takes over the subject's two features, the MLP looks the fact up, the last token takes it over."""
    moved = {row for row, value in zip(on_planted.rows, on_planted.values[:, 0], strict=True) if abs(value) > 1e-4}
    assert moved == {
        "embed -> layers[0].attn.v[head=1]",
        "embed -> layers[0].attn.v[head=3]",
        "layers[0].attn.z[head=1] -> layers[1].mlp.input",
        "layers[0].attn.z[head=3] -> layers[1].mlp.input",
        "layers[1].mlp.output -> layers[2].attn.v[head=2]",
        "layers[2].attn.z[head=2] -> logits",
    }


def test_an_edge_to_the_logits_is_the_direct_effect_of_what_it_carries(linear: Known) -> None:
    """Where logits are linear in every head, the edges to them add up to the whole difference between the sides."""
    lm, task = linear
    scores = cut.circuits.edge_patching(lm, task, receivers=("logits",))
    gaps = [example.at_counterfactual - example.at_base for example in examples(lm, task, "logit_difference")]
    assert scores.values.sum() == pytest.approx(float(np.mean(gaps)), rel=1e-4)


@pytest.mark.slow
def test_the_previous_token_head_reaches_the_induction_heads_through_their_keys(induction: Known) -> None:
    """The counterfactual has another word before the one to be copied: only what says so at the copied word's place is different."""
    lm, task = induction
    pairs = []
    for pair in task.pairs:
        ids = lm.tokens(pair.base).ids[0, 1:].tolist()
        spot = lm.tokens(pair.base).spans[0]["previous"][0] - 1
        other = next(i for i in lm.ordinary_tokens().tolist() if i not in ids)
        changed = (*ids[:spot], other, *ids[spot + 1 :])
        pairs.append(Pair(pair.base, cut.Prompt("".join(map(lm.token_text, changed)), {}, changed), pair.answer, pair.foil))
    reads = tuple(f"layers[1].attn.{name}[head={h}]" for name in "qkv" for h in range(lm.sizes.n_heads))
    scores = cut.circuits.edge_patching(lm, task.with_pairs(pairs), receivers=reads)
    between = [row for row in scores.ranked() if row.startswith("layers[0]")]
    assert set(between[:3]) == {f"layers[0].attn.z[head=4] -> layers[1].attn.k[head={h}]" for h in (4, 5, 7)}


def test_the_control_is_a_change_as_large_that_does_less(planted: Known, on_planted: Scores) -> None:
    (control,) = on_planted.controls
    assert abs(control.found.value) > 3 * abs(control.trivial.value)
    assert control.found.n == len(planted[1]) and control.trivial.n >= 20


def test_receivers_can_be_chosen(planted: Known, on_planted: Scores) -> None:
    chosen = ("layers[1].mlp.input", "layers[2].attn.v[head=2]")
    some = cut.circuits.edge_patching(*planted, receivers=chosen)
    assert {row.partition(" -> ")[2] for row in some.rows} == set(chosen)
    values = dict(zip(on_planted.rows, on_planted.values[:, 0], strict=True))
    assert [values[row] for row in some.rows] == pytest.approx(list(some.values[:, 0]), abs=1e-5)


@pytest.mark.parametrize("receiver", ["layers[0].attn.z[head=1]", "layers[0].attn.q", "layers[9].attn.q[head=1]", "layers[0].mlp.output"])
def test_what_is_no_receiver_is_refused(planted: Known, receiver: str) -> None:
    with pytest.raises(InputError, match="layers\\[2\\]"):
        cut.circuits.edge_patching(*planted, receivers=(receiver,))


def test_sides_that_are_the_same_have_no_effects() -> None:
    scores = cut.circuits.edge_patching(tiny("llama"), Task("mine", (Pair(PAIR.base, PAIR.base, "w8", "w9"),)))
    assert not scores.values.any()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["gpt2", "neox", "llama"])
def test_an_edge_costs_what_comes_after_it(layout: str) -> None:
    """Receivers' new values are computed once for all their edges from one sender; their rows start at the receiver's layer and first token."""
    lm = tiny(layout, 4)
    task = Task("mine", (PAIR,))
    with FlopCounterMode(display=False) as one:
        lm.run(PAIR.base)
    with FlopCounterMode(display=False) as counter:
        edges = len(cut.circuits.edge_patching(lm, task).rows)
    part = counter.get_total_flops() / (edges * one.get_total_flops())
    print(f"\nedge patching, {layout}: {part:.1%} of the naive FLOPs, {edges} edges")
    assert part < 0.60
