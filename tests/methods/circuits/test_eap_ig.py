"""Integrated gradients where one gradient does not do, on known circuits, and on a real model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cutaway as cut
from cutaway import registry
from cutaway.errors import InputError
from cutaway.mediators.swap import swap
from cutaway.methods.base import examples, same_length_noise
from cutaway.methods.circuits.base import Estimate, batches, slopes
from cutaway.models.edges import Edges
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task

Known = tuple[LanguageModel, Task]
COMPILED = [name for name in registry.names("zoo") if name.startswith("compiled.") and name not in ("compiled.base", "compiled.compiler")]


@pytest.mark.parametrize("along", ["inputs", "activations"])
def test_it_recovers_what_a_flat_gradient_hides(saturated: Known, along: str) -> None:
    """Three of five steps have the unit on: 3/5 of twice its slope, where the effect is 1."""
    graph = cut.circuits.eap_ig(*saturated, steps=5, along=along)
    assert graph.score("embed -> layers[0].mlp.input") == pytest.approx(-6 / 5)
    assert cut.circuits.eap_ig(*saturated, steps=25, along=along).score("embed -> layers[0].mlp.input") == pytest.approx(-1, abs=0.05)
    true = {"embed -> layers[0].mlp.input", "layers[0].mlp.output -> logits"}
    assert graph.auroc(true) == 1.0 > cut.circuits.eap(*saturated).auroc(true)


@pytest.mark.parametrize("along", ["inputs", "activations"])
def test_on_a_linear_model_it_equals_exact_patching(linear: Known, along: str) -> None:
    lm, task = linear
    few = task.with_pairs(task.pairs[:3])
    graph, exact = cut.circuits.eap_ig(lm, few, steps=2, along=along), cut.circuits.edge_patching(lm, few)
    value = dict(zip(exact.rows, exact.values[:, 0], strict=True))
    assert max(abs(graph.scores[i] - value[graph.edge(i)]) for i in graph.scored) < 1e-5 * np.abs(exact.values).max()


@pytest.mark.slow
def test_on_the_way_from_the_inputs_what_embeddings_do_adds_up(induction: Known) -> None:
    """Completeness of integrated gradients: everything starts at the embeddings, so that their edges add up to the difference between the sides."""
    lm, task = induction
    few = task.with_pairs(task.pairs[:3])
    graph = cut.circuits.eap_ig(lm, few, steps=60)
    gaps = [example.at_counterfactual - example.at_base for example in examples(lm, few, "logit_difference")]
    from_embed = sum(graph.scores[i] for i in graph.scored if graph.edge(i).startswith("embed -> "))
    assert from_embed == pytest.approx(float(np.mean(gaps)), rel=0.05)


def test_the_control_is_the_range_of_random_directions(induction: Known) -> None:
    """Its end, against draws: the estimate for the best edge, of the mean gradient, with changes as long in random directions."""
    lm, task = induction
    few = task.with_pairs(task.pairs[:4])
    graph = cut.circuits.eap_ig(lm, few, steps=3)
    edges, every = Edges(lm), examples(lm, few, "logit_difference")
    parts = []
    for batch in batches(edges, every):
        here, there = edges.record(batch.base), edges.record(batch.counterfactual)
        ways = [there.streams[0] + k / 3 * (here.streams[0] - there.streams[0]) for k in range(3)]
        each = [list(slopes(edges, batch, [("layers[0].input", swap(way))])) for way in ways]
        mean = [(number, at, sum(found[i][2] for found in each) / 3) for i, (number, at, _) in enumerate(each[0])]
        parts.append((batch, there.senders - here.senders, mean))
    generator, drawn = torch.Generator().manual_seed(0), []
    for _ in range(200):
        estimate = Estimate(edges, len(every))
        for batch, change, mean in parts:
            estimate.add(batch, same_length_noise(change, generator), iter(mean))
        drawn.append(estimate.values.mean(0))
    (control,) = graph.controls
    best = int(np.abs(graph.scores[graph.scored]).argmax())
    assert control.trivial.high == pytest.approx(1.96 * np.std(drawn, 0)[best], rel=0.2)


@pytest.mark.parametrize("name", [n if n == "compiled.majority" else pytest.param(n, marks=pytest.mark.slow) for n in COMPILED])
@pytest.mark.parametrize("along", ["inputs", "activations"])
def test_known_edges_of_compiled_programs_come_first(name: str, along: str) -> None:
    lm = cut.open(name)
    true = lm.module.circuit.shown
    assert cut.circuits.eap_ig(lm, "known_circuit:n=12", along=along).auroc(true) >= 0.95


def test_no_steps_are_refused(planted: Known) -> None:
    with pytest.raises(InputError, match="steps=1"):
        cut.circuits.eap_ig(*planted, steps=0)


@pytest.mark.slow
def test_the_name_mover_of_a_real_model(smollm: LanguageModel) -> None:
    graph = cut.circuits.eap_ig(smollm, "ioi:n=8")
    assert "layers[23].attn.z[head=3] -> logits" in graph.ranked()[:5]
    (control,) = graph.controls
    assert abs(control.found.value) > control.trivial.high
