"""What a server says of jobs and models, and whom it tells."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cutaway import registry
from cutaway.errors import BusyError, ConflictError, GraphError, StorageError, UnknownNameError
from cutaway.remote.work import Work
from cutaway.service import dispatch
from cutaway.service import server as core
from cutaway.service.jobs import FINAL, Ending, State
from cutaway.service.quota import Quota
from cutaway.service.runners.inline import Inline
from cutaway.service.scheduler import Policy
from cutaway.service.server import Server, methods

NAME, OTHER = "induction_lm", "compiled.reverse"
Make = Callable[..., Server]


def ended(server: Server, id: str) -> Any:
    until = time.monotonic() + 10
    while (job := server.jobs.get(id, None)).state not in FINAL:
        assert time.monotonic() < until
        time.sleep(0.005)
    return server.standing(job)


def test_a_job_stands_where_it_waits(made: Make, graphs: Any) -> None:
    server = made()
    jobs = [server.submit(user, graphs(number)) for number, user in enumerate(["ada", "ben", "ada"])]
    assert [server.standing(job).position for job in jobs] == [1, 2, 3]
    assert server.standing(jobs[2]).expected is None, "nothing has run yet"
    server.dispatcher._recent[NAME].extend([1.0, 3.0])
    assert server.standing(jobs[2]).expected == 6.0
    (first, other) = server.models()[0], server.models()
    assert (first.name, first.state, first.queued, first.running, first.expected, len(other)) == (NAME, "closed", 3, 0, 6.0, 1)
    server.start()
    done = ended(server, jobs[2].id)
    assert (done.position, done.expected, done.job.state) == (0, None, State.DONE)
    assert done.size == len(server.results.get(done.job.result or ""))
    assert server.models()[0].state == "open" and server.models()[0].bytes == server.runner.loaded()[NAME]


def test_the_same_key_is_the_same_job(made: Make, graphs: Any) -> None:
    server = made()
    job = server.submit("ada", graphs(1), "k")
    assert server.submit("ada", graphs(1), "k") == job and server.submit("ben", graphs(1), "k") != job
    with pytest.raises(ConflictError):
        server.submit("ada", graphs(2), "k")
    server.start()
    ended(server, job.id)
    assert server.submit("ada", graphs(1), "k").id == job.id
    assert server.submit("ada", graphs(1)).cached


def test_what_cannot_be_run_is_not_taken_on(made: Make, graphs: Any) -> None:
    server = made(quota=Quota(queued=2))
    for wrong, error in (
        (Work("graph", NAME, graph=b"x", inputs=b"x"), GraphError),
        (graphs(1, OTHER), UnknownNameError),
        (Work("method", NAME, method="read.no_such", task="induction:n=1"), UnknownNameError),
        (Work("method", NAME, method="read.logit_lens", task="induction:n=1", arguments={"no_such": 1}), UnknownNameError),
    ):
        with pytest.raises(error):
            server.submit("ada", wrong)
    assert sum(server.jobs.counts().values()) == 0
    for number in (1, 2):
        server.submit("ada", graphs(number))
    with pytest.raises(BusyError) as busy:
        server.submit("ada", graphs(3))
    assert busy.value.retry_after > 0 and server.submit("ben", graphs(3)).state == State.QUEUED


def test_a_result_that_is_gone_is_expired(made: Make, graphs: Any) -> None:
    server = made()
    server.start()
    job = ended(server, server.submit("ada", graphs(1)).id).job
    path = server.result(job)
    assert path is not None and graphs.right(1, path.read_bytes())
    path.write_bytes(path.read_bytes()[:-1])
    assert server.result(job) is None and server.jobs.get(job.id, None).state == State.EXPIRED
    again = server.submit("ada", graphs(1))
    assert again.state == State.QUEUED and ended(server, again.id).size is not None
    assert server.result(server.jobs.get(job.id, None)) is None, "an expired job has none, whatever others have"


def test_a_cancelled_job_is_its_users(made: Make, graphs: Any) -> None:
    server = made()
    job = server.submit("ada", graphs(1))
    with pytest.raises(UnknownNameError):
        server.cancel(job.id, "ben")
    assert [server.cancel(job.id, "ada").state for _ in range(2)] == [State.CANCELLED] * 2


def test_whoever_listens_hears_it(made: Make, graphs: Any) -> None:
    server, heard = made(), list[str]()
    job = server.submit("ada", graphs(1))

    def gone() -> None:  # as a loop that was closed while its server ended
        loop = asyncio.new_event_loop()
        loop.close()
        loop.call_soon_threadsafe(print)

    with server.listening(job.id, "ada", gone), server.listening(job.id, "ben", lambda: heard.append("ben")):
        server.start()
        ended(server, job.id)
        server.dispatcher.cancel(job.id)
    assert len(heard) >= 2 and not server._listeners and set(server._waited.values()) == {0}


def test_only_so_many_listen(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "LISTENERS", 1)
    server = made()
    with server.listening("a", "ada", print):
        with pytest.raises(BusyError, match="1 requests"), server.listening("b", "ada", print):
            pass
        with server.listening("b", "ben", print):
            pass
    with server.listening("b", "ada", print):
        pass


def test_the_work_of_a_server_that_died_is_taken_up(made: Make, graphs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its leases end at once where it was alone, and run out where it was not; who loaded has lost nothing."""
    monkeypatch.setattr(dispatch, "PAUSE", 0.02)
    dead = made()
    jobs = [dead.submit("ada", graphs(number)) for number in (1, 2)]
    (running,) = dead.jobs.lease("dead", 0.3, [jobs[0].id], State.RUNNING)
    dead.jobs.lease("dead", 0.3, [jobs[1].id], State.LOADING)
    other = made(alone=False)
    other.start()
    assert [ended(other, job.id).job.attempts for job in jobs] == [1, 0]
    assert not dead.jobs.finish(Ending(running, result="0" * 64)), "it comes back, and its lease is another's"
    third = made().submit("ada", graphs(3))
    (lease,) = other.jobs.lease("dead", 10**6, [third.id])
    assert lease.id == third.id
    alone = made()
    alone.start()
    assert ended(alone, third.id).job.attempts == 1


@pytest.mark.slow
def test_servers_share_a_table(made: Make, graphs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes jobs of both, and none is run twice."""
    monkeypatch.setattr(dispatch, "PAUSE", 0.02)
    servers, runs = [made(alone=False, policy=Policy(pack=2)) for _ in range(2)], list[tuple[int, str]]()

    def counted(number: int, run: Any) -> Any:
        def counting(works: Any, *rest: Any) -> Any:
            runs.extend((number, id) for id in works)
            return run(works, *rest)

        return counting

    for number, server in enumerate(servers):
        server.runner.run = counted(number, server.runner.run)  # type: ignore[method-assign]
    jobs = [servers[number % 2].submit(f"user{number % 3}", graphs(number)) for number in range(30)]
    for server in servers:
        server.start()
    for number, job in enumerate(jobs):
        found = ended(servers[0], job.id).job
        assert found.attempts == 0 and graphs.right(number, servers[0].results.get(found.result or ""))
    assert sorted(id for _, id in runs) == sorted(job.id for job in jobs)
    assert {number for number, _ in runs} == {0, 1}


@pytest.mark.slow
def test_a_server_whose_table_another_holds_does_not_start(made: Make, graphs: Any, tmp_path: Path) -> None:
    server = made()
    job = server.submit("ada", graphs(1))
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="another process"):
            server.start()
    server.start()
    assert ended(server, job.id).job.attempts == 0


def test_a_server_that_has_ended_has_let_go_of_everything(made: Make, graphs: Any) -> None:
    runner = Inline()
    server = made(runner, policy=Policy(pinned=(NAME,)))
    server.start()
    ended(server, server.submit("ada", graphs(1)).id)
    assert server.models()[0].pinned and runner.loaded()
    server.stop()
    assert not runner.loaded() and server.draining
    with pytest.raises(BusyError):
        server.submit("ada", graphs(2))
    server.stop()


def test_every_method_is_told_of() -> None:
    told = {method["name"]: method for method in methods()}
    assert told.keys() == set(registry.names("methods"))
    for name, method in told.items():
        assert method["summary"] and method["returns"] and method["arguments"]["type"] == "object"
        options = set(inspect.signature(registry.load("methods", name)).parameters)
        assert set(method["arguments"]["properties"]) <= options
