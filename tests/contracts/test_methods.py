"""The contract of a method, held against every one the registry knows; a new file is under it as soon as it exists.

Methods of other packages that are installed in the same environment are held to it too.
"""

from __future__ import annotations

import hashlib
import html
import inspect
import json
import re
import sys
import time
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import cutaway as cut
from cutaway import registry
from cutaway.results.base import Result

METHODS = registry.names("methods")
each_method = pytest.mark.parametrize("name", METHODS)

MODEL, TASK, SEED = "induction_lm", "induction:n=4,length=6", 3
SMALL = {"role": "target", "samples": 3, "window": 1, "steps": 20}
"""Given to every method that has an option of that name: a role the task has, and few repetitions."""
BUDGET_SECONDS = 20.0
SECTIONS = ("Mediator", "Search", "Measure", "Controls", "Method", "Source", "Returns", "Does not show", "Example")
MEDIATORS = ("attention", "component", "edge", "feature", "state", "subspace")
"""What is looked at or changed. attention: who attends to whom. component: heads, MLPs. feature: of a given basis. subspace: of a learned one."""
SEARCHES = ("exhaustive", "gates", "gradient", "ranking", "reading", "rotation")
"""How it is found. ranking: given by another method. reading: without an intervention. gates, rotation: trained."""
PLAIN = (int, float, str, bool, type(None))
"""What has a JSON form, and so can be a flag, a field of a form and part of a job."""


@cache
def opened() -> Any:
    return cut.open(MODEL)


@cache
def outcome(name: str) -> tuple[Result, float]:
    """The method's result on the zoo model, and how many seconds it took; computed once for all tests."""
    lm = opened()
    start = time.perf_counter()
    result = run(name, lm)
    return result, time.perf_counter() - start


def run(name: str, lm: Any) -> Result:
    function = registry.load("methods", name)
    small = {option: value for option, value in SMALL.items() if option in inspect.signature(function).parameters}
    result: Result = function(lm, TASK, seed=SEED, **small)
    return result


def documentation(name: str) -> str:
    return inspect.getdoc(sys.modules[registry.load("methods", name).__module__]) or ""


def sections(text: str) -> dict[str, str]:
    """`Name:` at the start of a line opens a section; what follows, up to the next one, is its text."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def is_plain(annotation: Any) -> bool:
    """int, float, str, bool, None, a union or Literal of those, or a tuple of int or str of any length."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return all(is_plain(a) for a in arguments)
    if origin is typing.Literal:
        return all(isinstance(a, PLAIN) for a in arguments)
    if origin is tuple:
        return arguments in ((int, ...), (str, ...))
    return annotation in PLAIN


def stored(result: Result, path: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """What the result is on disk, without what it cost: seconds, and forwards, whose fractions add up with rounding."""
    written = result.save(path)
    document = json.loads(written.read_text("utf-8"))
    for cost in ("seconds", "forwards"):
        document["result"]["provenance"].pop(cost)
    return document, load_file(written.with_suffix(".safetensors"))


def same(one: tuple[Any, dict[str, np.ndarray]], other: tuple[Any, dict[str, np.ndarray]]) -> bool:
    arrays = one[1].keys() == other[1].keys() and all(np.array_equal(one[1][k], other[1][k], equal_nan=True) for k in one[1])
    return one[0] == other[0] and bool(arrays)


def hooks(module: Any) -> Iterator[str]:
    """Names of all hooks on a module and the modules in it."""
    for path, part in module.named_modules():
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            yield from (f"{path} {kind}" for _ in getattr(part, kind))
        yield from (f"{path} forward" for _ in [0] if "forward" in vars(part))


def fingerprint(module: Any) -> str:
    """A hash of every parameter and buffer, of their gradients, and of the module's mode."""
    digest = hashlib.sha256(str([part.training for part in module.modules()]).encode())
    for key, value in sorted({**module.state_dict(), **dict(module.named_buffers())}.items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    for key, value in module.named_parameters():
        digest.update(f"{key} {value.requires_grad} {value.grad is None}".encode())
    return digest.hexdigest()


def test_there_are_methods() -> None:
    assert METHODS


@each_method
def test_signature(name: str) -> None:
    function = registry.load("methods", name)
    assert inspect.isfunction(function) and function.__name__ == name.rpartition(".")[2]
    first, second, *options = inspect.signature(function).parameters.values()
    assert (first.name, second.name) == ("lm", "task")
    hints = typing.get_type_hints(function)
    assert issubclass(hints["return"], Result)
    assert all(option.kind is option.KEYWORD_ONLY for option in options), "options are keyword-only"
    assert all(option.default is not option.empty for option in options), "options have defaults"
    assert not [o.name for o in options if not is_plain(hints[o.name])], "options have a JSON form"
    assert "seed" in {option.name for option in options}


@each_method
def test_documentation(name: str) -> None:
    text = documentation(name)
    assert text.partition("\n")[0].rstrip().endswith("?"), "the first line is the question the method answers"
    found = sections(text)
    assert tuple(found) == SECTIONS
    assert not [title for title, body in found.items() if len(body.split()) < 2]
    assert re.search(r"\b(19|20)\d\d\b", found["Source"]), "the source has a year"
    assert ">>>" in found["Example"]
    function = registry.load("methods", name)
    assert function.__doc__
    _, _, *options = inspect.signature(function).parameters
    unexplained = {o for o in options if not re.search(rf"\b{o}\b", text + function.__doc__)} - {"seed"}
    assert not unexplained, "each option but the seed, which means the same everywhere, is explained"


@each_method
def test_declares_mediator_search_and_measure(name: str) -> None:
    """Three choices that are made apart (Mueller et al. 2024, arXiv 2408.01416), the first two in words that all methods share."""
    found = sections(documentation(name))
    for title, words in (("Mediator", MEDIATORS), ("Search", SEARCHES)):
        assert found[title].partition(";")[0].strip().rstrip(".") in words, f"{title} begins with one of {words}"


@each_method
def test_runs_on_a_zoo_model_in_time(name: str) -> None:
    result, seconds = outcome(name)
    assert isinstance(result, Result)
    assert result.kind in registry.names("results")
    assert seconds < BUDGET_SECONDS


@each_method
def test_says_where_it_came_from(name: str) -> None:
    result, _ = outcome(name)
    source = result.provenance
    assert (source.method, source.model, source.seed) == (name, MODEL, SEED)
    assert source.task.startswith(TASK.partition(":")[0])
    assert source.n >= 1 and source.forwards > 0
    assert {"cutaway", "torch"} <= source.versions.keys()
    _, _, *options = inspect.signature(registry.load("methods", name)).parameters
    assert {*options} - {"seed"} <= source.arguments.keys(), "every option is on record"
    assert result.title and result.question and result.limits


@each_method
def test_is_held_against_a_control(name: str) -> None:
    result, _ = outcome(name)
    assert result.controls
    declared = sections(documentation(name))["Controls"]
    for control in result.controls:
        assert control.name and control.says and control.unit
        assert control.name in declared, "controls are named in the documentation"
        for interval in (control.found, control.trivial):
            assert interval.n >= 1
            assert interval.low <= interval.value <= interval.high


@each_method
def test_survives_storage(name: str, tmp_path: Path) -> None:
    result, _ = outcome(name)
    result.save(tmp_path / "first")
    again = cut.load(tmp_path / "first.json")
    assert type(again) is type(result)
    assert same(stored(again, tmp_path / "second"), stored(result, tmp_path / "third"))


@pytest.mark.slow
@each_method
def test_every_view_draws_it(name: str, tmp_path: Path) -> None:
    result, _ = outcome(name)
    assert result.title in result.text()
    page = result.html()
    assert html.escape(result.title) in page
    assert not re.search(r"<script|\bsrc=[\"']?http|url\(\s*[\"']?http|<link", page), "the element stands alone"
    assert result.save_png(tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.slow
@each_method
def test_leaves_the_model_as_it_was(name: str) -> None:
    lm = cut.open(MODEL)
    before = fingerprint(lm.module), list(hooks(lm.module))
    run(name, lm)
    assert (fingerprint(lm.module), list(hooks(lm.module))) == before
    assert lm._open is None


@pytest.mark.slow
@each_method
def test_same_seed_same_numbers(name: str, tmp_path: Path) -> None:
    """A fresh model and a disturbed global generator change nothing."""
    import torch

    result, _ = outcome(name)
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        again = run(name, cut.open(MODEL))
    assert same(stored(again, tmp_path / "again"), stored(result, tmp_path / "first"))
