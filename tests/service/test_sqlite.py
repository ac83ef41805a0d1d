"""The file stays whole whatever dies, whoever else has it open, and when the disk is full."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cutaway.errors import StorageError
from cutaway.remote.work import Work
from cutaway.service import sqlite as sqlite_module
from cutaway.service.database import MIGRATIONS
from cutaway.service.jobs import NEXT, Ending, State
from cutaway.service.results import Results
from cutaway.service.sqlite import Sqlite
from cutaway.service.table import Rules, Table

PRELUDE = """
import json, os, random, resource, signal, sys, time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from cutaway.errors import StorageError
from cutaway.service.jobs import Ending
from cutaway.service.results import Results
from cutaway.service.sqlite import Sqlite
from cutaway.service.table import Rules, Table

assert "torch" not in sys.modules, "the table is there without it"
folder, amount = Path(sys.argv[1]), int(sys.argv[2])
log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

def said(*what):
    os.write(log, (json.dumps(what) + "\\n").encode())

def work(name):
    return SimpleNamespace(kind="method", model="m", method="x", hash=name, body=name, to_bytes=lambda: name.encode() * 300)

def table(flush=False, wrap=lambda database: database):
    return Table(wrap(Sqlite(folder / "jobs.sqlite", flush=flush)), Rules(attempts=10**9))

def forked(live, *arguments):
    if (child := os.fork()) == 0:
        try:
            live(*arguments)
        finally:
            os._exit(7)
    return child
"""

STEP_BY_STEP = """
class Dying:
    def __init__(self, database):
        self.database, self.left = database, sys.maxsize

    @contextmanager
    def change(self, asked, *, flush=True):
        with self.database.change(asked, flush=flush) as sql:
            yield lambda *statement: self.step() or sql(*statement)
            self.step()
        self.step()

    read = lambda self, asked: self.database.read(asked)

    def step(self):
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

def live(turn):
    dying = []
    jobs, results = table(wrap=lambda database: dying.append(Dying(database)) or dying[0]), Results(folder / "results", flush=False)
    jobs.expire()
    dying[0].left = turn
    key = f"k{turn}"
    job = jobs.accept("ada", work(key), key)
    said("accepted", job.id, key)
    (job,) = jobs.lease(f"w{turn}", 0.0, [job.id], "loading")
    jobs.start(job)
    jobs.record(job, "progress", {"done": 1})
    jobs.renew([job], 0.0)
    if jobs.finish(Ending(job, *results.put(job.hash.encode() * 1000))):
        said("done", job.id)
    jobs.expire()
    said("survived", turn)

turn, survived = 0, False
while not survived:
    status = os.waitpid(forked(live, turn), 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 7
    survived = not os.WIFSIGNALED(status)
    turn += 1
"""

AT_ANY_TIME = """
def live(turn):
    jobs, results = table(), Results(folder / "results", flush=False)
    said("ready", turn)
    for count in range(10**6):
        key = f"k{turn}-{count}"
        job = jobs.accept("ada", work(key), key)
        said("accepted", job.id, key)
        for job in jobs.lease(f"w{turn}", 0.02, [job.id for job in jobs.queued(3)][count % 2:]):
            jobs.record(job, "progress", {"done": 1})
            if jobs.finish(Ending(job, *results.put(job.hash.encode() * 1000))):
                said("done", job.id)
        jobs.expire()

chance = random.Random(5)
for turn in range(amount):
    children = [forked(live, 2 * turn + i) for i in (0, 1)]
    time.sleep(0.08 + 0.12 * chance.random())
    for child in children:
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
"""

AT_ONCE = """
def live(turn):
    while time.time() < begin:
        pass
    jobs = table()
    for count in range(amount):
        said("accepted", jobs.accept("ada", work(f"k{turn}-{count}")).id, None)
    while queued := jobs.queued(5):
        for job in jobs.lease(f"w{turn}", 60, [job.id for job in queued]):
            said("leased", job.id)
    os._exit(0)

begin = time.time() + 0.1
for child in [forked(live, turn) for turn in range(4)]:
    assert os.waitpid(child, 0)[1] == 0
"""

FULL_DISK = """
jobs = table()
resource.setrlimit(resource.RLIMIT_FSIZE, (amount, resource.RLIM_INFINITY))
try:
    for count in range(10**4):
        said("accepted", jobs.accept("ada", work(f"k{count}")).id, None)
        (job,) = jobs.lease("w", 60, [job.id for job in jobs.queued(1)])
except StorageError as error:
    said("full", error.found)
said("there", len(jobs.find("ada", limit=10**4)))
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
found = len(jobs.find("ada", limit=10**4))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
said("read", found)
said("accepted", jobs.accept("ada", work("after")).id, None)
"""


def played(script: str, folder: Path, amount: int = 0) -> list[list[Any]]:
    """What a script of its own process said, line by line."""
    done = subprocess.run([sys.executable, "-c", PRELUDE + script, str(folder), str(amount)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (folder / "log").read_text().splitlines()]


def whole(folder: Path, said: list[list[Any]]) -> Table:
    """Assert that all that was promised is there, and that nothing is there in part; then finish what is left, and assert that all is done once."""
    with sqlite3.connect(folder / "jobs.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT COUNT(*) FROM events WHERE job NOT IN (SELECT number FROM jobs)").fetchone() == (0,)
    connection.close()
    table, results = Table(Sqlite(folder / "jobs.sqlite", flush=False), Rules(attempts=10**9)), Results(folder / "results", flush=False)
    jobs = {job.id: job for job in table.find(None, limit=10**6)}
    assert {line[1] for line in said if line[0] == "accepted"} <= jobs.keys()
    assert all(jobs[line[1]].state == State.DONE for line in said if line[0] == "done")
    table.expire()
    while leased := table.lease("last", 60, [job.id for job in table.queued(500)]):
        for job in leased:
            assert table.finish(Ending(job, *results.put(job.hash.encode() * 1000)))
    for job in table.find(None, limit=10**6):
        events = table.events(job.id, None)
        states = [State(event.data["state"]) for event in events if event.type == "state"]
        assert (job.state, states[0], states[-1], states.count(State.DONE)) == ("done", "received", "done", 1)
        assert all(after in NEXT[before] for before, after in pairwise(states))
        assert job.result is not None and results.get(job.result) == job.hash.encode() * 1000
    return table


def test_death_at_every_step_loses_nothing(tmp_path: Path) -> None:
    """SIGKILL before each statement of a job's life in turn, before each commit and after it."""
    said = played(STEP_BY_STEP, tmp_path)
    (turns,) = [line[1] for line in said if line[0] == "survived"]
    assert turns > 50
    kinds = Counter(line[0] for line in said)
    assert 1 < kinds["done"] < kinds["accepted"] < turns, "it has died in every part of the way"
    whole(tmp_path, said)


@pytest.mark.slow
def test_death_at_any_time_loses_nothing(tmp_path: Path) -> None:
    """Two processes on one table at full speed, both killed, fifty times."""
    said = played(AT_ANY_TIME, tmp_path, 50)
    accepted = [line for line in said if line[0] == "accepted"]
    assert len(accepted) > 200
    table = whole(tmp_path, said)
    assert len({line[1] for line in accepted}) == len(accepted)
    assert sum(table.counts().values()) - len(accepted) <= 100, "at most the one that each was about to tell of"


def test_processes_that_come_at_once_share_the_jobs(tmp_path: Path) -> None:
    """They make the file at once, too."""
    said = played(AT_ONCE, tmp_path, 25)
    accepted, leased = ([line[1] for line in said if line[0] == kind] for kind in ("accepted", "leased"))
    assert len(accepted) == len(leased) == 100
    assert set(accepted) == set(leased)


def test_full_disk_is_said_and_harms_nothing(tmp_path: Path) -> None:
    """The limit on the size of files stands for a disk without room."""
    said = played(FULL_DISK, tmp_path, 260_000)
    ((_, found),) = [line for line in said if line[0] == "full"]
    assert "full" in found
    accepted = [line for line in said if line[0] == "accepted"]
    assert [line[1] for line in said if line[0] == "there"] == [len(accepted) - 1]
    assert [line[1] for line in said if line[0] == "read"] == [len(accepted) - 1], "who only reads needs no room"
    assert len(accepted) > 3
    with sqlite3.connect(tmp_path / "jobs.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT COUNT(*) FROM jobs").fetchone() == (len(accepted),)
    connection.close()


def test_a_table_held_by_another_is_said_to_be(tmp_path: Path, work: Callable[..., Work]) -> None:
    database = Sqlite(tmp_path / "jobs.sqlite", patience=0.05)
    table = Table(database)
    job = table.accept("ada", work())
    holder = sqlite3.connect(database.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match=r"(?s)Accept a job.*another process.*try again"):
        table.accept("ada", work(1))
    assert table.get(job.id, "ada") == job, "who only reads does not wait"
    holder.execute("ROLLBACK")
    holder.close()
    assert table.accept("ada", work(1)).id in {found.id for found in table.find("ada")}
    assert len(table.find("ada")) == 2
    database.close()


def test_a_thread_that_holds_it_is_waited_for(tmp_path: Path) -> None:
    database = Sqlite(tmp_path / "jobs.sqlite", patience=0.05)
    held, let = threading.Event(), threading.Event()

    def hold() -> None:
        with database.change("Hold."):
            held.set()
            let.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(5)
    with pytest.raises(StorageError, match="held by others"), database.change("Wait."):
        pass
    let.set()
    thread.join()
    with database.change("Wait."):
        pass
    database.close()


def test_threads_share_one_table(sqlite: Sqlite, work: Callable[..., Work]) -> None:
    table = Table(sqlite)
    ids: list[str] = []

    def send(user: str) -> None:
        for seed in range(20):
            job = table.accept(user, work(seed))
            assert table.get(job.id, user) == job
            ids.append(job.id)

    threads = [threading.Thread(target=send, args=(f"user{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 120
    assert sum(table.counts().values()) == 120


def test_a_change_that_raises_has_not_been(sqlite: Sqlite, work: Callable[..., Work]) -> None:
    table = Table(sqlite)
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), sqlite.change("Try.") as sql:
            sql("INSERT INTO events (job, number, time, type, data) VALUES (1, 1, 0, 'log', '{}')")
            raise error
    with sqlite.read("Look.") as sql:
        assert sql("SELECT COUNT(*) FROM events").fetchone() == (0,)
    assert table.accept("ada", work()).state == State.QUEUED


def test_what_is_to_last_waits_for_the_disk(tmp_path: Path) -> None:
    for flush, expected in ((True, [2, 1]), (False, [1, 1])):
        database = Sqlite(tmp_path / f"{flush}.sqlite", flush=flush)
        found = []
        for asked in (True, False):
            with database.change("Look.", flush=asked) as sql:
                found.append(sql("PRAGMA synchronous").fetchone()[0])
                assert sql("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert found == expected
        database.close()


def test_nobody_else_may_read(sqlite: Sqlite, work: Callable[..., Work]) -> None:
    Table(sqlite).accept("ada", work())
    files = sorted(sqlite.path.parent.iterdir())
    assert [path.name for path in files] == ["service.sqlite", "service.sqlite-shm", "service.sqlite-wal"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_an_older_file_is_brought_up_to_date(tmp_path: Path, work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "jobs.sqlite"
    job = Table(Sqlite(path)).accept("ada", work())
    broken = (*MIGRATIONS, ("ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 3", "no SQL"))
    monkeypatch.setattr(sqlite_module, "MIGRATIONS", broken)
    with pytest.raises(StorageError):
        Sqlite(path)
    monkeypatch.setattr(sqlite_module, "MIGRATIONS", (*MIGRATIONS, broken[-1][:1]))
    for _ in range(2):
        database = Sqlite(path)
        with database.read("Look.") as sql:
            assert sql("SELECT id, priority FROM jobs").fetchall() == [(job.id, 3)]
    assert Table(database).get(job.id, "ada") == job
    monkeypatch.undo()
    with pytest.raises(StorageError, match="newer Cutaway"):
        Sqlite(path)


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE jobs (x)")
    connection.close()
    with pytest.raises(StorageError, match="something else"):
        Sqlite(foreign)
    (tmp_path / "text").write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageError, match="no SQLite database"):
        Sqlite(tmp_path / "text")
    assert (tmp_path / "text").read_bytes() == b"no database at all" * 100
    with pytest.raises(StorageError):
        Sqlite(tmp_path / "text" / "jobs.sqlite")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError):
        Sqlite(tmp_path / "folder")


def test_damage_is_said(tmp_path: Path, work: Callable[..., Work]) -> None:
    database = Sqlite(tmp_path / "jobs.sqlite")
    table = Table(database)
    for seed in range(50):
        table.accept("ada", work(seed))
    database.close()
    content = bytearray(database.path.read_bytes())
    content[4096:] = b"\x55" * (len(content) - 4096)
    database.path.write_bytes(bytes(content))
    with pytest.raises(StorageError, match="damaged"):
        table.find("ada")
