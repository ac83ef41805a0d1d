"""Causal tracing against the planted circuit, a naive loop, and facts of a real language model."""

from __future__ import annotations

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

import cutaway as cut
from cutaway.address import Address
from cutaway.errors import InputError, PromptError, UnknownNameError
from cutaway.mediators.noise import noise
from cutaway.mediators.swap import swap
from cutaway.methods.base import examples
from cutaway.methods.locate.causal_trace import _repeated, around
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task

Known = tuple[LanguageModel, Task]


def test_in_the_planted_circuit_the_fact_moves_from_the_subject_over_the_relation_to_the_last_token(planted: Known) -> None:
    lm, task = planted
    trace = cut.locate.causal_trace(lm, task.with_pairs(task.pairs[:1]), samples=16, window=1)
    states = trace.values[0]
    tokens = lm.tokens(task.pairs[0].base)
    subject, relation = tokens.spans[0]["subject"][0], tokens.spans[0]["relation"][0]
    full = trace.numbers["untouched"] - trace.numbers["corrupted"]
    assert full > 0.5
    others = [t for t in range(len(states)) if t != relation]
    # not all of it comes back: the noisy subject also draws the last token's attention away from the relation
    assert states[relation, 1] > 2 * max(states[others, 1]), "after layer 1 the relation's token holds the fact"
    assert states[-1, 2] == pytest.approx(full, abs=1e-4), "after layer 2 the last token holds it"
    assert abs(states[-1, :2]).max() < 0.01 and abs(states[subject, 2]) < 0.01, "and it is nowhere else"
    assert states[:subject].tolist() == np.zeros_like(states[:subject]).tolist()


def test_it_equals_one_forward_for_each_restoration(induction: Known) -> None:
    lm, task = induction
    one = task.with_pairs(task.pairs[:1])
    trace = cut.locate.causal_trace(lm, one, samples=3, window=2, seed=4)
    (example,) = examples(lm, one, "probability")
    tokens = _repeated(example.base, 3)
    std = 3.0 * float(lm.module.embed.weight.detach().std())
    base = [(Address("embed", pos="target"), noise(std, seed=4))]
    clean = lm.run(example.base, read=["layers[0].attn.output", "layers[1].attn.output", "layers[1].output"])

    def naive(edits: list) -> np.ndarray:
        return example.score(lm.last(lm.run(tokens, edits=[*base, *edits]).output)).numpy()

    corrupted = naive([])
    token = example.n_tokens - 1
    state = naive([(f"layers[1].output[pos={token}]", swap(clean["layers[1].output"][0, token]))])
    points = around("attn.output", 1, 2, 2)
    window = naive([(f"{point}[pos={token}]", swap(clean[point][0, token])) for point in points])
    assert points == ["layers[0].attn.output", "layers[1].attn.output"]
    assert trace.numbers["corrupted"] == pytest.approx(corrupted.mean(), abs=1e-5)
    assert trace.values[0, token, 1] == pytest.approx((state - corrupted).mean(), abs=1e-5)
    assert trace.values[trace.panels.index("attention"), token, 1] == pytest.approx((window - corrupted).mean(), abs=1e-5)


@pytest.mark.slow
def test_its_sweep_costs_at_most_60_percent_of_the_naive_one_counted(smollm_layout: LanguageModel) -> None:
    lm = smollm_layout
    prompt = cut.Prompt("", {"subject": (0, 3)}, ids=tuple(range(5, 14)))
    task = Task("counted", (cut.Pair(prompt, prompt, lm.token_text(20), lm.token_text(21)),))
    with FlopCounterMode(display=False) as swept:
        trace = cut.locate.causal_trace(lm, task, samples=2, window=4)
    with FlopCounterMode(display=False) as one:
        lm.run(prompt)
    cells = trace.values.size
    assert swept.get_total_flops() <= 0.6 * cells * 2 * one.get_total_flops()


def test_windows_are_cut_off_at_both_ends() -> None:
    assert around("mlp.output", 0, 4, 6) == [f"layers[{i}].mlp.output" for i in (0, 1)]
    assert around("mlp.output", 3, 4, 6) == [f"layers[{i}].mlp.output" for i in (1, 2, 3, 4)]
    assert around("mlp.output", 5, 4, 6) == [f"layers[{i}].mlp.output" for i in (3, 4, 5)]
    assert around("output", 5, 4, 6) == ["layers[5].output"]


def test_bad_settings_are_refused(planted: Known) -> None:
    with pytest.raises(InputError, match="samples=0"):
        cut.locate.causal_trace(*planted, samples=0)
    with pytest.raises(PromptError, match="object"):
        cut.locate.causal_trace(*planted, role="object")
    with pytest.raises(UnknownNameError, match="states"):
        cut.locate.causal_trace(*planted, panels=("state",))


@pytest.mark.slow
def test_facts_of_a_real_model_are_held_at_the_last_subject_token_early_and_at_the_last_token_late(smollm: LanguageModel) -> None:
    """Meng et al. 2022, figure 2, averaged over 50 facts: `docs/figures/causal_trace_facts.png`."""
    trace = cut.locate.causal_trace(smollm, "facts:relation=landmark_city,n=50", samples=1, panels=("states",))
    assert trace.provenance.n >= 50
    at = {name: i for i, name in enumerate(trace.rows)}
    early, late = slice(2, 15), slice(24, 30)
    assert trace.low is not None and trace.high is not None
    last_subject, last = trace.values[0, at["last subject"]], trace.values[0, at["last"]]
    assert (trace.low[0, at["last subject"], early] > 0).all()
    assert (trace.low[0, at["last"], late] > 0).all()
    for name in ("first after", "further", "last"):
        assert (trace.high[0, at[name], early] < last_subject[early]).all(), name
    for name in ("first subject", "middle subject", "last subject", "first after", "further"):
        assert (trace.high[0, at[name], late] < last[late]).all(), name
