"""Every job that was accepted ends once, with the right numbers, whatever fails meanwhile: runners, models, the table, the folder of results."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import cutaway as cut
from cutaway.errors import BusyError, ServiceError, StorageError, WeightsError
from cutaway.remote.work import Work
from cutaway.service import dispatch, leases
from cutaway.service import server as core
from cutaway.service.jobs import FINAL, Job, State
from cutaway.service.outcomes import Outcome
from cutaway.service.runners.inline import Inline
from cutaway.service.scheduler import Policy
from cutaway.service.server import Server

NAME, OTHER = "induction_lm", "compiled.reverse"
Make = Callable[..., Any]


def slowly(*values: Any) -> Any:
    """A case that is like others."""
    return pytest.param(*values, marks=pytest.mark.slow)


class Watched:
    """The inline runner, seen from outside. gate: runs begin when it is set; instead: what a run does in place of running."""

    def __init__(self, open: Callable[[str], Any] = cut.open) -> None:
        self.inline, self.gate = Inline(open=open), threading.Event()
        self.loads, self.runs, self.cancels = list[str](), list[list[str]](), list[str]()
        self.gate.set()
        self.instead: Callable[[Mapping[str, Work]], dict[str, Outcome] | None] = lambda works: None

    def load(self, model: str) -> int:
        self.loads.append(model)
        return self.inline.load(model)

    def run(self, works: Mapping[str, Work], on_event: Any, rehearsed: bool = False) -> dict[str, Outcome]:
        self.runs.append(list(works))
        assert self.gate.wait(20)
        outcomes = self.instead(works)
        return self.inline.run(works, on_event, rehearsed) if outcomes is None else outcomes

    def cancel(self, job: str) -> None:
        self.cancels.append(job)
        self.inline.cancel(job)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inline, name)


class Failing:
    """A table some of whose calls fail, as on a disk without room."""

    def __init__(self, jobs: Any) -> None:
        self.jobs, self.fails, self.failed, self.calls = jobs, set[str](), list[str](), list[str]()

    def __getattr__(self, name: str) -> Any:
        def called(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if name in self.fails:
                self.failed.append(name)
                raise StorageError(f"Call {name}.", "no room", "room")
            return getattr(self.jobs, name)(*args, **kwargs)

        return called


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried at once."""
    for module in (dispatch, leases):
        monkeypatch.setattr(module, "PAUSE", 0.02)


@pytest.fixture
def runner() -> Iterator[Watched]:
    watched = Watched()
    yield watched
    watched.gate.set()


def ended(server: Server, *jobs: Job, seconds: float = 10.0) -> list[Job]:
    """The jobs, when all have ended."""
    until = time.monotonic() + seconds
    while True:
        found = [server.jobs.get(job.id, None) for job in jobs]
        if all(job.state in FINAL for job in found):
            return found
        assert time.monotonic() < until, [(job.state, job.attempts) for job in found]
        time.sleep(0.005)


def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def states(server: Server, job: Job) -> list[str]:
    return [event.data["state"] for event in server.jobs.events(job.id, None) if event.type == "state"]


def right(server: Server, graphs: Any, number: int, job: Job, model: str = NAME) -> bool:
    """Whether a job is done, once, with the numbers of that work."""
    job = server.jobs.get(job.id, None)
    assert (job.state, states(server, job).count("done")) == (State.DONE, 1), (job, states(server, job))
    assert job.result is not None
    return bool(graphs.right(number, server.results.get(job.result), model))


def test_equal_jobs_run_once_and_all_are_done_with_it(made: Make, graphs: Any, runner: Watched) -> None:
    server = made(runner, wrap=Failing)
    runner.gate.clear()
    jobs = [server.submit(f"user{i}", graphs(1)) for i in range(1, 20)]
    server.start()
    until(lambda: runner.runs)
    jobs += [server.submit(f"user{i}", graphs(1)) for i in range(20, 40)]
    heard = threading.Event()
    until(lambda: not server.dispatcher._wake.is_set())
    time.sleep(0.02)
    with server.listening(jobs[-1].id, "user39", heard.set):
        runner.gate.set()
        done = ended(server, *jobs, seconds=2.0)
        assert heard.wait(1)
    assert [job.cached for job in done].count(False) == 1 and all(right(server, graphs, 1, job) for job in jobs)
    assert len(runner.runs) == 1 and len({job.result for job in done}) == 1
    assert server.jobs.calls.count("lease") <= 3 and server.jobs.calls.count("settle") == 1, "to load, to run; the others at once"


def test_a_lost_job_runs_alone_and_fails_after_three_losses(made: Make, graphs: Any, runner: Watched) -> None:
    server, harmless = made(runner), graphs(2).inputs
    poison = graphs(1).inputs
    runner.instead = lambda works: {} if any(work.inputs == poison for work in works.values()) else None
    bad, good = server.submit("ada", graphs(1)), server.submit("ben", graphs(2))
    assert poison != harmless
    server.start()
    failed, done = ended(server, bad, good)
    assert (failed.state, failed.attempts) == (State.FAILED, 3)
    assert failed.problem is not None and "3 times" in failed.problem["found"]
    assert done.attempts == 1 and right(server, graphs, 2, good)
    assert sorted(map(len, runner.runs)) == [1, 1, 1, 2]


def test_a_run_that_ends_while_the_queue_is_read_is_seen_whole(made: Make, graphs: Any, runner: Watched) -> None:
    """The queue is read before the jobs are leased, and used after they were lost: that they were must not be missed."""
    leasing, read = threading.Event(), threading.Event()

    class Late(Failing):
        def lease(self, worker: str, seconds: float, ids: list[str], state: State) -> list[Job]:
            if state == State.RUNNING and not leasing.is_set():
                leasing.set()
                assert read.wait(5)
            return list(self.jobs.lease(worker, seconds, ids, state))

        def queued(self) -> list[Job]:
            found = list(self.jobs.queued())
            if leasing.is_set() and not read.is_set():
                read.set()
                until(lambda: not server.dispatcher.busy)
            return found

    server = made(runner, wrap=Late)
    runner.instead = lambda works: {} if len(works) > 1 else None
    jobs = server.submit("ada", graphs(1)), server.submit("ben", graphs(2))
    server.start()
    assert [job.attempts for job in ended(server, *jobs)] == [1, 1]
    assert sorted(map(len, runner.runs)) == [1, 1, 2]


def test_a_runner_that_raises_is_as_one_that_died(made: Make, graphs: Any, runner: Watched) -> None:
    server, turns = made(runner), itertools.count()

    def break_once(works: Mapping[str, Work]) -> None:
        if next(turns) == 0:
            raise KeyError("a mistake of ours")

    runner.instead = break_once  # type: ignore[assignment]
    job = server.submit("ada", graphs(1))
    server.start()
    (done,) = ended(server, job)
    assert done.attempts == 1 and right(server, graphs, 1, job)


@pytest.mark.parametrize(
    "name", ["work", "finish", *map(slowly, ("lease", "release", "queued", "expire", "renew", "settle", "record", "get"))]
)
def test_a_table_that_fails_meanwhile_loses_nothing(made: Make, graphs: Any, runner: Watched, name: str) -> None:
    server = made(runner, wrap=Failing, alone=False, lease=0.1)
    if name == "renew":
        runner.gate.clear()
    jobs = [server.submit("ada", graphs(number)) for number in (1, 2)] + [server.submit("ben", graphs(1))]
    server.jobs.fails.add(name)
    server.start()
    if name not in ("settle", "record", "get"):  # which are not always called
        until(lambda: server.jobs.failed)
    time.sleep(0.05)
    server.jobs.fails.clear()
    runner.gate.set()
    done = ended(server, *jobs)
    assert [job.attempts for job in done] == [0, 0, 0]
    assert all(right(server, graphs, number, job) for number, job in zip((1, 2, 1), jobs, strict=True))
    assert not server.dispatcher._leases.hashes and server.dispatcher.drain(0.5)


def test_what_was_computed_waits_for_room(made: Make, graphs: Any, runner: Watched, tmp_path: Path) -> None:
    """The folder of results is gone, then something else is in its place, as long as it takes."""
    server = made(runner)
    shutil.rmtree(tmp_path / "results")
    (tmp_path / "results").write_bytes(b"")
    job, unwanted = server.submit("ada", graphs(1)), server.submit("ada", graphs(1))
    server.start()
    time.sleep(0.4)
    assert server.jobs.get(job.id, None).state == State.RUNNING, "longer than a lease, which is renewed"
    (tmp_path / "results").unlink()
    ended(server, job, unwanted)
    assert right(server, graphs, 1, job) and right(server, graphs, 1, unwanted)
    assert len(runner.runs) == 1 and server.jobs.get(job.id, None).attempts == 0


def test_what_waits_for_room_can_be_cancelled(made: Make, graphs: Any, runner: Watched, tmp_path: Path) -> None:
    server = made(runner)
    shutil.rmtree(tmp_path / "results")
    (tmp_path / "results").write_bytes(b"")
    job = server.submit("ada", graphs(1))
    server.start()
    until(lambda: server.jobs.get(job.id, None).state == State.RUNNING)
    server.cancel(job.id, "ada")
    until(lambda: not server.dispatcher.busy)
    assert server.jobs.get(job.id, None).state == State.CANCELLED


def test_results_that_cannot_be_swept_stop_nothing(
    made: Make, graphs: Any, runner: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = made(runner)

    def refused(*args: Any) -> None:
        raise PermissionError("a folder of somebody else")

    monkeypatch.setattr(type(server.results), "sweep", refused)
    job = server.submit("ada", graphs(1))
    server.start()
    ended(server, job, seconds=2.0)


@pytest.mark.parametrize("when", ["queued", "loading", "running"])
def test_a_cancelled_job_leaves_nothing_behind(made: Make, graphs: Any, when: str) -> None:
    opening = threading.Event()

    def opened(name: str) -> Any:
        assert opening.wait(5)
        return cut.open(name)

    runner = Watched(opened)
    server = made(runner)
    job, equal = server.submit("ada", graphs(1)), server.submit("ben", graphs(1))
    if when == "queued":
        server.cancel(job.id, "ada")
    server.start()
    if when == "loading":
        until(lambda: server.jobs.get(job.id, None).state == State.LOADING)
        server.cancel(job.id, "ada")
    if when == "running":
        runner.gate.clear()
    opening.set()
    if when == "running":
        until(lambda: server.jobs.get(job.id, None).state == State.RUNNING)
        server.cancel(job.id, "ada")
        runner.gate.set()
    cancelled, done = ended(server, job, equal)
    assert cancelled.state == State.CANCELLED and states(server, job)[-1] == "cancelled"
    assert right(server, graphs, 1, equal) and done.attempts == 0
    until(lambda: not server.dispatcher._leases.hashes)


def test_a_job_cancelled_between_its_lease_and_its_run_is_let_go_of(made: Make, graphs: Any, runner: Watched) -> None:
    class Late(Failing):
        def work(self, id: str) -> bytes:
            if not self.failed:
                self.failed.append("cancelled")
                self.jobs.cancel(id, None)
            return bytes(self.jobs.work(id))

    server = made(runner, wrap=Late)
    job, equal = server.submit("ada", graphs(1)), server.submit("ben", graphs(1))
    server.start()
    cancelled, _ = ended(server, job, equal)
    assert cancelled.state == State.CANCELLED and right(server, graphs, 1, equal)
    assert server.dispatcher.drain(0.5)


def test_a_lease_that_is_another_by_now_is_not_stopped(made: Make, graphs: Any, runner: Watched) -> None:
    """Its job was lost and leased anew while the renewal of the one before was under way."""

    class Overtaken(Failing):
        def renew(self, jobs: Any, seconds: float) -> Any:
            return [] if overtaken(jobs) else self.jobs.renew(jobs, seconds)

    def overtaken(jobs: Any) -> bool:
        if threading.current_thread().name != "_renew" or len(runner.runs) != 1:
            return False
        gates[0].set()
        until(lambda: len(runner.runs) == 2)
        return True

    gates = [threading.Event(), threading.Event()]

    def lose_once(works: Mapping[str, Work]) -> Any:
        turn = len(runner.runs) - 1
        assert gates[turn].wait(5)
        return {} if turn == 0 else None

    runner.instead = lose_once
    server = made(runner, wrap=Overtaken, lease=0.1)
    job = server.submit("ada", graphs(1))
    server.start()
    until(lambda: len(runner.runs) == 2)
    time.sleep(0.05)
    gates[1].set()
    (done,) = ended(server, job)
    assert done.attempts == 1 and right(server, graphs, 1, job) and runner.cancels == []


def test_a_clock_that_jumps_loses_no_job(made: Make, graphs: Any, runner: Watched, clock: Any) -> None:
    """A laptop that slept for an hour: every lease has run out, and its holder is there, if not yet awake in all its parts."""

    class Asleep(Failing):
        def renew(self, jobs: Any, seconds: float) -> Any:
            return jobs if threading.current_thread().name == "_renew" else self.jobs.renew(jobs, seconds)

    server = made(runner, clock=clock, lease=0.1, wrap=Asleep)
    runner.gate.clear()
    job = server.submit("ada", graphs(1))
    server.start()
    until(lambda: runner.runs)
    for jump in (3_600, -7_200, 3_600):
        clock.now += jump
        time.sleep(0.1)
    runner.gate.set()
    (done,) = ended(server, job)
    assert (done.attempts, len(runner.runs)) == (0, 1)


def failing(*errors: Exception) -> Callable[[str], Any]:
    left = list(errors)

    def open(name: str) -> Any:
        if left and name == OTHER:
            raise left.pop(0)
        return cut.open(name)

    return open


def test_a_model_that_cannot_be_opened_fails_its_jobs(made: Make, graphs: Any) -> None:
    runner = Watched(failing(WeightsError("Open it.", "half of a file /secret/path", "the rest")))
    server = made(runner, models=(NAME, OTHER))
    bad, good = server.submit("ada", graphs(1, OTHER)), server.submit("ada", graphs(1))
    future = server.dispatcher.want("ben", OTHER)
    server.start()
    failed, _ = ended(server, bad, good)
    assert failed.state == State.FAILED and failed.problem is not None and right(server, graphs, 1, good)
    assert "secret" not in str(failed.problem)
    with pytest.raises(WeightsError):
        future.result(5)
    assert server.dispatcher.want("ben", OTHER).result(5) is None, "the next time it can"


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (ServiceError("Open it.", "a worker that died"), 2),
        (RuntimeError("out of memory"), 3),
        slowly(StorageError("Read.", "a disk that fails"), 3),
        slowly(ServiceError("Open it.", "a worker that died"), 3),
    ],
)
def test_a_model_that_dies_when_it_is_opened_is_tried_again(made: Make, graphs: Any, error: Exception, times: int) -> None:
    server = made(Watched(failing(*[error] * times)), models=(NAME, OTHER))
    job = server.submit("ada", graphs(1, OTHER))
    server.start()
    (found,) = ended(server, job)
    assert found.attempts == times and ((found.problem or {}).get("found", "").endswith("3 times")) is (times == 3)


@pytest.mark.slow
def test_two_models_in_room_for_one_are_done_with_in_turn(made: Make, graphs: Any, runner: Watched) -> None:
    sizes = made(models=(NAME, OTHER)).catalogue.sizes
    server = made(runner, models=(NAME, OTHER), policy=Policy(memory=max(sizes.values()), stay=0.0))
    most = [0]
    runner.instead = lambda works: most.append(len(runner.inline.loaded()))  # type: ignore[assignment]
    jobs = [server.submit(user, graphs(number)) for number, user in enumerate(["ada", "ben"] * 3)]
    others = [server.submit(user, graphs(number, OTHER)) for number, user in enumerate(["ada", "ben"] * 3)]
    server.start()
    ended(server, *jobs, *others, seconds=20)
    assert all(right(server, graphs, number, job) for number, job in enumerate(jobs))
    assert all(right(server, graphs, number, job, OTHER) for number, job in enumerate(others))
    assert set(runner.loads) == {NAME, OTHER} and max(most) == 1


def test_a_model_with_a_session_stays(made: Make, graphs: Any, runner: Watched) -> None:
    sizes = made(models=(NAME, OTHER)).catalogue.sizes
    server = made(runner, models=(NAME, OTHER), policy=Policy(memory=max(sizes.values()), stay=0.0))
    server.start()
    session = server.sessions.open("ada", OTHER)
    job = server.submit("ben", graphs(1))
    time.sleep(0.15)
    assert list(server.runner.loaded()) == [OTHER] and server.jobs.get(job.id, None).state == State.QUEUED
    server.sessions.close("ada", session)
    ended(server, job, seconds=2)


def test_draining_lets_go_of_what_does_not_end_in_time(made: Make, graphs: Any, runner: Watched) -> None:
    server = made(runner, models=(NAME, OTHER))
    server.dispatcher.want("", NAME)
    server.start()
    until(runner.loaded)
    runner.gate.clear()
    running = server.submit("ada", graphs(1))
    until(lambda: runner.runs)
    waiting, began = server.submit("ben", graphs(2)), time.monotonic()
    assert server.drain(0.1) is False and 0.1 <= time.monotonic() - began < 1
    with pytest.raises(BusyError, match="shut down"):
        server.submit("ada", graphs(3))
    with pytest.raises(BusyError, match="shut down"):
        server.sessions.open("ada", NAME)
    with pytest.raises(BusyError, match="shut down"):
        server.dispatcher.want("ada", OTHER).result(5)
    runner.gate.set()
    server.stop()
    assert [server.jobs.get(job.id, None).state for job in (running, waiting)] == [State.QUEUED, State.QUEUED]
    after = made(alone=False)
    after.start()
    assert [job.attempts for job in ended(after, running, waiting)] == [0, 0]
    assert right(after, graphs, 1, running) and right(after, graphs, 2, waiting)


def test_draining_waits_for_what_ends_in_time(made: Make, graphs: Any, runner: Watched) -> None:
    server = made(runner)
    server.start()
    runner.gate.clear()
    running = server.submit("ada", graphs(1))
    until(lambda: runner.runs)
    threading.Timer(0.1, runner.gate.set).start()
    assert server.drain(5.0) is True
    assert right(server, graphs, 1, running)


def test_a_run_that_hangs_does_not_keep_the_server_from_ending(
    made: Make, graphs: Any, runner: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, let = made(runner), threading.Event()
    monkeypatch.setattr(dispatch, "PATIENCE", 0.2)
    monkeypatch.setattr(core, "PATIENCE", 0.2)
    runner.instead = lambda works: let.wait(20) and None
    job = server.submit("ada", graphs(1))
    server.start()
    until(lambda: runner.runs)
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 1
    assert server.jobs.get(job.id, None).state == State.QUEUED, "for the next server"
    let.set()


@pytest.mark.slow
def test_jobs_of_the_server_before_are_begun_before_they_are_measured(made: Make, graphs: Any, runner: Watched) -> None:
    """An admission that takes its time, and a long queue, keep nobody waiting; in the end what can share a forward does."""
    before = made()
    jobs = [before.submit("ada", graphs(number)) for number in range(20)]
    server = made(runner, models=(NAME, OTHER))
    assert server.catalogue[NAME].known(jobs[0].hash) is None
    server.start()
    with server.catalogue[NAME]._lock:
        ended(server, *jobs[:3])
    ended(server, *jobs)
    assert all(right(server, graphs, number, job) for number, job in enumerate(jobs))
    assert len(runner.runs[0]) == 1 and max(map(len, runner.runs)) > 1


def test_a_model_that_nobody_waits_for_any_more_is_not_opened(made: Make, runner: Watched) -> None:
    server = made(runner, models=(NAME, OTHER))
    gone, wanted = server.dispatcher.want("ada", NAME), server.dispatcher.want("ben", OTHER)
    gone.cancel()
    server.start()
    wanted.result(5)
    assert runner.loads == [OTHER] and not server.dispatcher._wants


def test_a_model_that_is_closed_meanwhile_is_opened_again(made: Make, graphs: Any, runner: Watched) -> None:
    server, turns = made(runner), itertools.count()

    def close_once(works: Mapping[str, Work]) -> None:
        if next(turns) == 0:
            runner.inline.unload(NAME)

    runner.instead = close_once  # type: ignore[assignment]
    job = server.submit("ada", graphs(1))
    server.start()
    (done,) = ended(server, job)
    assert done.attempts == 0 and right(server, graphs, 1, job) and runner.loads == [NAME, NAME]


def test_a_job_of_a_model_that_is_not_offered_waits_and_says_so(made: Make, graphs: Any) -> None:
    job = made(models=(NAME, OTHER)).submit("ada", graphs(1, OTHER))
    server = made()
    server.start()
    good = server.submit("ada", graphs(1))
    ended(server, good)
    standing = server.standing(server.jobs.get(job.id, "ada"))
    assert standing.job.state == State.QUEUED and "does not offer" in standing.warnings[0] and standing.expected is None
    assert server.cancel(job.id, "ada").state == State.CANCELLED


@pytest.mark.slow
def test_nothing_is_kept_of_jobs_that_have_ended(made: Make, graphs: Any) -> None:
    server = made()
    server.start()
    jobs = [server.submit(f"user{number % 3}", graphs(number % 10)) for number in range(40)]
    server.cancel(jobs[-1].id, None)
    ended(server, *jobs)
    until(lambda: not server.dispatcher.busy)
    server.dispatcher.wake()
    time.sleep(0.05)
    inside = server.dispatcher
    assert not (inside._leases.hashes or inside._wants or inside._leases.equal or server._listeners)
