"""A graph as data: it travels whole, and what is no graph is refused with a GraphError and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from cutaway.engine.graph import VERSION, Graph
from cutaway.engine.node import DTYPES, Limits, Node
from cutaway.engine.operations import TABLE
from cutaway.errors import CutawayError, GraphError, StorageError
from cutaway.models.any_module import AnyModule

NODES = (
    Node("read", ("first.output",), {}, "study.py:3"),
    Node("Tensor.add", ({"ref": [0]}, {"constant": "0"}), {"alpha": 2}),
    Node("torch.randn_like", ({"ref": [1]},), {}, "", False, 7),
    Node("Tensor.__getitem__", ({"ref": [2]}, {"tuple": [0, {"slice": [None, 3, None]}]})),
    Node("write", ("last.input", {"ref": [1]})),
    Node("save", (), {"a": {"ref": [3]}, "b": {"dict": {"x": [1, 0.5, None, True]}}}),
)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture
def graph() -> Graph:
    return Graph(NODES, {"0": torch.ones(8)}, "branch")


def blob(data: Any, constants: dict[str, Tensor] | None = None) -> bytes:
    return save(constants or {}, metadata={"graph": data if isinstance(data, str) else json.dumps(data)})


def whole(nodes: Any, **more: Any) -> dict[str, Any]:
    return {"version": VERSION, "model": "m", "nodes": nodes, **more}


def node(op: Any = "Tensor.abs", args: Any = (), **rest: Any) -> dict[str, Any]:
    return {"op": op, "args": list(args), **rest}


def test_travels(graph: Graph, tmp_path: Path) -> None:
    for again in (Graph.from_bytes(graph.to_bytes()), Graph.load(graph.save(tmp_path / "a.graph"))):
        assert again.nodes == graph.nodes and again.model == "branch" and again.hash == graph.hash
        assert torch.equal(again.constants["0"], torch.ones(8))
    assert graph.saved == ("a", "b") and graph.points == ("first.output", "last.input")


def test_hash_is_of_what_is_computed(graph: Graph) -> None:
    moved = Graph(tuple(Node(n.op, n.args, n.kwargs, "elsewhere.py:1", n.grad, n.seed) for n in NODES), graph.constants)
    assert moved.hash == graph.hash
    assert Graph(NODES, {"0": torch.zeros(8)}).hash != graph.hash
    assert Graph(NODES[:-1], graph.constants).hash != graph.hash


def test_shows_its_nodes_and_their_lines(graph: Graph) -> None:
    shown = repr(graph)
    assert "read('first.output')   # study.py:3" in shown and "Tensor.__getitem__(%2, (0, :3))" in shown


def test_constants_of_every_kind() -> None:
    constants = {
        "0": torch.ones(2, 3).T,
        "1": torch.tensor([1 + 2j]).conj(),
        "2": torch.tensor(3.0),
        "3": torch.zeros(0, 4, dtype=torch.bool),
    }
    constants["4"] = torch.full((2,), float("nan"), dtype=torch.bfloat16)
    again = Graph.from_bytes(Graph((), constants).to_bytes()).constants
    for name, tensor in constants.items():
        torch.testing.assert_close(again[name], tensor.resolve_conj(), equal_nan=True, rtol=0, atol=0)


def test_a_missing_file_and_a_missing_folder(graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        Graph.load(tmp_path / "none.graph")
    with pytest.raises(StorageError):
        graph.save(tmp_path / "none" / "a.graph")
    assert not list(tmp_path.iterdir())


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "noise": bytes(range(256)),
    "a huge header": (2**63).to_bytes(8, "little") + b"{}",
    "a header of all": (2).to_bytes(8, "little") + b"{}",
    "no graph": save({"a": torch.ones(2)}),
    "another version": blob({"version": 99, "nodes": []}),
    "no nodes": blob({"version": VERSION}),
    "nodes that are no list": blob(whole({"0": node()})),
    "a node that is no object": blob(whole([3])),
    "no operation": blob(whole([{"args": []}])),
    "an operation that is no text": blob(whole([node(op=3)])),
    "outside the table": blob(whole([node("torch.load", ["x"])])),
    "a storage": blob(whole([node("Tensor.untyped_storage", [{"ref": [0]}])])),
    "a dunder": blob(whole([node("Tensor.__class__")])),
    "a reduction": blob(whole([node("Tensor.__reduce_ex__", [2])])),
    "itself": blob(whole([node(args=[{"ref": [0]}])])),
    "a later node": blob(whole([node(args=[{"ref": [5]}])])),
    "before the first": blob(whole([node(args=[{"ref": [-1]}])])),
    "a truth for a number": blob(whole([node("read", ["a.output"]), node(args=[{"ref": [False]}])])),
    "a long reference": blob(whole([node("read", ["a.output"]), node(args=[{"ref": [0] * 9}])])),
    "an unknown mark": blob(whole([node(args=[{"code": "x"}])])),
    "two marks": blob(whole([node(args=[{"ref": [0], "constant": "0"}])])),
    "no such constant": blob(whole([node(args=[{"constant": "7"}])])),
    "deep": blob(whole([node(args=[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]])])),
    "very deep": blob('{"version":1,"nodes":[' + "[" * 10**5 + "]" * 10**5 + "]}"),
    "a huge number": blob(whole([node(args=[2**70])])),
    "many digits": blob('{"version":1,"nodes":[{"op":"Tensor.abs","args":[' + "9" * 5000 + "]}]}"),
    "not a number": blob('{"version":1,"nodes":[{"op":"Tensor.abs","args":[NaN]}]}'),
    "infinity by overflow": blob('{"version":1,"nodes":[{"op":"Tensor.abs","args":[1e999]}]}'),
    "a long text": blob(whole([node("torch.einsum", ["a" * 10**6])])),
    "a key twice": blob('{"version":1,"version":1,"nodes":[]}'),
    "out": blob(whole([node(kwargs={"out": None})])),
    "generator": blob(whole([node(kwargs={"generator": None})])),
    "an argument that is no name": blob(whole([node(kwargs={"a b": 1})])),
    "a dunder argument": blob(whole([node(kwargs={"__class__": 1})])),
    "named arguments of a word": blob(whole([node("read", ["a.output"], kwargs={"x": 1})])),
    "too few arguments": blob(whole([node("write", ["a.output"])])),
    "a point that is no text": blob(whole([node("read", [3])])),
    "a long point": blob(whole([node("read", ["a" * 300])])),
    "a step that is no number": blob(whole([node("begin", [True])])),
    "a seed that is a text": blob(whole([node("torch.randn_like", [], seed="0")])),
    "no seed": blob(whole([node("torch.randn_like")])),
    "a seed too many": blob(whole([node(seed=3)])),
    "a negative seed": blob(whole([node("torch.randn_like", seed=-1)])),
    "a type by another name": blob(whole([node(args=[{"dtype": "_dynamo"}])])),
    "a type that is a function": blob(whole([node(args=[{"dtype": "load"}])])),
    "another device": blob(whole([node(args=[{"device": "cuda:3"}])])),
    "a device as text": blob(whole([node("Tensor.to", ["cuda:3"])])),
    "a float that is a text": blob(whole([node(args=[{"float": "1"}])])),
    "a complex of texts": blob(whole([node(args=[{"complex": ["1", "2"]}])])),
    "a complex too large": blob(whole([node(args=[{"complex": [10**400, 0]}])])),
    "a slice of four": blob(whole([node(args=[{"slice": [1, 2, 3, 4]}])])),
    "an ellipsis of nothing": blob(whole([node(args=[{"ellipsis": False}])])),
    "dropout": blob(whole([node("functional.scaled_dot_product_attention", [0, 0, 0, None, 0.5])])),
    "dropout by name": blob(whole([node("functional.scaled_dot_product_attention", kwargs={"dropout_p": 0.5})])),
    "an unknown field": blob(whole([node(code="x")])),
    "cut short": blob(whole([node("read", ["a.output"])]), {"0": torch.ones(1000)})[:-4],
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_what_is_no_graph_is_refused(name: str) -> None:
    with pytest.raises(GraphError):
        Graph.from_bytes(HOSTILE[name])


def test_limits() -> None:
    reads = [node("read", ["a.output"])] * 5
    for limits, data in (
        (Limits(nodes=4), blob(whole(reads))),
        (Limits(text=100), blob(whole(reads))),
        (Limits(constants=100, text=100), blob(whole([]), {"0": torch.ones(10**6)})),
        (Limits(saved=2), blob(whole([node("save", kwargs={"a": 1, "b": 2}), node("save", kwargs={"c": 1})]))),
        (Limits(depth=2), blob(whole([node(args=[[[[[]]]]])]))),
    ):
        assert Graph.from_bytes(data).nodes is not None
        with pytest.raises(GraphError):
            Graph.from_bytes(data, limits)
    with pytest.raises(GraphError, match="bytes of constants"):
        Graph((), {"0": torch.ones(100)}).check(Limits(constants=399))


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
TREE = st.recursive(
    PLAIN | st.sampled_from([*DTYPES, "ref", "cuda"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["ref", "constant", "tuple", "dict", "slice", "dtype", "device", "op", "args"]), inner, max_size=2
        )
    ),
    max_leaves=12,
)


@QUICK
@given(st.data())
def test_a_changed_graph_is_read_or_refused(data: st.DataObject) -> None:
    good = json.loads(json.dumps(whole([n.data() for n in NODES])))
    place: Any = good
    while isinstance(place, (dict, list)) and place:  # down to some part of it, which becomes something else
        key = data.draw(st.sampled_from(sorted(place)) if isinstance(place, dict) else st.integers(0, len(place) - 1))
        if not isinstance(place[key], (dict, list)) or data.draw(st.booleans()):
            place[key] = data.draw(TREE)
            break
        place = place[key]
    try:
        Graph.from_bytes(blob(good, {"0": torch.ones(8)}))
    except GraphError:
        pass


@QUICK
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4), st.integers(0, 600))
def test_changed_bytes_are_read_or_refused(changes: list[tuple[int, int]], end: int) -> None:
    raw = bytearray(Graph(NODES, {"0": torch.ones(8)}).to_bytes())
    for place, value in changes:
        raw[place] = value
    try:
        Graph.from_bytes(bytes(raw[: len(raw) - max(0, end - 500)]))
    except GraphError:
        pass


@settings(parent=QUICK, max_examples=60)
@given(data=st.data())
def test_any_readable_graph_runs_or_is_refused(model: AnyModule, data: st.DataObject) -> None:
    """On a real model: nothing comes out but values and errors of ours, and the weights stay."""
    nodes = [Node("read", ("first.output",))]
    for _ in range(data.draw(st.integers(1, 4))):
        ref = st.integers(0, len(nodes) - 1).map(lambda i: {"ref": [i]})
        argument = (
            ref | st.integers(-3, 12) | st.sampled_from([None, True, 0.5, "mean", {"parameter": "last.weight"}, {"float": "nan"}, [0, 1]])
        )
        op = data.draw(st.sampled_from([name for name in TABLE if "rand" not in name and "bernoulli" not in name]))
        given_ = data.draw(st.lists(argument, max_size=3))
        nodes.append(Node(op, (data.draw(ref), *given_), {}, "", data.draw(st.booleans()), 1 if _draws(op) else None))
    before = {name: weight.clone() for name, weight in model.module.state_dict().items()}
    try:
        model.replay(Graph((*nodes, Node("save", (), {"last": {"ref": [len(nodes) - 1]}}))), torch.ones(3, 8), limits=Limits(value=2**20))
    except CutawayError:
        pass
    assert all(torch.equal(weight, before[name]) for name, weight in model.module.state_dict().items())


def _draws(op: str) -> bool:
    from cutaway.engine.operations import RANDOM

    return op in RANDOM
