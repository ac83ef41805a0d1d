"""Every error a user can meet comes from `errors.py`, says what would work, and has a page that explains it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from cutaway import errors

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "cutaway"
PAGES = ROOT / "docs" / "errors"
MODULES = sorted(SRC.rglob("*.py"))
CLASSES = {name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.CutawayError)}
SECTIONS = ("Symptom", "Cause", "Fix")

PROTOCOLS = {
    "__getattr__": {"AttributeError"},
    "__getitem__": {"IndexError", "KeyError", "TypeError"},
    "__len__": {"TypeError"},
    "__next__": {"StopIteration"},
}
"""Method -> what Python itself expects it to raise."""

OUTSIDE = {
    "engine": (
        {"AttributeError", "Enough"},
        "a name looked up on a handle: hasattr and completion expect it; a forward that is left early",
    ),
    "results": ({"ValueError", "TypeError"}, "a kind built with arrays that do not fit is a mistake of the method's author"),
    "registry.py": ({"ValueError"}, "a value that does not read as its type; `called` turns it into an InputError"),
    "remote": ({"_Left"}, "leaves a recording's forward where it is"),
    "service": (
        {"HTTPException", "RequestValidationError"},
        "what the routes refuse before any of ours is asked; `api` tells it as a problem",
    ),
    "cli": ({"SystemExit", "click.UsageError", "click.BadParameter", "click.ClickException"}, "click prints its own"),
}
"""Room -> what it may raise besides, and why."""


@cache
def raises(path: Path) -> list[tuple[str, ast.Raise, str]]:
    """(name of the class, the statement, name of the innermost function), for each `raise Class(...)`."""
    found = []

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        if isinstance(node, ast.Raise) and node.exc is not None:
            name = ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
            if name.rpartition(".")[2][:1].isupper():
                found.append((name, node, function))
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(path.read_text("utf-8")), "")
    return found


def test_every_module_raises_only_errors_of_the_tree() -> None:
    wrong = []
    for path in MODULES:
        allowed = OUTSIDE.get(path.relative_to(SRC).parts[0], (set(), ""))[0] | CLASSES.keys()
        wrong += [
            f"{path.relative_to(ROOT)}:{node.lineno} {name}"
            for name, node, function in raises(path)
            if name.removeprefix("errors.") not in allowed | PROTOCOLS.get(function, set())
        ]
    assert not wrong


def test_every_message_says_what_would_work() -> None:
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in MODULES
        for name, node, _ in raises(path)
        if name in CLASSES and name != "UnknownNameError"  # that one writes its own
        if isinstance(node.exc, ast.Call)
        if not any(isinstance(argument, ast.Starred) for argument in node.exc.args)
        if len(node.exc.args) < 3 and not any(keyword.arg in ("works", None) for keyword in node.exc.keywords)
    ]
    assert not silent


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_class_has_a_page(name: str) -> None:
    page = (PAGES / f"{CLASSES[name].page}.md").read_text("utf-8")
    assert page.startswith(f"# {name}\n")
    assert tuple(re.findall(r"^## (.+)$", page, re.MULTILINE)) == SECTIONS
    parts = re.split(r"^## .+$", page, flags=re.MULTILINE)
    assert all(len(part.split()) >= 5 for part in parts[1:]), "a part is empty"
    assert "```" in parts[1], "the symptom shows no message"


def test_page_has_a_class() -> None:
    assert {p.stem for p in PAGES.glob("*.md")} == {cls.page for cls in CLASSES.values()}


def test_pages_are_not_shared() -> None:
    assert len({cls.page for cls in CLASSES.values()}) == len(CLASSES)
