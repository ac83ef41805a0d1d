"""One operation: what may stand in it, and how it is shown."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutaway.engine.node import DTYPES, Limits, Node, check_node, node_from
from cutaway.engine.operations import TABLE
from cutaway.errors import GraphError

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
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
OPS = st.sampled_from([*list(TABLE)[::40], "read", "write", "skip", "call", "begin", "save", "stop", "nothing"])
SOMETHING = st.fixed_dictionaries(
    {"op": OPS},
    optional={
        "args": st.lists(TREE, max_size=3) | TREE,
        "kwargs": st.dictionaries(st.text(max_size=4), TREE, max_size=2),
        "seed": TREE,
        "grad": TREE,
        "line": TREE,
    },
)


def test_references_and_text() -> None:
    node = Node(
        "Tensor.where",
        ({"ref": [4, 0]}, [{"tuple": [{"slice": [None, {"ref": [2]}, None]}]}], {"constant": "0"}),
        {"x": {"dict": {"a": {"ref": [4]}}}},
    )
    assert sorted(node.references) == [2, 4]
    assert (
        str(Node("Tensor.sum", ({"ref": [4, 0]}, {"tuple": [0, {"slice": [None, 3, None]}]}), {"keepdim": True}))
        == "Tensor.sum(%4.0, (0, :3), keepdim=True)"
    )


def test_travels() -> None:
    for node in (Node("Tensor.abs", (1, [2.5, "x"]), {"a": None}, "a.py:1", False), Node("torch.randn_like", (), {}, "", True, 9)):
        assert node_from(node.data(), 0) == node


@QUICK
@given(TREE | SOMETHING)
def test_any_tree_is_a_node_or_refused(data: Any) -> None:
    try:
        check_node(node_from(data, 3), 3, {"0"}, Limits())
    except GraphError:
        pass
