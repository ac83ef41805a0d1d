"""An error keeps its three parts as it travels, whatever its class, and is raised as the class it had."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cutaway.errors import BusyError, CutawayError, GraphError, InputError, ServiceError, StorageError, UnknownNameError
from cutaway.remote.problem import problem, raised


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


def below(base: type[CutawayError]) -> Iterator[type[CutawayError]]:
    yield base
    for cls in base.__subclasses__():
        yield from below(cls)


@pytest.mark.parametrize("cls", list(below(CutawayError)))
def test_every_class_comes_back(cls: type[CutawayError]) -> None:
    error = cls("kind", "name", ["near"]) if cls is UnknownNameError else cls("Asked.", "this", "that")  # type: ignore[arg-type]
    back = raised(json.loads(json.dumps(problem(error, "study.py:12"))))
    assert type(back) is cls and (back.asked, back.found, back.works) == (error.asked, error.found, error.works)
    assert str(back) == str(error) and back.__notes__ == ["  at study.py:12"]


def test_a_line_that_the_message_has_is_not_said_twice() -> None:
    assert not hasattr(raised(problem(GraphError("Run view at study.py:12."), "study.py:12")), "__notes__")


@pytest.mark.parametrize(
    ("type", "cls"), [("too-many", BusyError), ("draining", BusyError), ("too-large", InputError), ("storage", StorageError)]
)
def test_types_that_are_no_page(type: str, cls: Any) -> None:
    found = raised({"type": type, "asked": "a", "found": "b", "works": "c"}, retry_after=7)
    assert isinstance(found, cls) and (not isinstance(found, BusyError) or found.retry_after == 7)


def test_an_error_of_the_server_names_where_its_log_has_more() -> None:
    found = raised({"type": "internal", "asked": "Run a job.", "found": "an error", "works": "", "id": "abc"})
    assert type(found) is ServiceError and "abc" in found.__notes__[0]


@pytest.mark.parametrize("fields", [{}, {"type": 3}, {"type": ["a"], "asked": {"a": 1}}, {"type": "cutaway-error", "found": None}])
def test_what_is_no_problem_is_an_error_all_the_same(fields: dict[str, Any]) -> None:
    assert isinstance(raised(fields), CutawayError)


def test_no_control_characters_reach_the_terminal() -> None:
    found = raised({"type": "input-error", "asked": "\x1b[2Jboo\x07", "found": "x" * 10_000})
    assert "\x1b" not in str(found) and "boo" in str(found) and len(str(found)) < 5_000
