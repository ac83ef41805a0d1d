"""What is leased is renewed, finished once, or given back. How a server uses it is seen in test_dispatch.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cutaway.remote.work import Work
from cutaway.service import leases as module
from cutaway.service.jobs import Job, State
from cutaway.service.leases import Leases
from cutaway.service.outcomes import Outcome
from cutaway.service.quota import Balances, Quota
from cutaway.service.results import Results
from cutaway.service.table import Table
from cutaway.service.telemetry import Telemetry

Make = Callable[..., Work]


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
def leases(table: Table, tmp_path: Path, heard: list[str], monkeypatch: pytest.MonkeyPatch) -> Leases:
    monkeypatch.setattr(module, "PAUSE", 0.01)
    return Leases(table, Results(tmp_path / "results"), Balances(Quota()), Telemetry(), heard.append, 10.0)


@pytest.fixture
def job(leases: Leases, table: Table, work: Make) -> Job:
    (leased,) = leases.take([table.accept("ada", work()).id], State.RUNNING)
    return leased


def test_a_result_is_kept_before_its_job_is_done(leases: Leases, table: Table, job: Job, heard: list[str]) -> None:
    assert leases.hashes == {job.hash}
    leases.note(job.id, "progress", {"done": 1, "total": 2})
    leases.finish((job, Outcome(b"bytes", seconds=2.0)))
    done = table.get(job.id, "ada")
    assert done.state == State.DONE and done.seconds == 2.0 and leases.hashes == set()
    assert heard == [job.id] * 3 and [e.type for e in table.events(job.id, "ada")].count("progress") == 1
    leases.finish((job, Outcome(b"others")))
    assert table.get(job.id, "ada").result == done.result


def test_those_that_waited_for_an_equal_job_are_done_with_it(leases: Leases, table: Table, job: Job, work: Make) -> None:
    other = table.accept("bob", work())
    leases.equal = {job.hash}
    leases.finish((job, Outcome(b"bytes")))
    assert table.get(other.id, "bob").state == State.DONE and table.get(other.id, "bob").cached


def test_what_is_given_back_waits_again(leases: Leases, table: Table, job: Job) -> None:
    leases.give_back([job])
    assert table.get(job.id, "ada").state == State.QUEUED and leases.hashes == set() and leases.give_up() == []


def test_a_cancelled_job_is_told_of_when_leases_are_renewed(leases: Leases, table: Table, job: Job, clock: Any) -> None:
    clock.now += 8
    assert leases.renew() == []
    clock.now += 8
    assert table.expire() == []
    table.cancel(job.id, "ada")
    assert [one.id for one in leases.renew()] == [job.id] and leases.renew() == []


def test_no_room_for_a_result_is_waited_for(leases: Leases, table: Table, job: Job, tmp_path: Path, heard: list[str]) -> None:
    folder = tmp_path / "results"
    folder.rmdir()
    folder.write_text("in the way")

    def cleared(event: float) -> bool:
        folder.unlink(missing_ok=True)
        return False

    leases.ended.wait = cleared  # type: ignore[method-assign, assignment]  # the moment between two tries
    leases.finish((job, Outcome(b"bytes")))
    assert table.get(job.id, "ada").state == State.DONE


def test_after_the_end_nothing_is_waited_for(leases: Leases, table: Table, job: Job, tmp_path: Path) -> None:
    (tmp_path / "results").rmdir()
    (tmp_path / "results").write_text("in the way")
    leases.ended.set()
    leases.finish((job, Outcome(b"bytes")))
    assert table.get(job.id, "ada").state == State.RUNNING and leases.hashes == set()
