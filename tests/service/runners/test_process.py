"""A worker may be killed at any moment, hang, or run out of memory: its jobs are lost or have a problem, and the next one runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cutaway.engine.node import Limits
from cutaway.errors import ServiceError, StreamError
from cutaway.service.outcomes import Outcome
from cutaway.service.runners.base import Settings
from cutaway.service.runners.process import Process

NAME = "induction_lm"
Started = Callable[..., tuple[dict[str, Outcome], threading.Thread]]


def silent(job: str, kind: str, data: Any) -> None:
    return None


def started(runner: Process, jobs: dict[str, Any], after: float = 1.0) -> tuple[dict[str, Outcome], threading.Thread]:
    """Jobs that run in another thread, and their outcomes once they have ended."""
    done: dict[str, Outcome] = {}
    thread = threading.Thread(target=lambda: done.update(runner.run(jobs, silent)))
    thread.start()
    time.sleep(after)
    assert thread.is_alive()
    return done, thread


def answers(runner: Process, works: Any) -> None:
    done = runner.run({"again": works.graph()}, silent)
    assert torch.equal(works.saved(done["again"])["logits"], works.live()["logits"])


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_worker_is_a_process_of_its_own(process: Process, works: Any) -> None:
    answers(process, works)
    assert set(process.pids()) == {NAME} and process.pids()[NAME] != os.getpid()
    assert os.getsid(process.pids()[NAME]) != os.getsid(0)


def test_cancelling_spares_the_process(process: Process, works: Any) -> None:
    before = process.pids()
    done, thread = started(process, {"j": works.graph(works.busy)}, 0.3)
    process.cancel("j")
    thread.join(30)
    assert works.problem(done["j"]) == "cancelled" and process.pids() == before
    answers(process, works)


@pytest.fixture
def own() -> Iterator[Callable[..., Process]]:
    """A runner whose worker may die: `own(seconds=1)`."""
    made: list[Process] = []

    def make(**settings: Any) -> Process:
        made.append(Process(Settings(**settings)))
        made[-1].load(NAME)
        return made[-1]

    yield make
    for runner in made:
        runner.close()


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_forward(own: Any, works: Any, over: Any) -> None:
    runner = own()
    stream = over(runner, NAME)
    for jobs in ({"a": works.graph(works.busy)}, {"a": works.graph(works.busy), "b": works.graph(works.busy)}):
        done, thread = started(runner, jobs)
        pid = runner.pids()[NAME]
        os.kill(pid, signal.SIGKILL)
        thread.join(5)
        assert not thread.is_alive() and all(outcome.lost for outcome in done.values()) and set(done) == set(jobs)
        answers(runner, works)
        assert runner.pids()[NAME] != pid and gone(pid)
    with pytest.raises(StreamError, match="ended"), works.lm.stream(works.text, to=stream) as run:
        run.save(h=works.lm.embed)
    with works.lm.stream(works.text, to=over(runner, NAME)) as run:
        run.save(h=works.lm.embed)


@pytest.mark.slow
def test_kill_9_of_an_idle_worker_and_a_stopped_one(own: Any, works: Any) -> None:
    runner = own(seconds=2.0, grace=0.5)
    pid = runner.pids()[NAME]
    os.kill(pid, signal.SIGKILL)
    until(lambda: gone(pid))
    runner.run({"j": works.graph()}, silent)  # lost where its death has not been noticed yet
    answers(runner, works)
    os.kill(runner.pids()[NAME], signal.SIGSTOP)  # it hangs: it answers to nothing
    began = time.monotonic()
    outcome = runner.run({"j": works.graph()}, silent)["j"]
    assert works.problem(outcome) == "time-limit" and time.monotonic() - began < 10
    answers(runner, works)
    os.kill(runner.pids()[NAME], signal.SIGSTOP)
    done = runner.run({"a": works.graph(), "b": works.graph()}, silent)
    assert all(outcome.lost for outcome in done.values())  # which of them is to blame is not known
    answers(runner, works)


@pytest.mark.slow
def test_what_does_not_stop_is_killed(own: Any, works: Any, computing: Callable[[int], None]) -> None:
    runner = own(grace=0.3)
    answers(runner, works)  # what is done once for each process is done
    pid = runner.pids()[NAME]
    done, thread = started(runner, {"j": works.graph(works.stuck)}, 0)
    computing(pid)
    runner.cancel("j")
    thread.join(20)
    assert works.problem(done["j"]) == "cancelled"
    answers(runner, works)
    assert gone(pid) and runner.pids()[NAME] != pid


@pytest.mark.slow
def test_time_limit(own: Any, works: Any) -> None:
    runner = own(seconds=1.5, grace=20.0)
    before = runner.pids()
    outcome = runner.run({"j": works.graph(works.busy)}, silent)["j"]
    assert works.problem(outcome) == "time-limit" and runner.pids() == before
    both = runner.run({"long": works.graph(works.busy), "short": works.graph()}, silent)
    assert works.problem(both["long"]) == "time-limit" and works.saved(both["short"])


@pytest.mark.slow
def test_memory_is_bounded(own: Any, works: Any) -> None:
    runner = own(memory=2**30, limits=Limits(value=2**32, values=2**40))

    def large(lm: Any, run: Any) -> None:
        h = lm.layers[0].output[0, :1, :1].expand(22_000, 22_000)
        run.save(h=(h + 1).sum())

    before = runner.pids()
    outcome = runner.run({"j": works.graph(large)}, silent)["j"]
    assert works.problem(outcome) in ("graph-error", "out-of-memory") and runner.pids() == before
    answers(runner, works)


@pytest.mark.slow
def test_a_model_that_cannot_be_opened(works: Any) -> None:
    runner = Process(Settings())
    with pytest.raises(ServiceError, match="indction_lm") as caught:
        runner.load("indction_lm")
    assert "induction_lm" in caught.value.works and runner.loaded() == {} and runner.pids() == {}


SERVER = """
import sys, time
from cutaway.service.runners.base import Settings
from cutaway.service.runners.process import Process
runner = Process(Settings())
runner.load("induction_lm")
print(runner.pids()["induction_lm"], flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_worker_ends_with_its_server() -> None:
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    pid = int(server.stdout.readline())
    assert not gone(pid)
    server.kill()
    server.wait()
    server.stdout.close()
    until(lambda: gone(pid))
