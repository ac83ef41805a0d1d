"""A work is the same after a journey, its hash holds what decides the result and nothing else, and what is no work is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from cutaway.engine.graph import Graph
from cutaway.engine.node import Node
from cutaway.engine.wire import packed
from cutaway.errors import GraphError, InputError, StreamError
from cutaway.remote import work as work_module
from cutaway.remote.work import Work
from cutaway.service.outcomes import Outcome

CALL = Work("method", "induction_lm", method="read.logit_lens", task="induction:n=4", arguments={"k": 3, "points": ["a"]}, seed=1)


@pytest.fixture(scope="module")
def graph() -> Graph:
    nodes = (
        Node("read", ("layers[0].output",), {}, "study.py:3"),
        Node("Tensor.mul", ({"ref": [0]}, {"constant": "0"}), {}, "study.py:4"),
        Node("save", (), {"h": {"ref": [1]}}, "study.py:4"),
    )
    return Graph(nodes, {"0": torch.arange(3.0)}, "induction_lm")


@pytest.fixture(scope="module")
def run(graph: Graph) -> Work:
    return Work("graph", "induction_lm", graph.to_bytes(), packed({"args": ("cat river cat",), "kwargs": {}, "driver": None}))


def test_works_travel(run: Work) -> None:
    for work in (CALL, run, dataclasses.replace(CALL, task=[{"base": "a", "answers": ["b"]}], revision="abc")):
        back = Work.from_bytes(work.to_bytes())
        assert back == work
        assert (back.hash, back.body) == (work.hash, work.body)


@pytest.mark.parametrize(
    "change", [{"model": "m"}, {"method": "read.x"}, {"task": "induction:n=5"}, {"arguments": {"k": 4}}, {"seed": 2}, {"arguments": {}}]
)
def test_all_that_is_sent_is_in_both_hashes(change: dict[str, Any]) -> None:
    other = dataclasses.replace(CALL, **change)
    assert other.hash != CALL.hash
    assert other.body != CALL.body


def test_order_of_arguments_is_no_difference() -> None:
    assert dataclasses.replace(CALL, arguments={"points": ["a"], "k": 3}).hash == CALL.hash


def test_revision_and_versions_decide_the_result_and_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(CALL, revision="abc")
    assert other.hash != CALL.hash
    assert other.body == CALL.body
    monkeypatch.setattr(work_module, "_versions", lambda: "newer")
    newer = dataclasses.replace(CALL)
    assert newer.hash != CALL.hash
    assert newer.body == CALL.body


def test_lines_of_the_user_do_not_decide_the_result(graph: Graph, run: Work) -> None:
    moved = Graph(tuple(dataclasses.replace(node, line="elsewhere.py:1") for node in graph.nodes), graph.constants, graph.model)
    other = dataclasses.replace(run, graph=moved.to_bytes())
    assert other.body != run.body
    assert other.hash == run.hash


def test_constants_and_inputs_decide_the_result(graph: Graph, run: Work) -> None:
    changed = Graph(graph.nodes, {name: tensor + 1 for name, tensor in graph.constants.items()}, graph.model)
    assert graph.constants
    assert dataclasses.replace(run, graph=changed.to_bytes()).hash != run.hash
    assert dataclasses.replace(run, inputs=packed({"args": ("cat cat",)})).hash != run.hash


def test_fields_do_not_run_into_one_another() -> None:
    assert Work("method", "ab", method="c").body != Work("method", "a", method="bc").body


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "python", "model": "m"},
        {"kind": "method", "model": "m"},
        {"kind": "method", "model": "", "method": "read.x"},
        {"kind": "method", "model": "m", "method": "read.x", "graph": b"g"},
        {"kind": "graph", "model": "m", "graph": b"g"},
        {"kind": "graph", "model": "m", "graph": b"g", "inputs": b"i", "method": "read.x"},
        {"kind": "method", "model": "m", "method": "read.x", "seed": "1"},
        {"kind": "method", "model": "m", "method": "read.x", "seed": True},
        {"kind": "method", "model": "m", "method": "read.x", "arguments": {"k": float("nan")}},
        {"kind": "method", "model": "m", "method": "read.x", "arguments": {"k": object()}},
        {"kind": "method", "model": "m", "method": "read.x", "arguments": [1]},
        {"kind": "method", "model": "m\n", "method": "read.x"},
        {"kind": "method", "model": "\ud800", "method": "read.x"},
        {"kind": "method", "model": "m" * 301, "method": "read.x"},
    ],
)
def test_what_is_no_work_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Work(**fields)


def test_what_is_no_work_is_not_read() -> None:
    for wrong in ({"kind": "method"}, {"kind": "method", "model": "m", "method": "read.x", "user": "ada"}, {"kind": 3, "model": "m"}):
        with pytest.raises(InputError):
            Work.from_bytes(packed(wrong))
    for blob in (b"", b"\x80\x04K\x01.", CALL.to_bytes()[:-1]):
        with pytest.raises(StreamError):
            Work.from_bytes(blob)
    with pytest.raises(StreamError, match="at most 100"):
        Work.from_bytes(CALL.to_bytes(), largest=100)


def test_a_graph_that_is_none_has_no_hash() -> None:
    with pytest.raises(GraphError):
        _ = Work("graph", "m", b"no graph", b"inputs").hash


def test_an_outcome_of_nobody_is_lost() -> None:
    assert Outcome().lost
    assert not Outcome(b"").lost
    assert not Outcome(problem={"type": "graph-error"}).lost
