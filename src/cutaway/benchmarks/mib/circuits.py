"""Which method finds the connections that do the task?

Every method scores the edges of the model on one half of the pairs. Circuits of more and more edges are made of its scores and run on the other half.

Method:
    Scores by each entry; circuits of 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50 and 100 % of the edges, the best first, without those on no path from the
    embeddings to the logits; what is cut carries what it carries on the counterfactual's side. f = (m(circuit) - m(nothing)) / (m(model) -
    m(nothing)), m the metric's mean over pairs. CPR: the area under f over the part of edges kept; CMD: the area of |1 - f|. Where the circuit is
    known, the AUROC of the scores' size for its edges. Entries are methods that declare one of the two mediators below, with options after a colon,
    and saved results. Where heads and MLPs are scored, an edge has the score of what it comes from.

Mediators:
    edge; what a sender writes, as one receiver reads it, all tokens together.
    component; heads and MLPs, their whole output.

Source:
    Mueller et al. 2025, arXiv 2504.13151 (circuit localisation track).

Returns:
    Scores: a row an entry, and `random`; columns CPR (the more the better), CMD (0 is best) and, where the circuit is known, AUROC; intervals over
    the pairs that judge, for `random` over draws.

Does not show:
    Whether a circuit is the model's reason, or does as well on other texts; edges are not told apart by token.

Example:
    >>> import cutaway as cut
    >>> table = cut.mib.circuits(cut.open("induction_lm"), "induction:n=8,length=6", methods=("circuits.eap",))
    >>> table.rows, table.columns
    (('circuits.eap', 'random'), ('CPR', 'CMD'))
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, final

import numpy as np
import torch

from cutaway.benchmarks.mib.entries import Entry, Folder, halves
from cutaway.benchmarks.mib.entries import methods as methods_that
from cutaway.errors import NumericError
from cutaway.methods.base import Example, Started, examples
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
    parts_of_graph,
    performance,
    resampled,
)
from cutaway.metrics.bootstrap import spread
from cutaway.models.edges import Edges
from cutaway.models.language import LanguageModel
from cutaway.progress import progress
from cutaway.results.base import Control, Interval, Result
from cutaway.results.graph import Graph
from cutaway.results.scores import Scores
from cutaway.results.trajectory import Series, Trajectory
from cutaway.tasks.base import Task, find_task
from cutaway.zoo.base import KnownCircuit

MEDIATORS = (
    "edge; what a sender writes, as one receiver reads it, all tokens together.",
    "component; heads and MLPs, their whole output.",
)
_DRAWS = 3
RANDOM = "random"


def circuits(
    lm: LanguageModel,
    task: Task | str,
    *,
    methods: tuple[str, ...] = (),
    grow: Literal["top", "greedy"] = "top",
    signed: bool = False,
    ablation: Ablation = "counterfactual",
    metric: str = "logit_difference",
    to: str | None = None,
    seed: int = 0,
) -> Scores:
    """CMD, CPR and AUROC of entries, on a task; see the module.

    methods: entries; without them, every method that declares one of the mediators, as it is by default. grow: the best edges, or greedily from the
    logits. signed: first what lowers the metric when lost, else what matters most either way. ablation: what cut edges carry: counterfactual, mean,
    zero. metric: what is measured. to: a folder that keeps each entry's scores and its curve, and in which an interrupted run goes on. seed: of
    methods that are not given one, of random circuits and of intervals.
    Raises InputError, PromptError, StorageError, UnknownNameError, NumericError where nothing tells the model from nothing at all.
    """
    task = find_task(task, lm)
    arguments = {"methods": methods, "grow": grow, "signed": signed, "ablation": ablation, "metric": metric, "to": to}
    started = Started(lm, "mib.circuits", task, seed, arguments)
    entries = [Entry(spec) for spec in methods or methods_that("Mediator", MEDIATORS)]
    finding, judging = halves(task)
    judge = _Judge(lm, judging, grow, signed, ablation, metric, seed)
    folder, options = Folder(to), {"metric": metric, "seed": seed}
    like = {"model": lm.name, "revision": lm.revision, "task": str(task)}
    rows: dict[str, Trajectory] = {}
    for entry in entries:
        graph = folder.found_or(f"{entry.file_name}.scores", like, partial(_scored, judge.edges, entry, finding, options))
        rows[entry.spec] = judge.kept_curve(folder, entry.file_name, entry.spec, graph)
    drawn = [judge.kept_curve(folder, f"{RANDOM}-{i}", RANDOM, judge.random(i)) for i in range(_DRAWS)]
    return _table(rows, drawn, started)


def _scored(edges: Edges, entry: Entry, task: Task, options: dict[str, Any]) -> Graph:
    return as_graph(edges, entry.run(edges.lm, task, options))


@final
class _Judge:
    """The pairs that judge, and what the model does on them with all edges and with none."""

    def __init__(self, lm: LanguageModel, task: Task, grow: str, signed: bool, ablation: Ablation, metric: str, seed: int) -> None:
        self.lm, self.task, self.grow, self.signed, self.ablation, self.seed = lm, task, grow, signed, ablation, seed
        self.how = {"grow": grow, "signed": signed, "ablation": ablation, "metric": metric}
        self.edges = Edges(lm)
        self.every: list[Example] = examples(lm, task, metric)
        self._whole = torch.ones(len(self.edges.senders), len(self.edges.receivers))
        self.full = np.array([example.at_base for example in self.every])
        self.empty = measured(self.edges, batches(self.edges, self.every), [0 * self._whole], ablation)[0]
        if self.full.mean() == self.empty.mean():
            raise NumericError(
                f"Judge circuits of {lm.name} on {task}.", "the same metric with all edges and with none", "another task or metric"
            )

    def random(self, number: int) -> Graph:
        """Scores drawn at random."""
        fields = parts_of_graph(self.edges, np.random.default_rng([self.seed, number]).standard_normal(len(self.edges.pairs)))
        return Graph(
            title="Random scores", provenance=Started(self.lm, RANDOM, self.task, self.seed, {}).provenance(), unit="none", **fields
        )

    def kept_curve(self, folder: Folder, file_name: str, name: str, graph: Result) -> Trajectory:
        """The curve of a graph, from the folder if it is there."""
        assert isinstance(graph, Graph)
        like = {"model": self.lm.name, "revision": self.lm.revision, "task": str(self.task), "seed": self.seed, "arguments": self.how}
        found = folder.found_or(f"{file_name}.curve", like, partial(self.curve, name, graph))
        assert isinstance(found, Trajectory)
        return found

    def curve(self, name: str, graph: Graph) -> Trajectory:
        """f of the circuits made of a graph's scores, on the pairs that judge; CMD, CPR and AUROC among its numbers."""
        started = Started(self.lm, f"mib.circuits/{name}", self.task, self.seed, self.how)
        count = len(graph.scored)
        sizes = np.array([max(1, round(part * count)) for part in FRACTIONS])
        # the last size is the model itself
        keep = [keeping(self.edges, getattr(graph, self.grow)(int(n), signed=self.signed)) for n in sizes[:-1]]
        with progress(name, len(self.every)) as done:
            values = np.concatenate([measured(self.edges, batches(self.edges, self.every), keep, self.ablation, done), self.full[None]])
        f, again = faithful(values, self.empty, self.full), resampled(values, self.empty, self.full, self.seed)
        low, high = middle(again)
        at, numbers = sizes / count, dict[str, float]()
        for measure, area in (("CPR", performance), ("CMD", distance)):
            bounds = middle(area(at, again))
            numbers |= {measure: float(area(at, f)), f"{measure} low": float(bounds[0]), f"{measure} high": float(bounds[1])}
        known = getattr(self.lm.module, "circuit", None)
        if isinstance(known, KnownCircuit):
            numbers["AUROC"] = graph.auroc(known.shown, signed=self.signed)
        return Trajectory(
            title=f"Circuits by {name}",
            question="How much of the behaviour do circuits of more and more edges keep?",
            limits="On pairs that the scores have not seen, but of the same kind.",
            provenance=started.provenance(),
            numbers=numbers,
            x_axis="edges",
            y_axis="part of the behaviour",
            x=sizes.astype(float),
            panels=("kept only",),
            series=((Series(name=name, value=f, low=np.minimum(low, f), high=np.maximum(high, f), control=name == RANDOM),),),
            levels={"model": 1.0, "nothing": 0.0},
            log_x=True,
        )


def _table(rows: dict[str, Trajectory], drawn: list[Trajectory], started: Started) -> Scores:
    columns = ("CPR", "CMD", *(["AUROC"] if "AUROC" in drawn[0].numbers else []))
    random = {column: np.array([one.numbers[column] for one in drawn]) for column in columns}
    bounds: dict[str, list[list[float]]] = {"": [], " low": [], " high": []}
    for one in rows.values():
        for end, table in bounds.items():
            table.append([one.numbers.get(column + end, np.nan) for column in columns])
    spreads = [spread(random[column]) for column in columns]
    bounds[""].append([s.value for s in spreads])
    bounds[" low"].append([s.low for s in spreads])
    bounds[" high"].append([s.high for s in spreads])
    best = min(rows, key=lambda name: rows[name].numbers["CMD"])
    numbers = rows[best].numbers
    judged = drawn[0].provenance.n
    control = Control(
        name="random circuits",
        says=f"CMD of {best}, the lowest, and of circuits of as many random edges (range of draws).",
        unit="CMD",
        found=Interval(numbers["CMD"], min(numbers["CMD low"], numbers["CMD"]), max(numbers["CMD high"], numbers["CMD"]), judged),
        trivial=spreads[1],
    )
    units = {"CMD": "area of |1 - f|", "CPR": "area of f", "AUROC": "chance"}
    return Scores(
        title="MIB circuit track",
        question="Which method finds the connections that do the task?",
        limits="Circuits are judged on other pairs of the same task; edges are not told apart by token.",
        provenance=started.provenance(),
        controls=(control,),
        numbers={"pairs that judge": judged},
        rows=(*rows, RANDOM),
        columns=columns,
        units=tuple(units[column] for column in columns),
        values=np.array(bounds[""]),
        low=np.array(bounds[" low"]),
        high=np.array(bounds[" high"]),
    )
