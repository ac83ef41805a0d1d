"""Parts of a model, the connections between them with a score each, and which of these make a circuit."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, final

import numpy as np

from cutaway.address import Address
from cutaway.errors import InputError
from cutaway.results.base import Result

ARROW = " -> "


@final
@dataclass(frozen=True, kw_only=True)
class Graph(Result):
    """nodes: addresses, a role as position where tokens are told apart (`layers[1].attn.v[head=0, pos=subject]`).

    sources, targets (edge,): the nodes an edge joins, by number. scores (edge,): NaN for an edge that is always there, such as between the queries
    of a head and what it writes. kept (edge,): whether the edge is in the circuit; all are, before one is chosen. unit: of the scores.
    places: roles in the order in which they stand in the prompts, where tokens are told apart.
    """

    kind: ClassVar[str] = "graph"
    nodes: tuple[str, ...]
    sources: np.ndarray
    targets: np.ndarray
    scores: np.ndarray
    kept: np.ndarray
    unit: str
    places: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shapes = {array.shape for array in (self.sources, self.targets, self.scores, self.kept)}
        if len(shapes) != 1 or self.scores.ndim != 1:
            raise InputError(
                "A graph.", f"arrays of shapes {sorted(shapes)}", "sources, targets, scores and kept of one length, one entry an edge"
            )
        ends = np.concatenate([self.sources, self.targets])
        if len(ends) and not (0 <= ends.min() and ends.max() < len(self.nodes)):
            raise InputError("A graph.", f"edges of nodes {ends.min()} to {ends.max()}", f"nodes 0 to {len(self.nodes) - 1}")

    @cached_property
    def scored(self) -> np.ndarray:
        """Numbers of the edges that have a score."""
        return np.flatnonzero(~np.isnan(self.scores))

    def edge(self, number: int) -> str:
        """An edge's name, "sender -> receiver"."""
        return f"{self.nodes[self.sources[number]]}{ARROW}{self.nodes[self.targets[number]]}"

    def ranking(self, *, signed: bool = False) -> np.ndarray:
        """Numbers of scored edges, those that matter most first: by size; signed: those whose loss lowers the metric most (the lowest scores)
        first.

        Raises InputError where signed scores are asked for and none is below zero: they say how much, not which way.
        """
        values = self.scores[self.scored]
        if signed and not (values < 0).any():
            raise InputError("A ranking of edges by sign.", "scores without a sign", "signed=False")
        return self.scored[np.argsort(values if signed else -np.abs(values), kind="stable")]

    def ranked(self, *, signed: bool = False) -> tuple[str, ...]:
        """Names of scored edges in the order of `ranking`."""
        return tuple(self.edge(int(i)) for i in self.ranking(signed=signed))

    def score(self, edge: str) -> float:
        """The score of an edge by name. Raises InputError."""
        found = [i for i in self.scored if self.edge(int(i)) == edge]
        if not found:
            raise InputError(f"The edge {edge!r}.", "no such edge", ", ".join(map(self.edge, self.ranking()[:2])))
        return float(self.scores[found[0]])

    # Circuits

    def circuit(self) -> tuple[str, ...]:
        """Names of the scored edges that are kept."""
        return tuple(self.edge(int(i)) for i in self.scored if self.kept[i])

    def top(self, n: int, *, signed: bool = False) -> Graph:
        """The circuit of the n edges that matter most, less those that no path from an input to an output passes."""
        return self._keeping(self.ranking(signed=signed)[:n])

    def greedy(self, n: int, *, signed: bool = False) -> Graph:
        """The circuit grown from the outputs: n times the edge that matters most of those into what it already holds."""
        into: dict[int, list[int]] = defaultdict(list)
        for i, target in enumerate(self.targets):
            into[int(target)].append(i)
        place = {int(i): rank for rank, i in enumerate(self.ranking(signed=signed))}
        waiting = list(np.setdiff1d(self.targets, self.sources))
        held, open_edges, chosen = set(map(int, waiting)), list[tuple[int, int]](), list[int]()
        while len(chosen) < n:
            while waiting:
                for i in into[int(waiting.pop())]:
                    if i in place:
                        heapq.heappush(open_edges, (place[i], i))
                    elif int(self.sources[i]) not in held:
                        held.add(int(self.sources[i]))
                        waiting.append(self.sources[i])
            if not open_edges:
                break
            _, best = heapq.heappop(open_edges)
            chosen.append(best)
            if int(self.sources[best]) not in held:
                held.add(int(self.sources[best]))
                waiting.append(self.sources[best])
        return self._keeping(np.array(chosen, dtype=np.int64))

    def pruned(self) -> Graph:
        """The same without kept edges that lie on no path from an input to an output."""
        inputs, outputs = np.setdiff1d(self.sources, self.targets), np.setdiff1d(self.targets, self.sources)
        fed = self._reached(inputs, self.sources, self.targets)[self.sources]
        heard = self._reached(outputs, self.targets, self.sources)[self.targets]
        return self.with_(kept=self.kept & fed & heard)

    def _keeping(self, numbers: np.ndarray) -> Graph:
        kept = np.isnan(self.scores)
        kept[numbers] = True
        return self.with_(kept=kept).pruned()

    def _reached(self, start: np.ndarray, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Which nodes can be reached from some along kept edges: (node,)."""
        reached = np.zeros(len(self.nodes), bool)
        reached[start] = True
        count = -1
        while count != reached.sum():
            count = int(reached.sum())
            reached[targets[self.kept & reached[sources]]] = True
        return reached

    def auroc(self, true: Collection[str], *, signed: bool = False) -> float:
        """Chance that an edge of `true` is scored above one that is not in it, ties counting half. Raises InputError for no edge of either kind."""
        names = [self.edge(int(i)) for i in self.scored]
        unknown, is_true = set(true) - set(names), np.array([name in set(true) for name in names])
        if unknown or is_true.all() or not is_true.any():
            found = f"{min(unknown)}, which is no edge" if unknown else f"{is_true.sum()} true of {len(names)}"
            raise InputError("The area under the ROC curve.", found, "names of some, and not all, scored edges")
        values = self.scores[self.scored]
        return _auroc(-values if signed else np.abs(values), is_true)

    # For other viewers

    def owners(self) -> dict[int, tuple[int, ...]]:
        """Node -> the parts it belongs to: those its edges without score lead to; itself, where there are none."""
        found: dict[int, list[int]] = defaultdict(list)
        for i in np.flatnonzero(np.isnan(self.scores)):
            found[int(self.sources[i])].append(int(self.targets[i]))
        return {n: tuple(found.get(n, [n])) for n in range(len(self.nodes))}

    def links(self, most: int) -> dict[tuple[int, int], float]:
        """(part, part) -> sum of the scores of the kept edges between them, the `most` that matter most; shared keys and values are split
        evenly."""
        owners, found = self.owners(), defaultdict[tuple[int, int], float](float)
        for i in [i for i in self.ranking() if self.kept[i]][:most]:
            ends = owners[int(self.targets[i])]
            for end in ends:
                found[int(self.sources[i]), end] += float(self.scores[i]) / len(ends)
        return dict(found)

    def to_circuit_tracer(self, slug: str = "", *, most: int = 500) -> dict[str, Any]:
        """The circuit as a document that viewers of circuit-tracer's graphs read (its `metadata`, `qParams`, `nodes`, `links`), ready for
        `json.dumps`.

        A part is a node: its column is a place of the prompt, or, where tokens are not told apart, a number of heads. slug: its name there.
        most: edges, at most.
        """
        links = self.links(most)
        shown = sorted({node for pair in links for node in pair})
        addresses = {node: Address.parse(self.nodes[node]) for node in shown}
        columns = self.places or _columns(list(addresses.values()))
        last = max([a.layer + 1 for a in addresses.values() if a.layer is not None], default=0)
        ids = {node: _node_id(number, a, last, columns) for number, (node, a) in enumerate(addresses.items())}
        return {
            "metadata": {
                "slug": slug or self.provenance.method,
                "scan": self.provenance.model,
                "transcoder_list": [],
                "prompt_tokens": list(columns),
                "prompt": self.provenance.task,
                "node_threshold": None,
                "schema_version": 1,
            },
            "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
            "nodes": [_node(ids[node], number, addresses[node]) for number, node in enumerate(shown)],
            "links": [
                {"source": "_".join(map(str, ids[a])), "target": "_".join(map(str, ids[b])), "weight": w} for (a, b), w in links.items()
            ],
        }


def _auroc(values: np.ndarray, is_true: np.ndarray) -> float:
    order = np.argsort(values, kind="stable")
    _, group, counts = np.unique(values[order], return_inverse=True, return_counts=True)
    ranks = np.empty(len(values))
    ranks[order] = (np.cumsum(counts) - (counts - 1) / 2)[group]  # ties share the middle of their ranks
    n = int(is_true.sum())
    return float((ranks[is_true].sum() - n * (n + 1) / 2) / (n * (len(values) - n)))


def _columns(addresses: Sequence[Address]) -> tuple[str, ...]:
    heads = max([a.head for a in addresses if a.head is not None], default=-1) + 1
    return (*(f"head {h}" for h in range(heads)), "MLP")


def _node_id(number: int, address: Address, last: int, columns: tuple[str, ...]) -> tuple[str, int, int]:
    """Layer, number and column, as circuit-tracer names nodes."""
    layer = str(address.layer) if address.layer is not None else ("E" if address.point == "embed" else str(last + 1))
    if isinstance(address.pos, str) and address.pos in columns:
        return layer, number, columns.index(address.pos)
    return layer, number, address.head if address.head is not None else (0 if layer == "E" else len(columns) - 1)


def _node(identity: tuple[str, int, int], number: int, address: Address) -> dict[str, Any]:
    layer, _, column = identity
    kinds = {"embed": "embedding", "logits": "logit"}
    return {
        "node_id": "_".join(map(str, identity)),
        "feature": number,
        "layer": layer,
        "ctx_idx": column,
        "feature_type": kinds.get(address.point, "cross layer transcoder"),
        "token_prob": 0.0,
        "is_target_logit": address.point == "logits",
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{layer}_{number}-{column}",
        "clerp": str(address),
        "influence": None,
        "activation": None,
    }


graph = Graph
