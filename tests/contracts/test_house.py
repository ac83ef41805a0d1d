"""The house rules that can be read off the source: sizes, names, no pickle, no global random numbers, a test beside every module.

Each rule is held against every module of the package, so that a new file is under the rules from its first line. A rule that is broken names every
place.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from cutaway import registry

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "cutaway"
MODULES = sorted(SRC.rglob("*.py"))

Rule = Callable[[Path], Iterable[str]]


def in_every_module(rule: Rule) -> Callable[[], None]:
    """The test that no module breaks a rule, which gives what breaks it. One test for all of them: a test for each costs more than what it does."""

    def test() -> None:
        assert not [found for path in MODULES for found in rule(path)]

    return test


MAX_LINES = 500
MAX_FUNCTION = 60  # lines from the first statement after the docstring to the last; what a reader has to hold in mind
MAX_PARAMETERS = 7  # counted apart: those that may be given by position, and those that are keyword-only
GIVEN = {"attend": "transformers calls it, and says with what"}
VAGUE = frozenset({"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers", "base2"})
PICKLING = frozenset({"cPickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"})
PICKLED_CALLS = frozenset({"torch.load", "torch.save", "pd.read_pickle", "pandas.read_pickle"})
DRAWS = frozenset({"rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli", "multinomial"})
DRAWS_IN_PLACE = frozenset({"normal_", "uniform_", "random_", "bernoulli_", "exponential_", "log_normal_", "trunc_normal_"})

UNTESTED = {
    "models/families": "a table each; tests/models/test_families.py runs over all of them",
    "zoo/compiled": "programs; tests/zoo/compiled/test_programs.py runs over all of them, and its neighbours test what they are made of",
}
"""Modules and folders without a test of the same name, each with the reason."""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(tree(path)))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in nodes(path) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


@cache
def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Every call with the dotted name of what is called; only the last part where that is not a plain name."""
    found = []
    for node in nodes(path):
        if isinstance(node, ast.Call):
            function = node.func
            dotted = ast.unparse(function)
            if isinstance(function, ast.Attribute) and not re.fullmatch(r"[\w.]+", dotted):
                dotted = f"?.{function.attr}"
            found.append((dotted, node))
    return found


def where(path: Path, node: ast.stmt | ast.expr | ast.excepthandler) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


@in_every_module
def test_file_is_short(path: Path) -> Iterable[str]:
    lines = len(path.read_text("utf-8").splitlines())
    return [f"{path.relative_to(ROOT)}: {lines} lines"] if lines > MAX_LINES else []


@in_every_module
def test_functions_are_short(path: Path) -> Iterable[str]:
    long = []
    for function in functions(path):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        lines = (function.end_lineno or 0) - body[0].lineno + 1 if body else 0
        if lines > MAX_FUNCTION:
            long.append(f"{where(path, function)} {function.name}: {lines} lines")
    return long


@in_every_module
def test_functions_take_few_parameters(path: Path) -> Iterable[str]:
    """More than seven become a frozen dataclass. A command of the CLI is exempt: its options are the user's."""
    crowded = []
    for function in functions(path):
        if function.name in GIVEN or any("command" in ast.unparse(decorator) for decorator in function.decorator_list):
            continue
        by_position = [a for a in (*function.args.posonlyargs, *function.args.args) if a.arg not in ("self", "cls")]
        if max(len(by_position), len(function.args.kwonlyargs)) > MAX_PARAMETERS:
            crowded.append(f"{where(path, function)} {function.name}")
    return crowded


@in_every_module
def test_public_methods_are_documented(path: Path) -> Iterable[str]:
    """What fills in an interface is documented there: a method of the same name in another class, with a docstring."""
    silent = []
    for owner in (node for node in nodes(path) if isinstance(node, ast.ClassDef) and not node.name.startswith("_")):
        for method in (node for node in owner.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            if not method.name.startswith("_") and not ast.get_docstring(method) and method.name not in interfaces():
                silent.append(f"{where(path, method)} {owner.name}.{method.name}")
    return silent


@cache
def interfaces() -> frozenset[str]:
    """Names of the documented methods of abstract classes and protocols."""
    owners = (node for path in MODULES for node in nodes(path) if isinstance(node, ast.ClassDef))
    abstract = (owner for owner in owners if {"ABC", "Protocol"} & {ast.unparse(base).partition("[")[0] for base in owner.bases})
    return frozenset(
        node.name for owner in abstract for node in owner.body if isinstance(node, ast.FunctionDef) and ast.get_docstring(node)
    )


def test_names_say_something() -> None:
    paths = [*MODULES, *(p for p in SRC.rglob("*") if p.is_dir())]
    assert not [str(path.relative_to(SRC)) for path in paths if path.stem.strip("_") in VAGUE]


@in_every_module
def test_no_pickle(path: Path) -> Iterable[str]:
    """Weights and results travel as safetensors and JSON: reading them can run no code."""
    found = [f"{where(path, call)} {name}" for name, call in calls(path) if name in PICKLED_CALLS]
    found += [f"{where(path, call)} {name}" for name, call in calls(path) if any(k.arg == "allow_pickle" for k in call.keywords)]
    for node in nodes(path):
        imported = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        if isinstance(node, ast.ImportFrom):
            imported = {node.module or ""}
        found += [f"import {name}" for name in imported if name.partition(".")[0] in PICKLING]
    return found


@in_every_module
def test_random_numbers_come_from_a_local_generator(path: Path) -> Iterable[str]:
    """A global generator makes a number depend on what ran before; `torch.manual_seed` is right only inside `fork_rng`."""
    forks = [n for n in nodes(path) if isinstance(n, ast.With) and "fork_rng" in ast.unparse(n.items[0])]
    forked = {id(node) for fork in forks for node in ast.walk(fork)}
    found = []
    imported = any(isinstance(n, ast.Import) and "random" in {a.name for a in n.names} for n in nodes(path))
    for name, call in calls(path):
        if id(call) in forked:
            continue
        module, _, function = name.rpartition(".")
        given = {keyword.arg for keyword in call.keywords}
        if (
            (name in ("torch.manual_seed", "torch.cuda.manual_seed_all"))
            or (module == "torch" and function in DRAWS and "generator" not in given)
            or (function in DRAWS_IN_PLACE and "generator" not in given)
            or (module in ("np.random", "numpy.random") and function not in ("default_rng", "Generator", "SeedSequence", "PCG64"))
            or (module in ("np.random", "numpy.random") and function == "default_rng" and not call.args)
            or (imported and module == "random" and function != "Random")
        ):
            found.append(f"{where(path, call)} {name}")
    return found


@in_every_module
def test_errors_are_never_swallowed_whole(path: Path) -> Iterable[str]:
    """They are raised again as something else, or told: by the log of a server that has to go on, or as a problem to whoever asked."""
    handlers = (node for node in nodes(path) if isinstance(node, ast.ExceptHandler))
    broad = [h for h in handlers if h.type is None or ast.unparse(h.type) in ("Exception", "BaseException")]
    return [where(path, h) for h in broad if not any(isinstance(node, ast.Raise) or _tells(node) for node in ast.walk(h))]


def _tells(node: ast.AST) -> bool:
    called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    return called in ("_LOG.exception", "told") or (
        called == "_LOG.error" and any(k.arg == "exc_info" for k in getattr(node, "keywords", ()))
    )


@in_every_module
def test_annotations_are_not_evaluated(path: Path) -> Iterable[str]:
    """Annotations stay text, so that a type that is imported for checking only costs nothing at run time."""
    body = [node for node in tree(path).body if not isinstance(node, ast.Expr)]
    future = not body or (isinstance(body[0], ast.ImportFrom) and body[0].module == "__future__")
    return [] if future else [str(path.relative_to(ROOT))]


@pytest.mark.parametrize("folder", ["src", "tests", "docs", "benchmarks"])
def test_nothing_is_left_for_later(folder: str) -> None:
    mark = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")
    files = [p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".md", ".html", ".css", ".js", ".j2")]
    assert not [str(p.relative_to(ROOT)) for p in files if mark.search(p.read_text("utf-8"))]


@in_every_module
def test_has_a_test_of_the_same_name(path: Path) -> Iterable[str]:
    """`tests/` mirrors `src/`. Private modules are tested through those that use them; packages hold no code."""
    name = path.relative_to(SRC)
    if path.name.startswith("_") or any(name.is_relative_to(exempt) for exempt in UNTESTED):
        return []
    test = ROOT / "tests" / name.parent / f"test_{path.stem}.py"
    return [] if test.exists() else [f"{test.relative_to(ROOT)} is missing"]


def test_exemptions_are_still_needed() -> None:
    assert [name for name in UNTESTED if not (SRC / name).exists()] == []


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in registry.KINDS for name in registry.names(kind)])
def test_registered_name_can_be_loaded(kind: str, name: str) -> None:
    """What the registry lists is there under the name of its file, and its first line says what it is."""
    assert registry.load(kind, name) is not None
    assert registry.summary(kind, name)
