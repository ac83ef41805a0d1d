"""An error keeps its three parts as it travels, whatever its class."""

from __future__ import annotations

import json

from cutaway.errors import GraphError, UnknownNameError
from cutaway.remote.problem import problem


def test_parts_and_line_travel() -> None:
    found = problem(GraphError("Node 3.", "an unknown operation", "one of the table"), "study.py:12")
    assert found == {
        "type": "graph-error",
        "title": "An intervention graph is malformed, too large, or holds what is not in the table.",
        "detail": "Node 3. an unknown operation",
        "asked": "Node 3.",
        "found": "an unknown operation",
        "works": "one of the table",
        "line": "study.py:12",
    }


def test_errors_with_their_own_constructor_are_plain_data_too() -> None:
    found = problem(UnknownNameError("method", "read.logit_lense", ["read.logit_lens"]))
    assert found["works"] == "read.logit_lens"
    assert json.loads(json.dumps(found)) == found
