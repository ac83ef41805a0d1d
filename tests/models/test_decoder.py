"""Sweeps over language models: resuming a decoder's blocks equals running every intervention by itself, for every architecture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import cutaway as cut
from cutaway.address import Address
from cutaway.engine.memory import Peak
from cutaway.engine.place import Intervention
from cutaway.errors import LayoutError, SlowSweepWarning
from cutaway.mediators.ablate import ablate
from cutaway.mediators.add import add
from cutaway.mediators.noise import noise
from cutaway.mediators.scale import scale
from cutaway.mediators.swap import swap
from cutaway.models.decoder import DecoderStack
from cutaway.models.language import LanguageModel
from cutaway.models.prompt import Prompt
from cutaway.models.tokens import Tokens

# edits at norm and logits run as whole forwards; that a sweep says so is tested by itself
pytestmark = pytest.mark.filterwarnings("ignore::cutaway.errors.SlowSweepWarning")

Tiny = Callable[..., LanguageModel]
Edits = list[Intervention]
ONE = Prompt.fill("w1 w2 {subject} w5 w6 w7", subject="w3 w4")
PADDED = [ONE, Prompt.fill("w9 {subject} w2", subject="w8 w7"), Prompt.fill("{subject} w1", subject="w5 w5")]
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5}
"""Relative to the largest logit. Norms and rotary embeddings of most architectures compute in float32 in any dtype."""


def naive(lm: LanguageModel, text: Any, edits: Sequence[Edits], base: Edits = ()) -> Tensor:
    tokens = lm.tokens(text)
    return torch.stack([lm.last(lm.run(tokens, edits=[*base, *one]).output) for one in edits])


def assert_sweep_is_naive(lm: LanguageModel, text: Any, edits: Sequence[Edits], base: Edits = (), **options: Any) -> None:
    ours = lm.sweep(text, edits=edits, base=base, metric=lambda logits: logits, **options)
    hand = naive(lm, text, edits, base)
    assert ours.shape == hand.shape and hand.isfinite().all()
    worst = ((ours - hand).abs().amax((1, 2)) / hand.abs().max().clamp(min=1)).tolist()
    tolerance = TOLERANCE[hand.dtype]
    assert max(worst) <= tolerance, [(edits[i], error) for i, error in enumerate(worst) if error > tolerance]


def at_every_point(lm: LanguageModel) -> list[Edits]:
    """One edit a point, with and without a position, head or unit."""
    edits: list[Edits] = []
    for i, name in enumerate(lm.points()):
        pos = ("subject.last", -2, 2, "subject", "last")[i % 5]
        edits += [[(name, scale(1.5))], [(f"{name}[pos={pos}]", scale(-0.5))]]
        if ".attn." in name and not name.endswith("output"):
            edits.append([(f"{name}[head=1, pos={pos}]", scale(2.0))])
        if name.endswith(("hidden", "output", "embed", "norm", "logits")):
            edits.append([(f"{name}[unit=5, pos={pos}]", add(torch.tensor(1.0)))])
    return edits


def mixtures(lm: LanguageModel) -> list[Edits]:
    """Several edits at once; of those below, the ones at points that the model has."""
    mid, points = "mid" if "layers[0].mid" in lm.points() else "input", lm.points()
    every: list[Edits] = [
        [],
        [("layers[0].output[pos=subject.last]", ablate()), ("layers[2].attn.z[head=0, pos=-1]", ablate())],
        [("layers[2].mlp.output[pos=-1]", scale(2.0)), (f"layers[1].{mid}[pos=3]", scale(0.1))],  # later point named first
        [("layers[1].input[pos=2]", scale(2.0)), ("layers[0].output[pos=2]", add(torch.ones(())))],  # one state, two names, in this order
        [("layers[1].output[pos=-1]", scale(2.0)), ("layers[1].output[pos=-1]", add(torch.ones(())))],
        [("layers[1].attn.q[head=2]", ablate()), ("layers[1].attn.k[pos=2]", scale(2.0)), ("layers[1].attn.v[pos=-1]", ablate())],
        [("embed[pos=subject]", ablate()), ("layers[2].output[pos=-1]", scale(0.5))],
        [("layers[0].attn.pattern[head=1, pos=-1]", scale(0.5)), ("layers[2].attn.scores[head=1, pos=-1]", scale(0.5))],
        [("norm[pos=-1]", scale(2.0))],
        [("layers[2].output", noise(1.0))],
        [(f"layers[{i}].mlp.output[pos={p}]", ablate()) for i in range(3) for p in ("subject.first", "last")],
        [("layers[0].mlp.router[pos=subject]", scale(-1.0)), ("layers[2].mlp.router[unit=1, pos=-1]", add(torch.tensor(9.0)))],
        [("layers[0].ssm.gate[pos=subject]", scale(-1.0)), ("layers[2].ssm.z[unit=1, pos=-1]", add(torch.tensor(9.0)))],
    ]
    return [edits for edits in every if all(Address.parse(where).point in points for where, _ in edits)]


@pytest.mark.parametrize("text", [ONE, PADDED], ids=["one prompt", "padded batch"])
def test_edit_at_every_point(tiny: Tiny, swept: str, text: Any) -> None:
    lm = tiny(swept, torch.float32 if swept == "gemma2" else torch.float64)  # its own attention makes NaN of padding in float64
    assert_sweep_is_naive(lm, text, at_every_point(lm)[:: 2 if text is ONE else 1])


@pytest.mark.parametrize("text", [ONE, PADDED], ids=["one prompt", "padded batch"])
def test_mixtures(tiny: Tiny, swept: str, text: Any) -> None:
    lm = tiny(swept, torch.float32 if swept == "gemma2" else torch.float64)  # its own attention makes NaN of padding in float64
    assert_sweep_is_naive(lm, text, mixtures(lm))


def test_float32(tiny: Tiny, swept: str) -> None:
    """With a base run of its own; of the points, which are all tried in float64, every third."""
    lm = tiny(swept)
    assert_sweep_is_naive(lm, PADDED, [*at_every_point(lm)[::3], *mixtures(lm)], [("embed[pos=subject]", noise(0.5))])


@pytest.mark.parametrize("text", [ONE, PADDED], ids=["one prompt", "padded batch"])
def test_blocks_that_are_called_in_other_ways(tiny: Tiny, swept_briefly: str, text: Any) -> None:
    lm = tiny(swept_briefly)
    edits = [one for one in at_every_point(lm) if "layers[1]" in str(one[0][0])]
    assert_sweep_is_naive(lm, text, [*edits, *mixtures(lm)], [("embed[pos=subject]", noise(0.5))])


BASES: dict[str, Edits] = {
    "noise on embeddings": [("embed[pos=subject]", noise(2.0))],
    "noise and a part": [("embed[pos=subject]", noise(2.0)), ("layers[1].attn.z[head=1]", ablate())],
    "state before, at and after the join": [(f"layers[{i}].output[pos=subject.last]", scale(1.5)) for i in range(3)],
    "input of a block": [("layers[1].input[pos=2]", scale(2.0)), ("layers[0].output[pos=2]", add(torch.ones(())))],
    "keys and values": [("layers[0].attn.k[pos=2]", ablate()), ("layers[1].attn.v[pos=subject]", scale(3.0))],
    "after the blocks": [("norm", scale(2.0)), ("embed", scale(1.1))],
    "logits": [("logits[unit=3]", add(torch.tensor(5.0)))],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("which", ["gpt2", "llama", "gemma3"])
@pytest.mark.parametrize("text", [ONE, PADDED], ids=["one prompt", "padded batch"])
def test_edits_of_the_base_run(tiny: Tiny, which: str, name: str, text: Any) -> None:
    lm = tiny(which, torch.float64)
    assert_sweep_is_naive(lm, text, [*mixtures(lm), *at_every_point(lm)[::9]], BASES[name])


POINTS = ("input", "output", "mid", "attn.q", "attn.k", "attn.v", "attn.z", "attn.output", "mlp.hidden", "mlp.output")
places = st.builds(
    lambda layer, point, pos: f"layers[{layer}].{point}" + ("" if pos is None else f"[pos={pos}]"),
    st.integers(0, 2),
    st.sampled_from(POINTS),
    st.sampled_from([None, -1, -2, 1, 2, "subject", "subject.last", "last"]),
)
changes = st.sampled_from([scale(0.0), scale(-1.5), add(torch.tensor(0.7)), noise(1.0, seed=3)])
interventions = st.lists(st.tuples(places, changes), max_size=4)


@pytest.mark.parametrize("which", ["gpt2", "llama", "gemma3"])
@given(edits=st.lists(interventions, min_size=1, max_size=5), base=interventions, padded=st.booleans(), small=st.booleans())
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
def test_random_interventions(tiny: Tiny, which: str, edits: list[Edits], base: Edits, padded: bool, small: bool) -> None:
    lm = tiny(which, torch.float64)
    assert_sweep_is_naive(lm, PADDED if padded else ONE, edits, base, budget=1 if small else 2**28)


def test_swaps_from_another_run(tiny: Tiny) -> None:
    """The use the sweep is made for: every state of one run put into another, in many chunks and in one."""
    lm = tiny("llama", torch.float64)
    there = lm.run("w9 w9 w9 w8 w8 w7 w7", read=[f"layers[{i}].output" for i in range(3)])
    edits: list[Edits] = [[(f"layers[{i}].output[pos={t}]", swap(there[f"layers[{i}].output"][0, t]))] for i in range(3) for t in range(8)]
    assert_sweep_is_naive(lm, ONE, edits)
    seen: list[float] = []
    assert_sweep_is_naive(lm, ONE, edits, budget=1, progress=seen.append)
    assert seen == [pytest.approx(1 / 24)] * 24


def test_order_of_the_answers(tiny: Tiny) -> None:
    """Rows are run in another order than they were asked in."""
    lm = tiny("gpt2", torch.float64)
    edits: list[Edits] = [[(f"layers[{i}].output[pos={t}]", scale(1.0 + i + t / 10))] for i, t in ((2, 5), (0, 1), (1, 5), (2, 1), (0, 5))]
    assert_sweep_is_naive(lm, ONE, [[("norm", scale(2.0))], *edits, [], [("embed", scale(2.0))]])


def test_zoo_decoder() -> None:
    lm = cut.open("planted_circuit")
    words = " ".join(lm.module.vocab[1:6])
    places = [f"layers[{i}].{p}[pos={t}]" for i in range(lm.sizes.n_layers) for p in ("output", "attn.z") for t in (1, -1)]
    edits: list[Edits] = [[(place, scale(0.3))] for place in places]
    assert_sweep_is_naive(lm, words, edits, [("embed[pos=2]", noise(0.3))])


def test_unknown_argument_of_a_block_is_refused(tiny: Tiny) -> None:
    """A tensor of unknown meaning cannot be cut to some of the tokens; guessing would be silently wrong."""
    lm = tiny("llama")
    stack = lm.stack
    assert isinstance(stack, DecoderStack)
    hidden = torch.zeros(1, 3, 32)
    with pytest.raises(LayoutError, match="'strange'"):
        stack.resume(0, hidden, ((hidden,), {"strange": torch.zeros(1, 3)}), None, torch.zeros(1).long(), 0)


def flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


LAYOUTS = ("gpt2", "llama", "neox")
DEEP = 12
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
LONG = Prompt.fill("w1 w2 {subject} w5 w6 w7 w8 w9 w10 w11", subject="w3 w4")
N_TOKENS = 12


@cache
def opened_deep(make: Callable[..., nn.Module], tokenizer: Callable[..., Any], layout: str) -> LanguageModel:
    return cut.open(make(layout, **{"n_layer" if layout == "gpt2" else "num_hidden_layers": DEEP}), tokenizer=tokenizer())


@pytest.fixture
def deep_of(fresh: Callable[..., nn.Module], tokenizer: Callable[..., Any]) -> Callable[[str], LanguageModel]:
    """A model of a layout with twelve layers, opened once."""
    return lambda layout: opened_deep(fresh, tokenizer, layout)


@pytest.fixture
def deep(deep_of: Callable[[str], LanguageModel]) -> LanguageModel:
    return deep_of("llama")


def parts(lm: LanguageModel) -> tuple[float, float]:
    """FLOPs of one block on all tokens of `LONG`, and of the head on one token."""
    head = 2 * lm.sizes.d_model * lm.sizes.vocab
    return (flops(lambda: lm.run(LONG)) - head * N_TOKENS) / DEEP, head


@pytest.mark.slow
@each_layout
def test_layers_by_tokens(deep_of: Callable[[str], LanguageModel], layout: str) -> None:
    """A sweep pays only for what lies after each edit: above it in the stack, and from its token on. Counted, not timed."""
    lm = deep_of(layout)
    edits: list[Edits] = [[(f"layers[{i}].output[pos={t}]", scale(0.5))] for i in range(DEEP) for t in range(N_TOKENS)]
    ours = flops(lambda: lm.sweep(LONG, edits=edits, metric=lambda logits: logits[..., 0]))
    hand = len(edits) * flops(lambda: lm.run(LONG))
    print(f"\nlayers x tokens, {layout}: {ours / hand:.1%} of the naive FLOPs")
    assert ours <= 0.30 * hand
    assert_sweep_is_naive(lm, LONG, edits[::11])


@each_layout
def test_every_head_ablated(deep_of: Callable[[str], LanguageModel], layout: str) -> None:
    """An edit at all tokens of block i costs blocks i to L - 1: (L + 1) / 2L of the blocks on average, and the head on one token.

    The closed form: L blocks for the base run, L (L + 1) / 2 for each head number, and the head of the model once for every row.
    """
    lm = deep_of(layout)
    n_heads = lm.sizes.n_heads
    edits: list[Edits] = [[(f"layers[{i}].attn.z[head={h}]", ablate())] for i in range(DEEP) for h in range(n_heads)]
    ours = flops(lambda: lm.sweep(LONG, edits=edits, metric=lambda logits: logits[..., 0]))
    hand = len(edits) * flops(lambda: lm.run(LONG))
    block, head = parts(lm)
    assert ours == DEEP * block + n_heads * DEEP * (DEEP + 1) / 2 * block + len(edits) * head
    assert ours <= 0.60 * hand
    assert_sweep_is_naive(lm, LONG, edits[::5])


@pytest.mark.slow
@each_layout
def test_embedding_edits_run_from_their_token_on(deep_of: Callable[[str], LanguageModel], layout: str) -> None:
    lm = deep_of(layout)
    edits: list[Edits] = [[(f"embed[pos={t}]", scale(0.5))] for t in range(2, N_TOKENS)]
    ours = flops(lambda: lm.sweep(LONG, edits=edits, metric=lambda logits: logits[..., 0]))
    assert ours < 0.60 * len(edits) * flops(lambda: lm.run(LONG))
    assert_sweep_is_naive(lm, LONG, edits)


@pytest.mark.slow
def test_flops_of_causal_tracing(deep: LanguageModel) -> None:
    """Ten rows of noise, every state restored after every block, and MLP and attention in a window."""
    tokens = deep.tokens(LONG)
    rows = Tokens(tokens.ids.repeat(10, 1), tokens.mask.repeat(10, 1), tokens.lengths * 10, tokens.spans * 10)
    base: Edits = [("embed[pos=subject]", noise(0.1))]
    cells = [(i, t) for i in range(12) for t in range(3, 12)]
    states: list[Edits] = [[(f"layers[{i}].output[pos={t}]", scale(0.5))] for i, t in cells]
    windows: list[Edits] = [
        [(f"layers[{j}].{point}[pos={t}]", scale(0.5)) for j in range(max(0, i - 2), min(12, i + 3))]
        for point in ("mlp.output", "attn.output")
        for i, t in cells
    ]
    edits = [[], *states, *windows]
    before = deep.forwards
    ours = flops(lambda: deep.sweep(rows, edits=edits, base=base, metric=lambda logits: logits[..., 0]))
    counted = deep.forwards - before
    one = flops(lambda: deep.run(rows, edits=base))
    print(f"\ncausal trace: {ours / (one * len(edits)):.1%} of the naive FLOPs; {counted:.0f} of {10 * len(edits)} forwards")
    assert ours <= 0.50 * one * len(edits)
    assert counted * one / 10 == pytest.approx(ours, rel=0.15)  # what the model counts as forwards is what was computed


def test_one_event_under_two_names_is_edited_in_the_order_of_each_intervention(tiny: Tiny) -> None:
    """GPT-2 has queries inside the output of one projection, which a native name reaches too."""
    one: Edits = [("layers[1].attn.q[pos=-1]", scale(2.0)), ("transformer.h[1].attn.c_attn.output[pos=-1]", add(torch.ones(())))]
    assert_sweep_is_naive(tiny("gpt2", torch.float64), ONE, [one, one[::-1], one[:1], [*one, one[0]]])


def test_a_model_whose_tokens_look_ahead(fresh: Callable[..., nn.Module], tokenizer: Callable[..., Any]) -> None:
    """It is resumed in depth alone, and says so."""
    lm = cut.open(fresh("gemma3", use_bidirectional_attention=True).double(), tokenizer=tokenizer())
    plain, changed = (lm.run(ONE, edits=e, read=["layers[1].output"])["layers[1].output"] for e in ([], [("embed[pos=-1]", scale(2.0))]))
    assert not torch.allclose(plain[0, 1], changed[0, 1]), "an early token sees the last"
    with pytest.warns(SlowSweepWarning, match=r"2 of 3 .*look ahead"):
        assert_sweep_is_naive(lm, ONE, [[(f"layers[1].output[pos={t}]", scale(0.5))] for t in (0, 3, -1)])
    assert_sweep_is_naive(lm, PADDED, mixtures(lm), [("embed[pos=subject]", noise(2.0))])


@pytest.mark.slow
@each_layout
@pytest.mark.parametrize("point", ["layers[0].output", "layers[0].attn.pattern", "layers[0].mlp.hidden[pos=-1]", "embed[pos=5]"])
def test_memory_stays_in_the_budget(tiny: Tiny, layout: str, point: str) -> None:
    """What a row is thought to take is what it takes, or more, but not much more."""
    lm, budget = tiny(layout), 2**20
    edits: list[Edits] = [[(point, scale(1 + i / 300))] for i in range(300)]
    with Peak() as base:
        lm.sweep(LONG, edits=[[]], metric=lambda logits: logits[..., 0])
    with Peak() as together:
        lm.sweep(LONG, edits=edits, metric=lambda logits: logits[..., 0], budget=budget)
    assert 0.2 * budget <= together.bytes - base.bytes <= budget


def test_an_interruption_leaves_the_model_as_it_was(tiny: Tiny) -> None:
    lm = tiny("llama")

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.module.modules())

    before, left = lm.module.config._attn_implementation, hooks()  # transformers may have put some of its own there

    def stop(logits: Tensor) -> Tensor:
        raise KeyboardInterrupt

    for edits in ([("layers[1].attn.pattern[pos=2]", scale(0.5))], [("embed[pos=2]", scale(0.5))], [("norm", scale(0.5))]):
        with pytest.raises(KeyboardInterrupt):
            lm.sweep(ONE, edits=[edits], metric=stop)
        assert lm.module.config._attn_implementation == before
        assert hooks() == left


@pytest.mark.slow
def test_sweep_keeps_no_reference_to_the_model(fresh: Callable[..., nn.Module], tokenizer: Callable[..., Any]) -> None:
    import gc
    import weakref

    lm = cut.open(fresh("llama"), tokenizer=tokenizer())
    gc.collect()
    gc.disable()
    try:
        lm.sweep("w1 w2 w3", edits=[[("layers[0].output[pos=1]", scale(0.5))]], metric=lambda x: x)
        gone = weakref.ref(lm.module)
        del lm
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.slow
def test_real_model(smollm: LanguageModel) -> None:
    """Thirty layers of float32: an edit of every kind at a few layers, on a base run with noise."""
    prompt = Prompt.fill("{subject} is in the city of", subject="The Eiffel Tower")
    points = ("output", "mid", "attn.q", "attn.k", "attn.v", "attn.z", "attn.pattern", "attn.output", "mlp.hidden", "mlp.output")
    edits: list[Edits] = [[(f"layers[{i}].{p}[pos=subject.last]", scale(0.5))] for i in (0, 14, 29) for p in points]
    assert_sweep_is_naive(smollm, prompt, edits, [("embed[pos=subject]", noise(0.3))])
