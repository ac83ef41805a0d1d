"""How much of the behaviour is in the connections that a method found, and how much is left without them?

Makes circuits of more and more edges by the scores of another method, and runs the model with only these, and with only all others.

Mediator:
    edge; all but a circuit's, cut together.

Search:
    ranking; the scores of another method.

Measure:
    part of the metric's way from nothing kept to the whole model; areas CPR and CMD.

Controls:
    random circuits.

Method:
    Every head, MLP and the logits read, from each earlier part, what it writes in this very run if the edge is kept, and what it writes instead
    if it is cut: f = (m(circuit) - m(nothing)) / (m(model) - m(nothing)), m the metric's mean over pairs. Completeness is f of all edges but the
    circuit's. CPR is the area under f over the part of edges kept, CMD the area of |1 - f|. Random circuits: as many edges, drawn and pruned alike.

Source:
    Mueller et al. 2025 (MIB), arXiv 2504.13151; Hanna, Pezzelle and Belinkov 2024, arXiv 2403.17806; completeness: Wang et al. 2022, arXiv
    2211.00593.

Returns:
    Trajectory over the number of edges chosen, panels "kept only" and "cut": f for the circuits and for random ones, intervals over pairs; 1 is the
    whole model, 0 is all edges cut. `numbers`: CPR, CMD, both for random circuits, and the metric at both ends.

Does not show:
    Whether a smaller circuit would do; what the circuit does on other prompts. Scores and faithfulness are from the same pairs.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> curve = cut.circuits.faithfulness(lm, "induction:n=4,length=8", by="circuits.eap")
    >>> abs(float(curve.series[0][0].value[-1]) - 1) < 1e-4
    True
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from cutaway import registry
from cutaway.methods.base import Started, examples
from cutaway.methods.circuits.base import (
    FRACTIONS,
    Ablation,
    as_graph,
    batches,
    distance,
    faithful,
    keeping,
    measured,
    middle,
    performance,
    resampled,
    shuffled,
)
from cutaway.metrics.bootstrap import spread
from cutaway.models.edges import Edges
from cutaway.models.language import LanguageModel
from cutaway.progress import progress
from cutaway.registry import Calls
from cutaway.results.base import Control, Interval
from cutaway.results.graph import Graph
from cutaway.results.trajectory import Series, Trajectory
from cutaway.tasks.base import Task, find_task

_DRAWS = 3
PANELS = ("kept only", "cut")


def faithfulness(
    lm: LanguageModel,
    task: Task | str,
    *,
    by: Annotated[str, Calls("methods")] = "circuits.eap_ig",
    sizes: tuple[int, ...] = (),
    grow: Literal["top", "greedy"] = "top",
    signed: bool = False,
    ablation: Ablation = "counterfactual",
    metric: str = "logit_difference",
    seed: int = 0,
) -> Trajectory:
    """f of circuits made from the scores of a method; see the module.

    by: a method, with options after a colon, that scores all edges of the model, or all its heads and MLPs (an edge then has the score of what
    it comes from). sizes: numbers of edges; without them, those of MIB, 0.1 % to all. grow: the best edges, or greedily from the logits.
    signed: first what lowers the metric when lost, else what matters most either way. ablation: what cut edges carry: what the sender writes on
    the counterfactual's side, its mean over tokens, or nothing. metric: what is measured, a name from cutaway.metrics. seed: of the random
    circuits and the intervals. Raises InputError for a method that does not, UnknownNameError, PromptError.
    """
    task = find_task(task, lm)
    arguments = {"by": by, "sizes": list(sizes), "grow": grow, "signed": signed, "ablation": ablation, "metric": metric}
    started = Started(lm, "circuits.faithfulness", task, seed, arguments)
    method, options = registry.called("methods", by, {"metric": metric, "seed": seed})
    edges, every = Edges(lm), examples(lm, task, metric)
    graph = as_graph(edges, method(lm, task, **options))
    count = len(graph.scored)
    chosen = np.array(sorted({min(n, count) for n in sizes or (round(f * count) for f in FRACTIONS)} | {count}))
    generator = np.random.default_rng(seed)
    rankings = [graph, *(shuffled(graph, generator) for _ in range(_DRAWS))]
    circuits = [_circuits(edges, one, chosen, grow, signed) for one in rankings]
    flat = [keep for one in circuits for keep in (*one, *(1 - keep for keep in one))]
    whole = torch.ones(len(edges.senders), len(edges.receivers))
    with progress("faithfulness", len(every)) as done:
        values = measured(edges, batches(edges, every), [whole * 0, whole, *flat], ablation, done)
    empty, full = values[0], values[1]
    by_ranking = values[2:].reshape(len(rankings), len(PANELS), len(chosen), len(every))
    return _trajectory(by_ranking, empty, full, chosen / count, chosen, started, seed)


def _circuits(edges: Edges, graph: Graph, sizes: np.ndarray, grow: str, signed: bool) -> list[Tensor]:
    made = (getattr(graph, grow)(int(n), signed=signed) for n in sizes)
    return [keeping(edges, one) for one in made]


def _trajectory(
    by_ranking: np.ndarray, empty: np.ndarray, full: np.ndarray, fractions: np.ndarray, sizes: np.ndarray, started: Started, seed: int
) -> Trajectory:
    """by_ranking (ranking, panel, size, example): ranking 0 is the method's, the others are random."""
    f = faithful(by_ranking, empty, full)
    again = resampled(by_ranking[0], empty, full, seed)
    low, high = middle(again)
    random_low, random_high = f[1:].min(0), f[1:].max(0)
    series = tuple(
        (
            Series(name="found", value=f[0, p], low=low[p], high=high[p]),
            Series(name="random", value=f[1:, p].mean(0), low=random_low[p], high=random_high[p], control=True),
        )
        for p in range(len(PANELS))
    )
    cmd, cpr = distance(fractions, f[:, 0]), performance(fractions, f[:, 0])
    ends = middle(distance(fractions, again[:, 0]))
    control = Control(
        name="random circuits",
        says="Distance from the model (CMD) of circuits of as many random edges (range of sets).",
        unit="CMD",
        found=Interval(float(cmd[0]), min(float(ends[0]), float(cmd[0])), max(float(ends[1]), float(cmd[0])), len(empty)),
        trivial=spread(cmd[1:]),
    )
    numbers = {"CPR": cpr[0], "CMD": cmd[0], "CPR of random": cpr[1:].mean(), "CMD of random": cmd[1:].mean()}
    return Trajectory(
        title="Faithfulness of circuits",
        question="How much of the behaviour do the connections that were found keep, and how much is left without them?",
        limits="It does not show whether a smaller circuit would do, nor what it does on prompts that the scores have not seen.",
        provenance=started.provenance(),
        controls=(control,),
        numbers={**{name: float(value) for name, value in numbers.items()}, "model": float(full.mean()), "nothing": float(empty.mean())},
        x_axis="edges",
        y_axis="part of the behaviour",
        x=sizes.astype(float),
        panels=PANELS,
        series=series,
        levels={"model": 1.0, "nothing": 0.0},
        log_x=True,
    )
