"""The runner of this process: what it holds, and what ends work in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from cutaway.engine import wire
from cutaway.errors import CutawayError, ServiceError, StreamError
from cutaway.models.any_module import AnyModule
from cutaway.remote.work import Work
from cutaway.service.runners.base import Settings
from cutaway.service.runners.inline import Inline

NAME = "induction_lm"


def silent(job: str, kind: str, data: Any) -> None:
    return None


@pytest.fixture
def inline(works: Any) -> Iterator[Inline]:
    """On a model that is open already."""
    runner = Inline(Settings(streams=2, park=0.3), open=lambda name: works.lm)
    runner.load(NAME)
    yield runner
    runner.close()


def test_nothing_is_left_in_a_model(works: Any, inline: Inline) -> None:
    inline.run({"j": works.graph()}, silent)
    assert any(part._forward_pre_hooks for part in works.lm.module.modules())  # what asks whether to go on
    inline.unload(NAME)
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in works.lm.module.modules())
    with pytest.raises(ServiceError):
        inline.run({"j": works.graph()}, silent)


def test_a_model_that_cannot_be_opened(works: Any) -> None:
    runner = Inline()
    with pytest.raises(CutawayError, match="indction_lm"):
        runner.load("indction_lm")
    assert runner.loaded() == {}
    runner.close()


def test_cancelling_ends_a_job_between_operations(works: Any, inline: Inline) -> None:
    ended: list[Any] = []
    work = works.graph(works.busy)
    thread = threading.Thread(target=lambda: ended.append(inline.run({"j": work}, silent)["j"]))
    thread.start()
    while "j" not in inline._running:
        time.sleep(0.01)
    inline.cancel("j")
    thread.join(20)
    assert works.problem(ended[0]) == "cancelled"
    assert torch.equal(works.saved(inline.run({"j": works.graph()}, silent)["j"])["logits"], works.live()["logits"])


def test_streams_are_counted_and_let_go(works: Any, inline: Inline, over: Any) -> None:
    first, second = over(inline, NAME), over(inline, NAME)
    with pytest.raises(ServiceError, match="2 that are open"):
        inline.open_stream(NAME)
    second.close()
    inline.close_stream(inline.open_stream(NAME))
    with pytest.raises(StreamError, match="let go"), works.lm.stream(works.text, to=first):
        float(works.lm.embed.sum())
        time.sleep(0.7)
        float(works.lm.embed.sum())
    for _ in range(2):
        inline.open_stream(NAME)  # those that were let go do not count


def test_one_message_of_a_stream_has_its_time(works: Any, over: Any) -> None:
    runner = Inline(Settings(seconds=0.2), open=lambda name: works.lm)
    runner.load(NAME)
    with pytest.raises(CutawayError, match=r"0\.2 seconds"), works.lm.stream(works.text, to=over(runner, NAME)) as run:
        works.busy(works.lm, run)
    runner.close()


def test_a_module_with_options(x: torch.Tensor) -> None:
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(8, 8)

        def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
            out: torch.Tensor = self.inner(x) * scale
            return out

    model = AnyModule(Scaled(), "scaled")
    runner = Inline(open=lambda name: model)
    runner.load("scaled")
    with model.record(x, scale=3.0) as run:
        run.save(out=run.output)
    sent = wire.packed({"args": (x,), "kwargs": {"scale": 3.0}, "driver": None})
    done = runner.run({j: Work("graph", "scaled", graph=run.graph.to_bytes(), inputs=sent) for j in "ab"}, silent)
    for outcome in done.values():
        assert outcome.result is not None and torch.equal(wire.unpacked(outcome.result, 2**20)["saved"]["out"], model.module(x, scale=3.0))
    runner.close()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
