"""What the methods that score edges share: pairs in batches, gradients at what each part reads, the circuit run and measured.

Signs: a score is how much the metric changes when the edge alone carries what the sender writes on the counterfactual's side instead of the base's,
or an estimate of it. An edge that works for the answer has a negative score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from einops import einsum
from torch import Tensor

from cutaway.engine.place import Intervention
from cutaway.engine.sweeping import BUDGET
from cutaway.errors import InputError
from cutaway.methods.base import Example
from cutaway.metrics.base import Target
from cutaway.metrics.bootstrap import LEVEL, RESAMPLES, bootstrap
from cutaway.models.edges import Edges, Reading, Written
from cutaway.models.tokens import Tokens, joined
from cutaway.results.base import Control, Interval, Result
from cutaway.results.graph import Graph
from cutaway.results.scores import Scores

Ablation = Literal["counterfactual", "mean", "zero"]
"""What a cut edge carries: what the sender writes on the counterfactual's side; its mean over all tokens of all bases; nothing."""

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Parts of all edges that circuits are made of (MIB: Mueller et al. 2025)."""

_COPIES = 6
"""Tensors as large as what all senders write that a step holds at once, with what else it holds."""
_NORMAL = 1.959964
"""Standard deviations that hold the middle 95 % of a normal distribution."""


@final
@dataclass(frozen=True)
class Batch:
    """Pairs of one length, run together. numbers: which of the examples they are."""

    numbers: tuple[int, ...]
    base: Tokens
    counterfactual: Tokens
    target: Target
    examples: tuple[Example, ...]

    def score(self, logits: Tensor) -> Tensor:
        """The metric of logits (..., row, vocab) of the pairs: (..., row)."""
        return self.examples[0].metric(logits, self.target)


def batches(edges: Edges, every: Sequence[Example], budget: int = BUDGET) -> list[Batch]:
    """Examples grouped by length, as many together as `budget` bytes have room for."""
    found: list[Batch] = []
    for length in sorted({example.n_tokens for example in every}):
        numbers = [n for n, example in enumerate(every) if example.n_tokens == length]
        size = max(1, budget // (4 * _COPIES * len(edges.senders) * length * edges.sizes.d_model))
        found += [_batch(numbers[i : i + size], every) for i in range(0, len(numbers), size)]
    return found


def _batch(numbers: Sequence[int], every: Sequence[Example]) -> Batch:
    chosen = tuple(every[n] for n in numbers)
    target = Target(*(torch.cat([getattr(e.target, name) for e in chosen]) for name in ("answer", "foil", "reference")))
    return Batch(tuple(numbers), joined([e.base for e in chosen]), joined([e.counterfactual for e in chosen]), target, chosen)


def slopes(edges: Edges, batch: Batch, edits: Sequence[Intervention] = (), after: int = 0) -> Iterator[tuple[int, Reading, Tensor]]:
    """Number of a reading, the reading, and the metric's gradient at the stream as each of its receivers reads it (batch, receiver, pos, d_model).

    One forward of the bases with `edits`, and one backward. after: only readings of more senders than that.
    """
    readings = [(number, at) for number, at in enumerate(edges.readings) if at.before > after]
    points = list(dict.fromkeys(point for _, at in readings for point in edges.seen(at)))

    def metric(output: Any) -> Tensor:
        return batch.score(edges.lm.last(output))

    values, arriving = edges.lm.gradients(batch.base, of=metric, at=points, edits=edits, **edges.last_only())
    for number, at in readings:
        yield number, at, edges.slopes(at, values[edges.seen(at)[0]], arriving)


@final
class Estimate:
    """Sums first-order estimates (change of a sender) . (gradient at a receiver), and how large they would be for changes in random directions."""

    def __init__(self, edges: Edges, n: int) -> None:
        self.edges = edges
        self.values = np.zeros((n, len(edges.pairs)), dtype=np.float32)
        """(example, edge), in the order of `edges.pairs`."""
        self._variance = np.zeros(len(edges.pairs))
        self._starts = np.cumsum([0, *(at.before * len(at.receivers) for at in edges.readings)])

    def add(self, batch: Batch, change: Tensor, found: Iterator[tuple[int, Reading, Tensor]], first: int = 0) -> None:
        """Add the estimates for senders from `first` on, which change by (batch, sender, pos, d_model)."""
        lengths = change.square().sum(-1)
        for number, at, slope in found:
            stop = min(at.before, first + change.shape[1])
            changed = change[:, : stop - first]
            product = slope.flatten(2) @ changed.flatten(2).transpose(1, 2)
            noise = einsum(lengths[:, : stop - first], slope.square().sum(-1), "b s t, b r t -> r s") / slope.shape[-1]
            columns = self._columns(number, at, first, stop)
            self.values[np.ix_(np.array(batch.numbers), columns)] += product.flatten(1).double().cpu().numpy()
            self._variance[columns] += noise.flatten().double().cpu().numpy()

    def _columns(self, number: int, at: Reading, first: int, stop: int) -> np.ndarray:
        start = self._starts[number]
        return (start + np.arange(len(at.receivers))[:, None] * at.before + np.arange(first, stop)[None]).reshape(-1)

    def control(self, unit: str, seed: int) -> Control:
        """The largest estimate against changes as large in random directions."""
        best = int(np.abs(self.values.mean(0)).argmax())
        sender, receiver = self.edges.pairs[best]
        name = f"{self.edges.senders[sender]} -> {self.edges.receivers[receiver]}"
        return against_directions(name, self.values[:, best], float(self._variance[best]), unit, seed)


def against_directions(edge: str, estimates: np.ndarray, variance: float, unit: str, seed: int) -> Control:
    """Estimates (example,) for an edge against changes as large, token by token, in random directions: by their variance, of which no draw is needed.

    variance: of the sum over examples.
    """
    reach = _NORMAL * float(np.sqrt(variance)) / len(estimates)
    return Control(
        name="random direction",
        says=f"The estimate for {edge} with changes as large in random directions (range of directions).",
        unit=unit,
        found=bootstrap(estimates.astype(float), seed=seed),
        trivial=Interval(0.0, -reach, reach, len(estimates)),
    )


def parts_of_graph(edges: Edges, scores: np.ndarray) -> dict[str, Any]:
    """Nodes, edges and scores (edge,) in the order of `edges.pairs`, as the fields of a Graph in which everything is kept."""
    n = len(edges.senders)
    sources = np.concatenate([edges.pairs[:, 0], edges.wiring[:, 0] + n])
    targets = np.concatenate([edges.pairs[:, 1] + n, edges.wiring[:, 1]])
    values = np.concatenate([scores.astype(float), np.full(len(edges.wiring), np.nan)])
    nodes = (*edges.senders, *edges.receivers)
    return {"nodes": nodes, "sources": sources, "targets": targets, "scores": values, "kept": np.ones(len(values), bool)}


def as_graph(edges: Edges, found: Result) -> Graph:
    """A method's scores as a graph of this model: of edges, or of heads and MLPs, and then an edge has the score of what it comes from.

    The embeddings, which no method scores as a part, come first. Raises InputError for scores that are not of all edges or all heads and MLPs.
    """
    by = found.provenance.method
    if isinstance(found, Graph) and not found.places:
        return found
    names = [f"{edges.senders[s]} -> {edges.receivers[r]}" for s, r in edges.pairs]
    score = dict(zip(found.rows, found.values[:, 0].tolist(), strict=True)) if isinstance(found, Scores) else {}
    if score.keys() >= set(edges.senders[1:]):
        score[edges.senders[0]] = 2 * max(map(abs, score.values()))
        names = [edges.senders[s] for s, _ in edges.pairs]
    if not score.keys() >= set(names):
        works = "circuits.eap, circuits.eap_ig, circuits.edge_patching, circuits.mask, circuits.flow_routes, locate.component_patching"
        raise InputError(f"Circuits by {by}.", f"a {type(found).__name__} that is not of all edges, or of all heads and MLPs", works)
    fields = parts_of_graph(edges, np.array([score[name] for name in names]))
    return Graph(title=found.title, provenance=found.provenance, unit=found.units[0] if isinstance(found, Scores) else "", **fields)


def shuffled(graph: Graph, generator: np.random.Generator) -> Graph:
    """The same with its scores dealt out anew: what random circuits are made from."""
    scores = graph.scores.copy()
    scores[graph.scored] = generator.permutation(scores[graph.scored])
    return graph.with_(scores=scores)


def keeping(edges: Edges, graph: Graph) -> Tensor:
    """Which edges a graph keeps, as `Edges.run` takes them: (sender, receiver). Raises InputError for a graph of other parts."""
    senders, receivers = ({name: i for i, name in enumerate(names)} for names in (edges.senders, edges.receivers))
    keep = torch.zeros(len(senders), len(receivers))
    for i in graph.scored[graph.kept[graph.scored]]:
        source, target = graph.nodes[graph.sources[i]], graph.nodes[graph.targets[i]]
        if source not in senders or target not in receivers:
            works = "a graph of the edges of this model, tokens not told apart"
            raise InputError(f"Run the circuit with {graph.edge(int(i))} in {edges.lm.name}.", "no such edge", works)
        keep[senders[source], receivers[target]] = 1.0
    return keep


def instead(edges: Edges, every: Sequence[Batch], ablation: Ablation) -> Callable[[Batch], Written]:
    """What cut edges carry in a batch."""
    if ablation == "counterfactual":
        return lambda batch: edges.record(batch.counterfactual)
    total = sum(len(batch.base) * batch.base.ids.shape[1] for batch in every)
    streams: list[Tensor] = []
    senders = torch.zeros(())
    for batch in every:
        mean, weight = edges.record(batch.base).mean(), len(batch.base) * batch.base.ids.shape[1] / total
        streams = [weight * s + (streams[i] if streams else 0) for i, s in enumerate(mean.streams)]
        senders = weight * mean.senders + senders.to(mean.senders.device)
    found = Written(tuple(streams), senders)
    found = found.silenced(edges.readings) if ablation == "zero" else found
    return lambda batch: found


def measured(
    edges: Edges, every: Sequence[Batch], keep: Sequence[Tensor], ablation: Ablation, done: Callable[[float], None] | None = None
) -> np.ndarray:
    """The metric with only some edges, (circuit, example)."""
    values = np.zeros((len(keep), sum(len(batch.numbers) for batch in every)))
    others = instead(edges, every, ablation)
    with torch.no_grad():
        for batch in every:
            other = others(batch)
            for i, one in enumerate(keep):
                values[i, batch.numbers] = batch.score(edges.run(batch.base, one, other)).double().cpu().numpy()
                if done is not None:
                    done(len(batch.numbers) / len(keep))
    return values


def faithful(values: np.ndarray, empty: np.ndarray, full: np.ndarray) -> np.ndarray:
    """f = (m(circuit) - m(nothing)) / (m(model) - m(nothing)), over the last axis' means: (..., example) -> (...)."""
    found: np.ndarray = (values.mean(-1) - empty.mean(-1)) / (full.mean(-1) - empty.mean(-1))
    return found


def resampled(values: np.ndarray, empty: np.ndarray, full: np.ndarray, seed: int) -> np.ndarray:
    """f of the means over resampled pairs, (resample, ...); of values (..., example)."""
    n = len(empty)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    low, high = (weights @ one for one in (empty, full))
    means = np.moveaxis(values @ weights.T, -1, 0)
    shape = (-1, *[1] * (means.ndim - 1))
    return np.asarray((means - low.reshape(shape)) / (high - low).reshape(shape))


def middle(again: np.ndarray) -> np.ndarray:
    """Low and high, (2, ...), of the middle part of resamples (resample, ...)."""
    return np.asarray(np.quantile(again, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0))


def performance(fractions: np.ndarray, faithfulness: np.ndarray) -> np.ndarray:
    """CPR: the area under f over the part of edges kept, (..., size) -> (...). One or more: much of the behaviour is in few edges."""
    return _area(faithfulness, fractions)


def distance(fractions: np.ndarray, faithfulness: np.ndarray) -> np.ndarray:
    """CMD: the area of |1 - f| over the part of edges kept, (..., size) -> (...). 0: every circuit does what the model does."""
    return _area(np.abs(1 - faithfulness), fractions)


def _area(heights: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.asarray(((heights[..., 1:] + heights[..., :-1]) / 2 * np.diff(at)).sum(-1))
