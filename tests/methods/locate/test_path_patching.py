"""Paths against forwards with hooks set by hand, a formula, compiled programs, exact edges, and the boxes of a trained model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

import cutaway as cut
from cutaway.address import Address
from cutaway.errors import AddressError, InputError, LayoutError, UnknownNameError
from cutaway.methods.base import examples
from cutaway.models.language import LanguageModel
from cutaway.results.scores import Scores
from cutaway.tasks.base import Pair, Task
from cutaway.tasks.entity_tracking import entity_tracking
from cutaway.zoo.base import Transformer, TransformerConfig

Known = tuple[LanguageModel, Task]
WORDS = 24
PAIR = Pair(cut.Prompt("w1 w2 w3 w4 w5"), cut.Prompt("w1 w2 w7 w4 w5"), "w8", "w9")
TASK = Task("mine", (PAIR,))
LAYERS = {"llama": "model.layers", "neox": "gpt_neox.layers"}
ATTENTION = {"llama": ("self_attn", "o_proj"), "neox": ("attention", "dense")}


def drawn(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in module.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(noise * weight.shape[-1] ** -0.5 * 1.5 if weight.ndim > 1 else weight + 0.2 * noise)
    return module.double().eval()


@cache
def tiny(layout: str) -> LanguageModel:
    """Three layers in double precision: MLPs after attention and shared keys and values (llama), or MLPs beside attention (neox)."""
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 24}
    sizes |= {"num_key_value_heads": 2, "head_dim": 8} if layout == "llama" else {}
    config = (transformers.LlamaConfig if layout == "llama" else transformers.GPTNeoXConfig)(
        vocab_size=WORDS, bos_token_id=None, eos_token_id=None, pad_token_id=None, **sizes
    )
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    module = drawn(transformers.AutoModelForCausalLM.from_config(config))
    return cut.open(module, tokenizer=transformers.PreTrainedTokenizerFast(tokenizer_object=words))


class ByHand:
    """Three forwards of the bare module with hooks: what parts write, what receivers then read, what the answer then is."""

    def __init__(self, layout: str, held: Sequence[str]) -> None:
        self.lm, self.layout, self.held = tiny(layout), layout, held
        self.blocks: Sequence[Any] = list(self.lm.part(LAYERS[layout]).children())
        self.ids = [self.lm.tokens(side).ids for side in (PAIR.base, PAIR.counterfactual)]
        self.written = [self._forward(ids, [])[1] for ids in self.ids]

    def logits(self, sender: str, receivers: Sequence[str]) -> Tensor:
        """Base logits where the receivers read what the sender, alone among what is held, writes in the counterfactual's run."""
        _, there = self._forward(self.ids[0], self._hold(sender))
        hooks = [hook for receiver in receivers for hook in self._give(receiver, there)]
        return self._forward(self.ids[0], hooks)[0]

    def _forward(self, ids: Tensor, hooks: list[Any]) -> tuple[Tensor, dict[str, Tensor]]:
        seen: dict[str, Tensor] = {}
        noting = []
        for i, block in enumerate(self.blocks):
            attn = getattr(block, ATTENTION[self.layout][0])
            noting.append(getattr(attn, ATTENTION[self.layout][1]).register_forward_pre_hook(self._note(seen, f"z{i}")))
            noting.append(block.mlp.register_forward_pre_hook(self._note(seen, f"in{i}")))
            noting.append(block.mlp.register_forward_hook(self._note(seen, f"mlp{i}")))
            for name, module, _ in self._projections(attn):
                noting.append(module.register_forward_hook(self._note(seen, f"{name}{i}")))
        noting.append(self.blocks[0].register_forward_pre_hook(self._note(seen, "embed")))
        noting.append(self.blocks[-1].register_forward_hook(self._note(seen, "last")))
        with torch.no_grad():
            logits: Tensor = self.lm.module(ids, use_cache=False).logits[:, -1]
        for hook in (*noting, *hooks):
            hook.remove()
        return logits, seen

    @staticmethod
    def _note(seen: dict[str, Tensor], name: str) -> Callable[..., None]:
        return lambda module, args, out=None: seen.__setitem__(name, args[0] if out is None else out[0] if isinstance(out, tuple) else out)

    def _projections(self, attn: Any) -> list[tuple[str, Any, int]]:
        """q, k, v: the module each comes from, and its place in what comes from it."""
        if self.layout == "neox":
            return [(name, attn.query_key_value, i) for i, name in enumerate("qkv")]
        return [(name, getattr(attn, f"{name}_proj"), 0) for name in "qkv"]

    def _hold(self, sender: str) -> list[Any]:
        base, there = self.written
        address, hooks, d = Address.parse(sender.replace("embed", "layers[99].embed")), [], self.lm.sizes.d_head
        if sender == "embed":
            hooks.append(self.blocks[0].register_forward_pre_hook(lambda module, args: (there["embed"], *args[1:])))
        for i, block in enumerate(self.blocks):
            z, mlp = base[f"z{i}"].clone(), base[f"mlp{i}"]
            if address.layer == i and address.head is not None:
                part = slice(address.head * d, (address.head + 1) * d)
                z[..., part] = there[f"z{i}"][..., part]
            out = getattr(getattr(block, ATTENTION[self.layout][0]), ATTENTION[self.layout][1])
            hooks.append(out.register_forward_pre_hook(lambda module, args, z=z: (z,)))
            if sender == f"layers[{i}].mlp.output":
                mlp = there[f"mlp{i}"]
            elif "MLPs" not in self.held:
                continue
            hooks.append(block.mlp.register_forward_hook(lambda module, args, out, mlp=mlp: mlp))
        return hooks

    def _give(self, receiver: str, there: dict[str, Tensor]) -> list[Any]:
        if receiver == "logits":
            change = there["last"] - self.written[0]["last"]
            norm = self.lm.part("model.norm" if self.layout == "llama" else "gpt_neox.final_layer_norm")
            return [norm.register_forward_pre_hook(lambda module, args: (args[0] + change,))]
        address = Address.parse(receiver)
        assert address.layer is not None
        block = self.blocks[address.layer]
        if address.head is None:
            return [block.mlp.register_forward_pre_hook(lambda module, args: (there[f"in{address.layer}"],))]
        attn, d, name = getattr(block, ATTENTION[self.layout][0]), self.lm.sizes.d_head, receiver.partition("attn.")[2][0]
        module, inside = next((module, inside) for n, module, inside in self._projections(attn) if n == name)
        start = (3 * address.head + inside) * d if self.layout == "neox" else address.head * d
        rows = slice(None) if address.pos is None else [int(address.pos)]

        def change_part(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            out = out.clone()
            out[:, rows, start : start + d] = there[f"{name}{address.layer}"][:, rows, start : start + d]
            return out

        return [module.register_forward_hook(change_part)]


RECEIVERS = (
    ("layers[2].attn.q[head=1]", "layers[1].attn.v[head=1]"),
    ("layers[2].attn.k[head=1]", "layers[2].attn.q[head=3, pos=-1]"),
    ("layers[1].mlp.input",),
    ("logits", "layers[2].attn.v[head=0]"),
)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYERS)
@pytest.mark.parametrize("held", [("heads",), ("heads", "MLPs")])
def test_every_path_equals_forwards_with_hooks_set_by_hand(layout: str, held: tuple[str, ...]) -> None:
    hand, (example,) = ByHand(layout, held), examples(tiny(layout), TASK, "logit_difference")
    for receivers in RECEIVERS:
        scores = cut.locate.path_patching(tiny(layout), TASK, receivers=receivers, held=held)
        naive = np.array([float(example.score(hand.logits(row, receivers))) - example.at_base for row in scores.rows])
        assert np.abs(scores.values[:, 0] - naive).max() < 1e-5
        assert (np.abs(naive) > 1e-3).sum() > 3
    assert {"embed", "layers[2].attn.z[head=3]", "layers[2].mlp.output"} <= set(scores.rows)


def test_the_pattern_is_computed_from_the_edited_queries_and_keys() -> None:
    """One head a layer, no norm, no positions: what the last token attends to, written down, for a change of its query, of the keys, and of both."""
    config = TransformerConfig(("<bos>", *"abcde"), n_layers=2, n_heads=1, d_model=6, d_head=4, norm=False, positions="none", biases=False)
    model = drawn(Transformer(config, seed=1))
    lm, task = cut.open(model), Task("mine", (Pair(cut.Prompt("a b c"), cut.Prompt("a d c"), "d", "e"),))
    (first, second), (example,) = [block.attn for block in model.blocks], examples(lm, task, "logit_difference")
    x, other = (model.embed(lm.tokens(side).ids)[0] for side in (task.pairs[0].base, task.pairs[0].counterfactual))

    def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        future = torch.ones(len(q), len(q), dtype=torch.bool).triu(1)
        return (q @ k.T / 2).masked_fill(future, -1e9).softmax(-1) @ v

    def write(z: Tensor) -> Tensor:
        return z @ first.o_proj.weight.T

    there = write(attended(*(other @ p.weight.T for p in (first.q_proj, first.k_proj, first.v_proj))))
    mid = x + write(attended(*(x @ p.weight.T for p in (first.q_proj, first.k_proj, first.v_proj))))
    for receivers in ("q", "k", "qk"):
        read = [(x + there if name in receivers else mid) for name in "qkv"]
        z = attended(*(r @ p.weight.T for r, p in zip(read, (second.q_proj, second.k_proj, second.v_proj), strict=True)))
        expected = example.score(model.unembed(mid + z @ second.o_proj.weight.T)[-1:]) - example.at_base
        names = tuple(f"layers[1].attn.{name}[head=0]" for name in receivers)
        scores = cut.locate.path_patching(lm, task, receivers=names)
        found = scores.values[scores.rows.index("layers[0].attn.z[head=0]"), 0]
        assert found == pytest.approx(float(expected.detach()), abs=1e-5) and abs(found) > 1e-3


@pytest.mark.slow
def test_with_everything_held_the_senders_of_a_compiled_head_are_found_exactly() -> None:
    lm = cut.open("compiled.two_hop")
    named = cut.locate.path_patching(lm, "known_circuit:n=1", receivers=("layers[2].attn.k[head=0]",), pos="changed.first")
    assert named.rows[0] == "embed[pos=changed.first]", "a role that the task has"
    for receiver in ("layers[2].attn.q[head=0]", "layers[2].attn.k[head=0]", "layers[0].mlp.input"):
        scores = cut.locate.path_patching(lm, "known_circuit:n=4", receivers=(receiver,), held=("heads", "MLPs"))
        moved = {row for row, value in zip(scores.rows, scores.values[:, 0], strict=True) if abs(value) > 1e-4}
        assert moved == {edge.partition(" -> ")[0] for edge in lm.module.circuit.shown if edge.endswith(f"-> {receiver}")}
        edges = cut.circuits.edge_patching(lm, "known_circuit:n=4", receivers=(receiver,))
        exact = dict(zip(edges.rows, edges.values[:, 0], strict=True))
        assert scores.values[:, 0] == pytest.approx([exact[f"{row} -> {receiver}"] for row in scores.rows], abs=1e-4)


def test_mlps_that_answer_freely_are_part_of_the_path(planted: Known) -> None:
    """The movers of layer 0 reach the last head's values through the lookup in the MLP of layer 1, and not by themselves."""
    lm, task = planted
    value = ("layers[2].attn.v[head=2]",)
    free = cut.locate.path_patching(lm, task.with_pairs(task.pairs[:3]), receivers=value)
    alone = cut.locate.path_patching(lm, task.with_pairs(task.pairs[:3]), receivers=value, held=("heads", "MLPs"))
    movers = {"layers[0].attn.z[head=1]", "layers[0].attn.z[head=3]"}
    assert {row for row, v in zip(free.rows, free.values[:, 0], strict=True) if abs(v) > 1e-4} == {*movers, "layers[1].mlp.output"}
    assert {row for row, v in zip(alone.rows, alone.values[:, 0], strict=True) if abs(v) > 1e-4} == {"layers[1].mlp.output"}
    here = cut.locate.path_patching(lm, task.with_pairs(task.pairs[:3]), receivers=value, pos="relation")
    there = cut.locate.path_patching(lm, task.with_pairs(task.pairs[:3]), receivers=value, pos="subject")
    assert np.allclose(here.values, free.values, atol=1e-5) and here.rows[1] == "layers[0].attn.z[head=0, pos=relation]"
    assert not there.values[:, 0].any() and there.rows[0] == "embed[pos=subject]", "its own MLP does not look anything up"
    (control,) = free.controls
    assert abs(control.found.value) > 3 * abs(control.trivial.value)


def test_the_relative_effect_is_that_over_the_base(induction: Known) -> None:
    lm, task = induction
    few = task.with_pairs(task.pairs[:4])
    scores = cut.locate.path_patching(lm, few, metric="probability")
    row = scores.ranked()[0]
    single = [cut.locate.path_patching(lm, few.with_pairs([pair]), metric="probability") for pair in few.pairs]
    place = scores.rows.index(row)
    relative = [float(one.values[place, 0]) / one.numbers["base"] for one in single]
    assert scores.values[place, 1] == pytest.approx(np.mean(relative), rel=1e-4)
    assert scores.low is not None and scores.low[place, 1] < scores.values[place, 1]


def test_what_cannot_be_done_is_refused(planted: Known) -> None:
    for receiver in ("layers[0].attn.z[head=1]", "layers[0].mlp.output", "logits[pos=-1]", "layers[0].mlp.input[head=1]", "embed"):
        with pytest.raises(InputError, match="layers\\[2\\]"):
            cut.locate.path_patching(*planted, receivers=(receiver,))
    with pytest.raises(AddressError, match="3 layers"):
        cut.locate.path_patching(*planted, receivers=("layers[9].attn.q[head=1]",))
    with pytest.raises(AddressError, match="subject"):
        cut.locate.path_patching(*planted, pos="object")
    with pytest.raises(InputError, match="no receivers"):
        cut.locate.path_patching(*planted, receivers=())
    with pytest.raises(UnknownNameError, match="MLPs"):
        cut.locate.path_patching(*planted, held=("MLP",))


def test_a_model_without_heads_is_refused() -> None:
    config = transformers.MambaConfig(vocab_size=WORDS, hidden_size=8, num_hidden_layers=1, state_size=4)
    lm = cut.open(transformers.MambaForCausalLM(config).eval(), tokenizer=tiny("llama").tokenizer)
    with pytest.raises(LayoutError, match="without attention"):
        cut.locate.path_patching(lm, TASK)


def heads(scores: Scores, k: int) -> list[str]:
    """The k heads that lower the answer's probability most."""
    order = np.argsort(scores.values[:, 1])
    return [scores.rows[i] for i in order if "attn" in scores.rows[i]][:k]


@pytest.mark.slow
def test_boxes_are_answered_by_the_same_heads_before_and_after_fine_tuning() -> None:
    """Answer heads, then what their queries read, then what that one's values read (Prakash et al. 2024), in both models."""
    found: dict[str, list[set[str]]] = {}
    for name in ("entity_base_lm", "entity_lm"):
        lm = cut.open(name)
        task = entity_tracking(lm, boxes=5, n=20, seed=10_000, known=False)
        patch = {"lm": lm, "task": task, "metric": "probability"}
        answering = heads(cut.locate.path_patching(**patch, pos="last"), 3)
        queries = tuple(row.replace(".z[", ".q[") for row in answering)
        to_queries = cut.locate.path_patching(**patch, receivers=queries)
        (control,) = to_queries.controls
        assert control.found.high < control.trivial.low, "further than random directions go"
        transmitting = heads(to_queries, 1)
        values = tuple(row.replace(".z[", ".v[") for row in transmitting)
        read = cut.locate.path_patching(**patch, receivers=values, pos="asked")
        assert read.ranked(1)[0] == "embed[pos=asked]", "the label that is asked for is moved to the last token"
        found[name] = [set(answering), set(transmitting)]
        print(f"\n{name}: answer {answering}, transmit {transmitting}, {to_queries.values[:, 1].min():.3f}, {read.values[0, 1]:.3f}")
    (answer, transmit), (answer_tuned, transmit_tuned) = found.values()
    assert len(answer & answer_tuned) / len(answer | answer_tuned) >= 0.5
    assert transmit == transmit_tuned == {"layers[0].attn.z[head=1]"}
