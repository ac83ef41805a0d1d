"""The first-order estimate against exact patching: equal where the model is linear, right on compiled programs, blind where a gradient is flat."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cutaway as cut
from cutaway import registry
from cutaway.methods.base import examples, same_length_noise
from cutaway.methods.circuits.base import Estimate, batches, slopes
from cutaway.models.edges import Edges
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task

Known = tuple[LanguageModel, Task]
COMPILED = [name for name in registry.names("zoo") if name.startswith("compiled.") and name not in ("compiled.base", "compiled.compiler")]


def test_on_a_linear_model_it_equals_exact_patching(linear: Known) -> None:
    lm, task = linear
    few = task.with_pairs(task.pairs[:4])
    graph, exact = cut.circuits.eap(lm, few), cut.circuits.edge_patching(lm, few)
    value = dict(zip(exact.rows, exact.values[:, 0], strict=True))
    assert len(value) == len(graph.scored)
    assert max(abs(graph.scores[i] - value[graph.edge(i)]) for i in graph.scored) < 1e-5 * np.abs(exact.values).max()


def test_only_the_planted_edges_have_an_effect(few_planted: Known) -> None:
    """The estimate for an edge into or before the lookup is 4/3 of its effect: the slope goes on past the unit's kink."""
    graph = cut.circuits.eap(*few_planted)
    assert {graph.edge(i) for i in graph.scored if abs(graph.scores[i]) > 1e-4} == {
        "embed -> layers[0].attn.v[head=1]",
        "embed -> layers[0].attn.v[head=3]",
        "layers[0].attn.z[head=1] -> layers[1].mlp.input",
        "layers[0].attn.z[head=3] -> layers[1].mlp.input",
        "layers[1].mlp.output -> layers[2].attn.v[head=2]",
        "layers[2].attn.z[head=2] -> logits",
    }
    assert graph.score("layers[2].attn.z[head=2] -> logits") == pytest.approx(-20, rel=1e-4)
    assert graph.score("layers[0].attn.z[head=1] -> layers[1].mlp.input") == pytest.approx(-40 / 3, rel=1e-4)
    assert set(graph.top(6).circuit()) == set(graph.greedy(6).circuit()) == set(graph.ranked()[:6])


def test_a_unit_that_is_off_is_not_seen(saturated: Known) -> None:
    graph = cut.circuits.eap(*saturated)
    assert graph.score("embed -> layers[0].mlp.input") == 0.0
    exact = cut.circuits.edge_patching(*saturated)
    assert exact.values[exact.rows.index("embed -> layers[0].mlp.input"), 0] == pytest.approx(-1.0)


def test_the_control_is_the_range_of_random_directions(induction: Known) -> None:
    """Its end, against draws: the estimate for the best edge with changes as long, token by token, in random directions."""
    lm, task = induction
    few = task.with_pairs(task.pairs[:4])
    edges, every = Edges(lm), examples(lm, few, "logit_difference")
    generator = torch.Generator().manual_seed(0)
    together = batches(edges, every)
    changes = [edges.record(batch.counterfactual).senders - edges.record(batch.base).senders for batch in together]
    found = [list(slopes(edges, batch)) for batch in together]
    drawn = []
    for _ in range(200):
        estimate = Estimate(edges, len(every))
        for batch, change, slope in zip(together, changes, found, strict=True):
            estimate.add(batch, same_length_noise(change, generator), iter(slope))
        drawn.append(estimate.values.mean(0))
    graph = cut.circuits.eap(lm, few)
    (control,) = graph.controls
    best = int(np.abs(graph.scores[graph.scored]).argmax())
    assert control.trivial.high == pytest.approx(1.96 * np.std(drawn, 0)[best], rel=0.2)
    assert abs(control.found.value) > control.trivial.high


@pytest.mark.parametrize("name", [n if n == "compiled.two_hop" else pytest.param(n, marks=pytest.mark.slow) for n in COMPILED])
def test_known_edges_of_compiled_programs_come_first(name: str) -> None:
    lm = cut.open(name)
    graph = cut.circuits.eap(lm, "known_circuit:n=12")
    true = lm.module.circuit.shown
    assert graph.auroc(true) >= 0.95
    generator = np.random.default_rng(0)
    areas = []
    for _ in range(200):
        scores = np.where(np.isnan(graph.scores), np.nan, generator.random(len(graph.scores)))
        areas.append(graph.with_(scores=scores).auroc(true))
    assert np.mean(areas) == pytest.approx(0.5, abs=0.05)
