"""A trained mask on the planted circuit, in every parametrisation: it is that circuit and no other."""

from __future__ import annotations

import pytest

import cutaway as cut
from cutaway.errors import InputError
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task

Known = tuple[LanguageModel, Task]
PLANTED = {
    "embed -> layers[0].attn.v[head=1]",
    "embed -> layers[0].attn.v[head=3]",
    "layers[0].attn.z[head=1] -> layers[1].mlp.input",
    "layers[0].attn.z[head=3] -> layers[1].mlp.input",
    "layers[1].mlp.output -> layers[2].attn.v[head=2]",
    "layers[2].attn.z[head=2] -> logits",
}


@pytest.mark.parametrize("gates", ["hard_concrete", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("sigmoid", "clamp"))])
def test_it_keeps_exactly_the_planted_edges(few_planted: Known, gates: str) -> None:
    graph = cut.circuits.mask(*few_planted, gates=gates, steps=80)
    assert set(graph.circuit()) == PLANTED and graph.auroc(PLANTED) == 1.0
    (control,) = graph.controls
    assert control.found.value == pytest.approx(1, abs=1e-3) and control.trivial.high < 0.1
    assert graph.numbers["edges kept"] == len(PLANTED)


@pytest.mark.slow
def test_a_higher_price_keeps_fewer(induction: Known) -> None:
    lm, task = induction
    few = task.with_pairs(task.pairs[:4])
    cheap, dear = (len(cut.circuits.mask(lm, few, penalty=price, steps=40).circuit()) for price in (1e-3, 1.0))
    assert dear < cheap


def test_no_steps_are_refused(planted: Known) -> None:
    with pytest.raises(InputError, match="steps=1"):
        cut.circuits.mask(*planted, steps=0)
