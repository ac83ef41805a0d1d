"""Runners that are shared, since a process takes seconds to start, and works for them."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import cutaway as cut
from cutaway.engine import wire
from cutaway.models.language import LanguageModel
from cutaway.remote.work import Work
from cutaway.service.outcomes import Outcome
from cutaway.service.runners.base import Settings
from cutaway.service.runners.process import Process

NAME = "induction_lm"
TEXT = "red blue gold red blue"
TESTS = Path(__file__).parents[2]


class Works:
    """Works on the zoo's induction model, and how to read what comes of them."""

    text = TEXT

    def __init__(self) -> None:
        self.lm: LanguageModel = cut.open(NAME)

    def graph(self, body: Callable[[LanguageModel, Any], None] | None = None, model: str = NAME, text: Any = TEXT) -> Work:
        with self.lm.record(text) as run:
            (body or self.scaled)(self.lm, run)
        return Work("graph", model, graph=run.graph.to_bytes(), inputs=self.inputs(text))

    def live(self) -> dict[str, Any]:
        with self.lm.trace(TEXT) as run:
            self.scaled(self.lm, run)
        return run.saved

    def inputs(self, text: Any, driver: Any = None) -> bytes:
        return wire.packed({"args": (text,), "kwargs": {}, "driver": driver})

    def scaled(self, lm: LanguageModel, run: Any) -> None:
        lm.layers[0].output = lm.layers[0].output * 2
        run.save(logits=lm.logits)

    def busy(self, lm: LanguageModel, run: Any) -> None:
        """Many operations, for ten seconds."""
        h = lm.layers[0].output[0, :1, :1].expand(1500, 1500) * 1e-3
        for _ in range(200):
            h = h @ h
        run.save(h=h.sum())

    def stuck(self, lm: LanguageModel, run: Any) -> None:
        """One operation, for twenty seconds."""
        h = lm.layers[0].output[0, :1, :1].expand(6000, 6000) * 1e-3
        run.save(h=torch.linalg.svdvals(h).sum())

    def method(self, name: str = "locate.direct_effect", task: Any = "induction:n=3,length=6", seed: int = 3, **arguments: Any) -> Work:
        return Work("method", NAME, method=name, task=task, arguments=arguments, seed=seed)

    def saved(self, outcome: Outcome) -> dict[str, Any]:
        assert outcome.result is not None, outcome.problem
        found: dict[str, Any] = wire.unpacked(outcome.result, 2**30)["saved"]
        return found

    def problem(self, outcome: Outcome) -> str:
        assert outcome.result is None and outcome.problem is not None
        return str(outcome.problem["type"])


def silent(job: str, kind: str, data: Any) -> None:
    return None


@pytest.fixture(scope="session")
def computing() -> Callable[[int], None]:
    """`computing(pid)`: waits until a process has computed for a second from now, whatever else the machine does."""

    def used(pid: int) -> float:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    def wait(pid: int) -> None:
        before, deadline = used(pid), time.monotonic() + 60
        while used(pid) < before + 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def works() -> Works:
    return Works()


@pytest.fixture(scope="session")
def process() -> Iterator[Process]:
    """One worker, which tests leave alive."""
    runner = Process(Settings(grace=2.0))
    runner.load(NAME)
    yield runner
    runner.close()


def of(path: str) -> ModuleType:
    """Another file of the tests, for the bodies and modules it lists."""
    spec = importlib.util.spec_from_file_location(f"of_{Path(path).stem}", TESTS / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", name="of")
def _of() -> Callable[[str], ModuleType]:
    return of


@pytest.fixture(scope="session")
def bodies() -> ModuleType:
    return of("models/test_bodies.py")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """`folders(kind)`: where a tiny random model of that architecture is stored."""
    tiny, made = of("models/conftest.py"), dict[str, str]()

    def folder(kind: str) -> str:
        if kind not in made:
            path = tmp_path_factory.mktemp(kind)
            tiny.tiny_module(kind).save_pretrained(path)
            tiny.word_tokenizer().save_pretrained(path)
            made[kind] = str(path)
        return made[kind]

    return folder


class Over:
    """A transport of `model.stream` over a runner."""

    def __init__(self, runner: Any, model: str) -> None:
        self.runner, self.id = runner, runner.open_stream(model)

    def send(self, message: bytes) -> bytes:
        answer: bytes = self.runner.send(self.id, message)
        return answer

    def close(self) -> None:
        self.runner.close_stream(self.id)


@pytest.fixture(scope="session")
def over() -> type[Over]:
    return Over
