"""Through which connections does the difference between the two prompts flow, from part to part?

A head or MLP reads the sum of what all earlier parts wrote. For every pair of a sender and a receiver, the receiver alone is given what the sender
wrote in the counterfactual's run; whatever else reads the sender still sees the base's.

Mediator:
    edge; what a sender writes, as one receiver reads it, all tokens together.

Search:
    exhaustive; every pair of a sender and a receiver.

Measure:
    change of the metric.

Controls:
    random direction.

Method:
    With r the residual stream that a receiver reads in the base run, and s, s' what a sender writes in the base's and in the counterfactual's run,
    effect[s -> R] = m(base | R reads r + s' - s) - m(base), at all tokens at once. What comes after R follows freely. Senders: the embeddings, every
    head, every MLP (where a norm follows attention, s' - s is what one head's z changes after it). Receivers: the queries, keys and values of every
    head, each through its own norm and projection; the input of every MLP; the logits.
    The receiver's new value is computed once and swapped in: one row of a sweep for every edge, from the receiver's block and the first token that
    differs on.

Source:
    Path patching: Goldowsky-Dill et al. 2023, arXiv 2304.05969; edges of the graph: Conmy et al. 2023, arXiv 2304.14997.

Returns:
    Scores, one row an edge "sender -> receiver"; unit: that of the metric; intervals over pairs.

Does not show:
    Edges that only act together, or that others stand in for when they are changed alone; tokens are not told apart.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> scores = cut.circuits.edge_patching(lm, "induction:n=2,length=6", receivers=("logits",))
    >>> scores.ranked()[0].endswith(" -> logits")
    True
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from einops import einsum
from torch import Tensor

from cutaway.address import Address
from cutaway.engine.place import Intervention
from cutaway.errors import InputError
from cutaway.mediators.add import add
from cutaway.mediators.swap import swap
from cutaway.methods.base import Example, Started, examples, same_length_noise
from cutaway.metrics.bootstrap import bootstrap, bounds, spread
from cutaway.models.edges import Edges
from cutaway.models.language import LanguageModel
from cutaway.models.tokens import Tokens
from cutaway.progress import progress
from cutaway.results.base import Control
from cutaway.results.scores import Scores
from cutaway.tasks.base import Task, find_task

_DRAWS = 40
_EMBEDDINGS = -1
"""The layer of what is written before all layers."""
_CHANGED = "changed"
"""Role of the tokens from the first at which the two sides differ: before it, nothing does."""


def edge_patching(
    lm: LanguageModel, task: Task | str, *, receivers: tuple[str, ...] = (), metric: str = "logit_difference", seed: int = 0
) -> Scores:
    """Effect of each direct connection between two parts; see the module.

    receivers: only edges into these (`layers[2].attn.q[head=1]`, `layers[2].mlp.input`, `logits`); all, if none is named. metric: what is
    measured, a name from cutaway.metrics. seed: of the control and the intervals. Raises InputError for what is not a receiver, PromptError.
    """
    task = find_task(task, lm)
    started = Started(lm, "circuits.edge_patching", task, seed, {"receivers": list(receivers), "metric": metric})
    graph = Edges(lm)
    fans = _fans(graph, receivers)
    edges = [f"{sender} -> {receiver}" for fan in fans for sender in fan.senders for receiver in fan.receivers]
    every = examples(lm, task, metric)
    runs, effects = [_Run(graph, example) for example in every], np.zeros((len(every), len(edges)))
    with torch.no_grad(), progress("edge patching", len(every)) as done:
        for n, run in enumerate(runs):
            found = [run.effects(fan, run.change(fan.source), lambda part: done(part / len(edges))) for fan in fans]
            effects[n] = np.concatenate([one.reshape(-1) for one in found])
        best = int(np.abs(effects.mean(0)).argmax())
        disturbed = _disturbed(runs, fans, best, seed)
    return _scores(edges, effects, best, disturbed, started, seed)


@final
@dataclass(frozen=True)
class _Fan:
    """All edges from the parts of one layer into what another, or a later part of the same, reads. layer: n_layers for the logits."""

    source: int
    layer: int
    senders: tuple[str, ...]
    receivers: tuple[Address, ...]


def _fans(edges: Edges, wanted: Sequence[str]) -> list[_Fan]:
    """Edges by the layers they join, in the order of the model; only those into `wanted`, if there are any. Raises InputError."""
    n, every = edges.sizes.n_layers, list(_every_fan(edges))
    if not wanted:
        return every
    asked = {Address.parse(text) for text in wanted}
    for address in asked - {receiver for fan in every for receiver in fan.receivers}:
        works = f"layers[{n - 1}].attn.q[head=0] (or k, v), {f'layers[{n - 1}].mlp.input, ' if edges.has_mlp else ''}logits"
        raise InputError(f"Patch edges into {address}.", "nothing that reads the residual stream by itself", works)
    chosen = (dataclasses.replace(fan, receivers=tuple(r for r in fan.receivers if r in asked)) for fan in every)
    return [fan for fan in chosen if fan.receivers]


def _every_fan(edges: Edges) -> Iterator[_Fan]:
    for layer, group in itertools.groupby(edges.readings, key=lambda at: at.layer):
        readings = list(group)
        for source in range(_EMBEDDINGS, layer):
            yield _Fan(source, layer, edges.written_in(source), tuple(r for at in readings for r in at.receivers))
        if readings[-1].before > readings[0].before:  # an MLP after the heads of its own layer
            yield _Fan(layer, layer, edges.written_in(layer)[: edges.sizes.n_heads], readings[-1].receivers)


@final
class _Run:
    """One example: what its parts wrote on either side, and the effects of edges on it."""

    def __init__(self, edges: Edges, example: Example) -> None:
        self.edges, self.lm, self.example, self.first = edges, edges.lm, example, example.first_difference
        lm = edges.lm
        layers = range(lm.sizes.n_layers)
        names = ["attn.z", *["mlp.output"] * edges.has_mlp, *["mid"] * edges.mlp_follows]
        self._raw = (
            [f"{lm.family.layers}.{i}.{lm.family.attn}.{lm.family.projection}.output" for i in layers] if lm.family.attn_norm else []
        )
        points = ["layers[0].input", *(f"layers[{i}].{name}" for i in layers for name in names), *self._raw]
        self._base, self._there = lm.run(example.base, read=points), lm.run(example.counterfactual, read=points)
        self._tokens = dataclasses.replace(example.base, spans=({_CHANGED: (self.first, example.n_tokens)},), _found={})

    def change(self, source: int) -> Tensor:
        """What the parts of a layer write in the counterfactual's run, less what they write in the base's: (sender, pos, d_model)."""
        if source == _EMBEDDINGS:
            return self._difference("layers[0].input")[None]
        z = self._difference(f"layers[{source}].attn.z")
        heads = einsum(z, self.lm.head_writes(source), "pos head d_head, head d_head d_model -> head pos d_model")
        if self._raw:
            norm = self.lm.part(f"{self.lm.family.layers}.{source}.{self.lm.family.attn_norm}")
            raw = self._base[self._raw[source]][0]
            heads = norm(raw + heads) - norm(raw)
        return torch.cat([heads, self._difference(f"layers[{source}].mlp.output")[None]]) if self.edges.has_mlp else heads

    def effects(self, fan: _Fan, change: Tensor, done: Callable[[float], None] | None = None) -> np.ndarray:
        """Effects (sender, receiver) of adding changes (sender, pos, d_model) to what the receivers of a fan read."""
        shape = (len(fan.senders), len(fan.receivers))
        if self.first == self.example.n_tokens:
            return np.zeros(shape)
        edits = self._edits(fan, change[: len(fan.senders)])
        told = None if done is None else lambda part: done(part * len(edits))
        scores = self.lm.sweep(self._tokens, edits=edits, metric=self.example.score, progress=told)[:, 0].double().numpy()
        found: np.ndarray = scores.reshape(shape) - self.example.at_base
        return found

    def _edits(self, fan: _Fan, change: Tensor) -> list[list[Intervention]]:
        if fan.layer == self.lm.sizes.n_layers:
            return [[(Address(f"layers[{fan.layer - 1}].output", pos=-1), add(one[-1]))] for one in change]
        read = self._read(fan, change)
        edits: list[list[Intervention]] = []
        for sender in range(len(change)):
            for receiver in fan.receivers:
                point = receiver.point.replace("mlp.input", "mlp.output")
                value = read[point][sender, self.first :]
                value = value if receiver.head is None else value[:, receiver.head]
                # one token drops its axis, in a place as in an index
                value = value[0] if len(value) == 1 else value
                edits.append([(Address(point, head=receiver.head, pos=_CHANGED), swap(value))])
        return edits

    def _read(self, fan: _Fan, change: Tensor) -> dict[str, Tensor]:
        """What the receivers' projections and MLP make of changed inputs: point -> (sender, pos, ...)."""
        points = list(dict.fromkeys(receiver.point.replace("mlp.input", "mlp.output") for receiver in fan.receivers))
        edits: list[Intervention] = [] if fan.source == fan.layer else [(f"layers[{fan.layer}].input", add(change))]
        if self.edges.mlp_follows:  # what attention makes of the change is another path
            mid = f"layers[{fan.layer}].mid"
            edits.append((mid, swap(self._base[mid] + change)))
        rows, one = len(change), self.example.base
        tokens = Tokens(one.ids.repeat(rows, 1), one.mask.repeat(rows, 1), one.lengths * rows, one.spans * rows)
        seen = self.lm.run(tokens, edits=edits, read=points)
        return {point: seen[point] for point in points}

    def _difference(self, point: str) -> Tensor:
        found: Tensor = (self._there[point] - self._base[point])[0]
        return found


def _disturbed(runs: Sequence[_Run], fans: Sequence[_Fan], edge: int, seed: int) -> np.ndarray:
    """Effects (example, draw) of one edge when what it carries is as large, in random directions."""
    generator = torch.Generator().manual_seed(seed)
    for fan in fans:
        sender, receiver = divmod(edge, len(fan.receivers))
        if sender < len(fan.senders):
            break
        edge -= len(fan.senders) * len(fan.receivers)
    one = dataclasses.replace(fan, senders=(fan.senders[sender],) * _DRAWS, receivers=(fan.receivers[receiver],))
    found = []
    for run in runs:
        change = run.change(fan.source)[sender]
        drawn = torch.stack([same_length_noise(change, generator) for _ in range(_DRAWS)])
        found.append(run.effects(one, drawn)[:, 0])
    return np.stack(found)


def _scores(edges: list[str], effects: np.ndarray, best: int, disturbed: np.ndarray, started: Started, seed: int) -> Scores:
    mean, low, high = bounds(effects, seed=seed)
    control = Control(
        name="random direction",
        says=f"What {edges[best]} carries, as large but in random directions (range of draws).",
        unit="change of the metric",
        found=bootstrap(effects[:, best], seed=seed),
        trivial=spread(disturbed.mean(0)),
    )
    return Scores(
        title="Edge patching",
        question="Through which connections between parts does the difference between the two prompts reach the answer?",
        limits="It does not show edges that act only together, or that others stand in for, and does not tell tokens apart.",
        provenance=started.provenance(),
        controls=(control,),
        rows=tuple(edges),
        columns=("edge effect",),
        units=("change of the metric",),
        values=mean[:, None],
        low=low[:, None],
        high=high[:, None],
    )
