from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cutaway.results.base import Provenance
from cutaway.results.graph import Graph
from cutaway.views.graph import DRAWN, MOST

Draw = Callable[..., Any]


def made(n_layers: int = 3, n_heads: int = 4, **changes: Any) -> Graph:
    """Every head reads the embeddings and all heads before it, through one input; scores that fall with their number, of both signs."""
    heads = [[f"layers[{i}].attn.z[head={h}]" for h in range(n_heads)] for i in range(n_layers)]
    names = ["embed", *(name for row in heads for name in row), "logits"]
    reads = [name.replace(".z", ".v") for name in names[1:-1]]
    joined = [(s, r) for i, row in enumerate(heads) for r in row for s in ["embed", *(n for earlier in heads[:i] for n in earlier)]]
    nodes = (*names, *reads)
    edges = [(s, r.replace(".z", ".v")) for s, r in joined] + [(s, "logits") for s in names[:-1]]
    wires = [(r, r.replace(".v", ".z")) for r in reads]
    ends = np.array([(nodes.index(a), nodes.index(b)) for a, b in (*edges, *wires)])
    scores = np.array([(-1.0) ** i * 0.9**i for i in range(len(edges))] + [np.nan] * len(wires))
    fields: dict[str, Any] = {"kept": np.ones(len(ends), bool), "unit": "logits", "title": "Edges", "provenance": Provenance("m", "z")}
    return Graph(nodes=nodes, sources=ends[:, 0], targets=ends[:, 1], scores=scores, **(fields | changes))


def test_the_first_edges_in_a_terminal(draw: Draw) -> None:
    text, _, _ = draw(made())
    rows = [line.split(maxsplit=2) for line in text.splitlines() if line[:1].isdigit() and " -> " in line]
    assert [row[2] for row in rows] == list(made().ranked()[:MOST])
    assert f"{len(made().scored)} edges" in text


def test_every_part_is_a_dot_and_every_edge_a_curve(draw: Draw) -> None:
    _, document, _ = draw(made())
    assert len(document.all("g", "node")) == 14 and len(document.all("path", "edge")) == len(made().scored)
    assert len(document.all("path", "n")) == (made().scores < 0).sum()
    tips = [e.text for e in document.all("path", "edge")]
    assert tips[-1] == "embed → layers[0].attn.v[head=0]\n1.00 logits", "the largest is drawn last, over the others"


def test_a_part_lists_what_it_reads_and_what_reads_it(draw: Draw) -> None:
    graph = made()
    _, document, _ = draw(graph)
    number = graph.nodes.index("layers[1].attn.z[head=2]")
    (detail,) = document.all("div", f"d{number}")
    ins = [edge for edge in map(graph.edge, graph.scored) if edge.endswith("layers[1].attn.v[head=2]")]
    outs = [edge for edge in map(graph.edge, graph.scored) if edge.startswith("layers[1].attn.z[head=2]")]
    assert len(ins) == len(document.all("path", f"b{number}")) == 5 and len(outs) == len(document.all("path", f"a{number}")) == 5
    assert "layers[0].attn.z[head=3] (values)" in detail.text and "is read by" in detail.text and "pin" in detail.text
    (style,) = [e.text for e in document.all("style") if f".d{number}:focus" in e.text]
    assert f":is(.a{number}, .b{number}, .d{number})" in style


def test_fewer_edges_can_be_chosen(draw: Draw) -> None:
    """A curve is in the band of the first choice that holds it, a part in that of its first curve."""
    _, document, _ = draw(made())
    choices = [e for e in document.all("input") if e.attributes["type"] == "radio"]
    assert len(choices) == 4 and sum("checked" in e.attributes for e in choices) == 1
    assert [len(document.all("path", f"k{band}")) for band in range(4)] == [10, 15, 25, len(made().scored) - 50]
    assert len({e.attributes["name"] for e in choices}) == 1


def test_two_figures_do_not_hear_one_another() -> None:
    names = [made(n_heads=n).html().split('class="graph ')[1].split('"')[0] for n in (2, 3)]
    assert len(set(names)) == 2 and made(n_heads=2).html() == made(n_heads=2).html()


def test_only_the_circuit_is_drawn(draw: Draw) -> None:
    top = made().top(8)
    text, document, _ = draw(top)
    assert f"{len(top.circuit())} of {len(top.scored)} edges kept" in text
    assert len(document.all("path", "edge")) == len(top.circuit())


@pytest.mark.slow
def test_many_edges_are_cut(draw: Draw) -> None:
    _, document, _ = draw(made(n_layers=6, n_heads=6))
    assert len(document.all("path", "edge")) == DRAWN


def test_places_are_columns(draw: Draw) -> None:
    nodes = ("embed[pos=a]", "layers[0].attn.v[head=1, pos=a]", "layers[0].attn.z[head=1, pos=end]", "logits")
    joined, scores = np.array([(0, 1), (1, 2), (2, 3)]), np.array([1.0, 2.0, -3.0])
    changes: Any = {"nodes": nodes, "sources": joined[:, 0], "targets": joined[:, 1], "scores": scores}
    _, document, _ = draw(made().with_(**changes, kept=np.ones(3, bool), places=("a", "end")))
    at = {e.text.split("[pos")[0][:16]: e.attributes["transform"] for e in document.all("g", "node")}
    across = {name: float(move.split("(")[1].split()[0]) for name, move in at.items()}
    assert across["embed"] < max(across.values()) and len(across) == 4


@pytest.mark.parametrize("scores", [0.0, np.nan])
def test_nothing_to_see(draw: Draw, scores: float) -> None:
    empty = made().with_(scores=np.full(len(made().scores), scores))
    text, _, _ = draw(empty)
    assert ("0 edges" in text) == bool(np.isnan(scores))


def test_labels_are_shown_not_run(draw: Draw, hostile: str) -> None:
    text, document, _ = draw(made(title=f"T {hostile}", unit=hostile, limits=hostile))
    assert not document.all("script") and "{{ 7*7 }}" in text and "[bold]" in text
