"""The algebra of circuits: everything is the model, nothing the other side, the planted circuit enough and needed."""

from __future__ import annotations

import numpy as np
import pytest

import cutaway as cut
from cutaway.errors import InputError
from cutaway.methods.circuits.base import as_graph
from cutaway.models.edges import Edges
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task

Known = tuple[LanguageModel, Task]


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ["counterfactual", "mean", "zero"])
def test_all_edges_are_one_and_none_is_zero(induction: Known, ablation: str) -> None:
    lm, task = induction
    few = task.with_pairs(task.pairs[:2])
    curve = cut.circuits.faithfulness(lm, few, by="circuits.eap", sizes=(0, 20), ablation=ablation)
    (found, random), (left, _) = curve.series
    assert found.value[[0, -1]] == pytest.approx([0, 1], abs=1e-3) and random.value[[0, -1]] == pytest.approx([0, 1], abs=1e-3)
    assert left.value[[0, -1]] == pytest.approx([1, 0], abs=1e-3)
    assert 0.001 < abs(found.value[1]) and curve.x[-1] == 257


@pytest.mark.slow
@pytest.mark.parametrize("grow", ["top", "greedy"])
def test_the_planted_circuit_is_enough_and_needed(few_planted: Known, grow: str) -> None:
    curve = cut.circuits.faithfulness(*few_planted, by="circuits.eap", sizes=(3, 6), grow=grow)
    (found, random), (left, _) = curve.series
    assert found.value[1:] == pytest.approx([1, 1], abs=1e-4) and found.value[0] < 0.6
    assert left.value[1] == pytest.approx(0, abs=1e-4) and random.value[1] == pytest.approx(0, abs=1e-4)
    assert curve.numbers["CMD"] < 0.03 < 0.4 < curve.numbers["CMD of random"]


def test_areas_are_those_under_the_curve(few_planted: Known) -> None:
    curve = cut.circuits.faithfulness(*few_planted, by="circuits.eap", sizes=(0, 131, 262))
    assert curve.series[0][0].value == pytest.approx([0, 1, 1], abs=1e-4)
    assert curve.numbers["CPR"] == pytest.approx(0.75, abs=1e-4) and curve.numbers["CMD"] == pytest.approx(0.25, abs=1e-4)


def test_exact_patching_makes_circuits_too(few_planted: Known) -> None:
    exact = cut.circuits.faithfulness(*few_planted, by="circuits.edge_patching", sizes=(6,))
    assert exact.series[0][0].value == pytest.approx([1, 1], abs=1e-4)


def test_intervals_hold_the_mean(induction: Known) -> None:
    lm, task = induction
    curve = cut.circuits.faithfulness(lm, task.with_pairs(task.pairs[:6]), by="circuits.eap", sizes=(20, 60))
    found = curve.series[0][0]
    assert (found.low <= found.value + 1e-6).all() and (found.value <= found.high + 1e-6).all() and np.ptp(found.high - found.low) > 0
    (control,) = curve.controls
    assert control.found.value < control.trivial.value, "circuits that were found are nearer to the model than random ones"


def test_what_does_not_score_edges_is_refused(few_planted: Known) -> None:
    with pytest.raises(InputError, match="not of all edges"):
        cut.circuits.faithfulness(*few_planted, by="read.logit_lens")
    with pytest.raises(InputError, match="a Graph that is not of all edges"):
        cut.circuits.faithfulness(*few_planted, by="circuits.peap")


def test_heads_and_mlps_are_ranked_by_what_leaves_them(few_planted: Known) -> None:
    lm, task = few_planted
    edges = Edges(lm)
    parts = cut.locate.attribution_patching(lm, task)
    graph = as_graph(edges, parts)
    score = dict(zip(parts.rows, parts.values[:, 0], strict=True))
    for i in graph.scored:
        source = graph.nodes[graph.sources[i]]
        assert graph.scores[i] == score[source] if source != "embed" else graph.scores[i] > max(map(abs, score.values()))
