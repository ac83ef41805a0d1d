"""Shares of what is read, against their definition and where they can be known."""

from __future__ import annotations

import pytest

import cutaway as cut
from cutaway.models.edges import Edges
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task

Known = tuple[LanguageModel, Task]


def test_shares_of_one_receiver_add_up_to_one(induction: Known) -> None:
    graph = cut.circuits.flow_routes(*induction)
    for receiver in ("layers[1].attn.k[head=2]", "logits", "layers[0].attn.q[head=0]"):
        shares = [graph.scores[i] for i in graph.scored if graph.edge(i).endswith(f" -> {receiver}")]
        assert sum(shares) == pytest.approx(1, abs=1e-4) and min(shares) >= 0


def test_a_share_is_what_its_definition_says(induction: Known) -> None:
    lm, task = induction
    one = task.with_pairs(task.pairs[:1])
    edges = Edges(lm)
    written = edges.record(lm.tokens(task.pairs[0].base))
    x, near = written.streams[-1][0, -1], []
    for s in range(len(edges.senders)):
        rest = x - written.senders[0, s, -1]
        near.append(max(0.0, float(sum(abs(v) for v in x) - sum(abs(v) for v in rest))))
    graph = cut.circuits.flow_routes(lm, one)
    best = max(range(len(near)), key=near.__getitem__)
    assert graph.score(f"{edges.senders[best]} -> logits") == pytest.approx(near[best] / sum(near), rel=1e-4)


def test_the_lookup_is_most_of_what_the_last_mover_reads(planted: Known) -> None:
    """The control: as much in random directions is far from the whole, and has a smaller share."""
    graph = cut.circuits.flow_routes(*planted)
    (control,) = graph.controls
    assert control.found.low > control.trivial.high
    last = {edge: graph.score(edge) for edge in graph.ranked() if edge.endswith("-> logits")}
    assert last["layers[2].attn.z[head=2] -> logits"] > last["layers[2].attn.z[head=1] -> logits"]
