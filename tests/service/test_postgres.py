"""PostgreSQL gives the table what SQLite gives it, to several machines. What the table itself promises, test_table.py asks of both."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest

from cutaway.errors import StorageError
from cutaway.remote.work import Work
from cutaway.service import postgres as postgres_module
from cutaway.service.database import MIGRATIONS
from cutaway.service.jobs import State
from cutaway.service.postgres import Postgres
from cutaway.service.table import Table

pytestmark = pytest.mark.slow


@pytest.fixture
def address(new_postgres: Callable[[], str]) -> str:
    return new_postgres()


def test_machines_that_come_at_once_share_the_jobs(address: str, work: Callable[..., Work]) -> None:
    """They make the tables at once, too."""
    accepted: list[str] = []
    leased: list[str] = []

    def live(machine: int) -> None:
        database = Postgres(address, flush=False)
        table = Table(database)
        accepted.extend(table.accept("ada", work(100 * machine + count)).id for count in range(25))
        while queued := table.queued(5):
            leased.extend(job.id for job in table.lease(f"w{machine}", 60, [job.id for job in queued]))
        database.close()

    threads = [threading.Thread(target=live, args=(machine,)) for machine in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(accepted) == len(leased) == 100
    assert set(accepted) == set(leased)


def test_tables_held_by_another_are_said_to_be(address: str, work: Callable[..., Work]) -> None:
    database, holder = Postgres(address, patience=0.1), Postgres(address)
    table = Table(database)
    job = table.accept("ada", work())
    with holder.change("Hold."):
        with pytest.raises(StorageError, match=r"(?s)Accept a job.*others that held.*try again"):
            table.accept("ada", work(1))
        assert table.get(job.id, "ada") == job, "who only reads does not wait"
    table.accept("ada", work(1))
    assert len(table.find("ada")) == 2
    database.close()
    holder.close()


def test_a_server_that_hangs_up_has_changed_nothing(address: str, work: Callable[..., Work]) -> None:
    database = Postgres(address)
    table = Table(database)
    job = table.accept("ada", work())
    with pytest.raises(StorageError), database.change("Cancel all.") as sql:
        sql("UPDATE jobs SET state = 'cancelled'")
        (number,) = sql("SELECT pg_backend_pid()").fetchone()
        with psycopg.connect(address) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (number,))
        sql("DELETE FROM events")
    assert table.get(job.id, "ada").state == State.QUEUED
    assert len(table.events(job.id, "ada")) == 2
    database.close()


def test_what_is_to_last_waits_for_the_disk(address: str) -> None:
    for flush, expected in ((True, ["on", "off"]), (False, ["off", "off"])):
        database = Postgres(address, flush=flush)
        found = []
        for asked in (True, False):
            with database.change("Look.", flush=asked) as sql:
                found.append(sql("SHOW synchronous_commit").fetchone()[0])
        assert found == expected
        database.close()


def test_reading_sees_one_state_and_changes_nothing(address: str, work: Callable[..., Work]) -> None:
    database = Postgres(address)
    table = Table(database)
    with database.read("Look.") as sql:
        before = sql("SELECT COUNT(*) FROM jobs").fetchone()
        table.accept("ada", work())
        assert sql("SELECT COUNT(*) FROM jobs").fetchone() == before
    with pytest.raises(StorageError), database.read("Look.") as sql:
        sql("DELETE FROM jobs")
    assert len(table.find("ada")) == 1
    database.close()


def test_older_tables_are_brought_up_to_date(address: str, work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch) -> None:
    first = Postgres(address)
    job = Table(first).accept("ada", work())
    broken = (*MIGRATIONS, ("ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 3", "no SQL"))
    monkeypatch.setattr(postgres_module, "MIGRATIONS", broken)
    with pytest.raises(StorageError):
        Postgres(address)
    monkeypatch.setattr(postgres_module, "MIGRATIONS", (*MIGRATIONS, broken[-1][:1]))
    second = Postgres(address)
    with second.read("Look.") as sql:
        assert sql("SELECT id, priority FROM jobs").fetchall() == [(job.id, 3)]
    monkeypatch.undo()
    with pytest.raises(StorageError, match="newer Cutaway"):
        Postgres(address)
    first.close()
    second.close()


def test_a_password_is_in_no_error() -> None:
    with pytest.raises(StorageError) as caught:
        Postgres("postgresql://ada:s3cret@localhost:1/none", patience=0.1)
    assert "s3cret" not in f"{caught.value} {caught.value.__cause__}"


def test_tables_of_something_else_are_left_alone(address: str) -> None:
    with psycopg.connect(address) as connection:
        connection.execute("CREATE TABLE jobs (x INTEGER)")
    with pytest.raises(StorageError):
        Postgres(address)
    with psycopg.connect(address) as connection:
        assert connection.execute("SELECT COUNT(*) FROM jobs").fetchone() == (0,)
