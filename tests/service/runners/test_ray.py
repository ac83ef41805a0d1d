"""Models on Ray: what holds of every runner, and that a replica may be killed at any moment. One Ray for all, since it takes seconds to start."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from cutaway.errors import InputError, StreamError
from cutaway.service.outcomes import Outcome
from cutaway.service.runners.base import Settings

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")]  # of Ray's own code
NAME = "induction_lm"


def silent(job: str, kind: str, data: Any) -> None:
    return None


def descendants() -> dict[int, str]:
    """Processes that this one has started, and theirs: id -> what each was started as."""
    parents, names = dict[int, int](), dict[int, str]()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(folder.name)] = int(parent)
                names[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    found, more = set[int](), {os.getpid()}
    while more:
        found |= more
        more = {one for one, parent in parents.items() if parent in found} - found
    return {one: names[one] for one in found - {os.getpid()}}


def replicas() -> list[int]:
    """Processes whose title is that of a deployment, with or without what it is doing."""
    return [one for one, name in descendants().items() if name.startswith("ray::") and ":model" in name]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Ray of this machine, whose token is kept in a folder of its own. Nothing of it is left at the end."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        environment.delenv("RAY_AUTH_MODE", raising=False)
        from cutaway.service.runners.ray import Ray

        before = set(descendants())
        made = Ray(Settings(grace=1.0))
        made.load(NAME)
        yield made
        made.close()
        until = time.monotonic() + 10
        while left := set(descendants()) - before:
            assert time.monotonic() < until, left
            time.sleep(0.1)


@pytest.fixture(scope="module")
def every(of: Any) -> ModuleType:
    """What holds of every runner."""
    found: ModuleType = of("service/runners/test_base.py")
    return found


def answers(runner: Any, works: Any) -> None:
    done = runner.run({"again": works.graph()}, silent)
    assert torch.equal(works.saved(done["again"])["logits"], works.live()["logits"])


def started(runner: Any, jobs: dict[str, Any]) -> tuple[dict[str, Outcome], threading.Thread]:
    """Jobs that run in another thread, and their outcomes once they have ended."""
    done: dict[str, Outcome] = {}
    thread = threading.Thread(target=lambda: done.update(runner.run(jobs, silent)))
    thread.start()
    time.sleep(0.5)
    assert thread.is_alive()
    return done, thread


def test_what_holds_of_every_runner(runner: Any, works: Any, over: Any, every: ModuleType) -> None:
    every.test_a_graph(runner, works)
    every.test_several_at_once(runner, works)
    every.test_a_method_tells_its_progress(runner, works)
    for hostile in every.HOSTILE:
        every.test_hostile_graphs_are_refused_and_the_runner_lives(runner, works, hostile)
    every.test_a_stream(runner, works, over)
    every.test_streams_that_are_not_there(runner, works, over)
    every.test_models_that_are_not_there(runner, works)
    every.test_models_come_and_go(runner, works)
    assert os.environ["RAY_AUTH_MODE"] == "token"  # on, by Ray's own default


def test_cancelling_spares_the_replica(runner: Any, works: Any) -> None:
    (before,) = replicas()
    done, thread = started(runner, {"j": works.graph(works.busy)})
    runner.cancel("j")
    thread.join(20)
    assert works.problem(done["j"]) == "cancelled" and replicas() == [before]


def test_kill_9_of_a_replica(runner: Any, works: Any, over: Any) -> None:
    stream, (pid,) = over(runner, NAME), replicas()
    done, thread = started(runner, {"a": works.graph(works.busy), "b": works.graph(works.busy)})
    os.kill(pid, signal.SIGKILL)
    thread.join(10)
    assert not thread.is_alive() and [outcome.lost for outcome in done.values()] == [True, True]
    answers(runner, works)
    assert pid not in replicas()
    with pytest.raises(StreamError), works.lm.stream(works.text, to=stream) as run:
        run.save(h=works.lm.embed)


def test_what_does_not_stop_is_killed(runner: Any, works: Any, computing: Callable[[int], None]) -> None:
    (pid,) = replicas()
    done, thread = started(runner, {"j": works.graph(works.stuck)})
    computing(pid)
    runner.cancel("j")
    thread.join(20)
    assert works.problem(done["j"]) == "cancelled"
    answers(runner, works)
    assert pid not in replicas()


def test_names_of_servers(runner: Any) -> None:
    with pytest.raises(InputError, match="hyphens"):
        type(runner)(name="a.b")
