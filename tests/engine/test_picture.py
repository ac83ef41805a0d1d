"""The picture of a graph is one well-formed SVG element that names every node."""

from __future__ import annotations

from xml.etree import ElementTree

import torch
from torch import Tensor

from cutaway.engine.graph import Graph
from cutaway.engine.node import Node
from cutaway.models.any_module import AnyModule

SVG = "{http://www.w3.org/2000/svg}"


def test_every_node_and_edge_is_drawn(model: AnyModule, x: Tensor) -> None:
    with model.record(x) as run:
        h = model.first.output
        h[0] = 1
        model.left.output = (h - h.mean()) * torch.ones(8)
        run.save(h=model.right(h))
    graph = run.graph
    drawn = ElementTree.fromstring(graph._repr_svg_())
    assert len(list(drawn.iter(f"{SVG}g"))) == len(graph.nodes)
    assert len(list(drawn.iter(f"{SVG}path"))) == sum(len(node.references) for node in graph.nodes)
    titles = [str(title.text) for title in drawn.iter(f"{SVG}title")][1:]
    for node, title in zip(graph.nodes, titles, strict=True):
        assert str(node) in title and node.line in title
    inside = [float(c.get("cy", -1)) for c in drawn.iter(f"{SVG}circle")]
    assert inside == sorted(inside) and 0 < inside[0] and inside[-1] < float(drawn.get("height", 0))


def test_texts_of_a_graph_are_no_markup() -> None:
    nodes = (Node("read", ("<script>alert(1)</script>",), {}, '"><b>'), Node("Tensor.add", ({"ref": [0]}, "<i>&")))
    drawn = ElementTree.fromstring(Graph(nodes, {}, "<x>")._repr_svg_())
    assert {element.tag for element in drawn.iter()} <= {SVG + t for t in "svg title style line path g circle text tspan rect".split()}


def test_an_empty_graph() -> None:
    assert ElementTree.fromstring(Graph(())._repr_svg_()).tag == f"{SVG}svg"
