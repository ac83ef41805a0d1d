"""Every disaster, rehearsed on `cutaway serve` itself: whatever dies, fills up or goes away, each job that was accepted is done once, and rightly."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cutaway.errors import CutawayError
from cutaway.remote.connection import Connection
from cutaway.remote.work import Work
from cutaway.service.jobs import FINAL, NEXT, Job, State
from cutaway.service.results import Results
from cutaway.service.sqlite import Sqlite
from cutaway.service.table import Table

pytestmark = pytest.mark.slow
NAME = "induction_lm"
WORK = {"Content-Type": "application/vnd.cutaway.work"}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
FORKED = """
import json, os, sys
import cutaway as cut
import cutaway.service.serving, cutaway.cli.serve
cut.open("induction_lm")
for line in sys.stdin:
    told = json.loads(line)
    if "poll" in told:
        pid, status = os.waitpid(told["poll"], os.WNOHANG)
        print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
    elif (child := os.fork()) == 0:
        for number, name in ((0, os.devnull), (1, told["out"]), (2, told["log"])):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
        cutaway.cli.serve.serve.main(told["command"])
    else:
        print(child, flush=True)
"""


class Forks:
    """A process in which all is imported that a server needs: those that it starts are there in a blink."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        )

    def ask(self, **told: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(told)}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, folder: Path, *options: str) -> Forked:
        command = [NAME, "--folder", str(folder), *options]
        return Forked(self, self.ask(command=command, out=str(folder / "out"), log=str(folder / "log")))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Forked:
    """As subprocess.Popen: a server of `Forks`."""

    def __init__(self, forks: Forks, pid: int) -> None:
        self._forks, self.pid, self._status = forks, pid, None

    def poll(self) -> int | None:
        if self._status is None:
            self._status = self._forks.ask(poll=self.pid)
        return self._status

    def wait(self, seconds: float = 30.0) -> int:
        end = time.monotonic() + seconds
        while (status := self.poll()) is None:
            assert time.monotonic() < end, "it does not end"
            time.sleep(0.01)
        return status

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    started = Forks()
    yield started
    started.close()


def slow(lm: Any, run: Any) -> None:
    """About two seconds, in steps of a twentieth."""
    lm.layers[0].output = lm.layers[0].output * 2
    h = lm.layers[0].output[0, :1, :1].expand(800, 800) * 1e-3
    for _ in range(80):
        h = (h @ h).tanh()
    run.save(logits=lm.logits[0, -1], h=h.sum())


def endless(lm: Any, run: Any) -> None:
    """Half a minute, in steps of half a second."""
    h = lm.layers[0].output[0, :1, :1].expand(2000, 2000) * 1e-3
    for _ in range(60):
        h = (h @ h).tanh()
    run.save(h=h.sum())


class Served:
    """`cutaway serve` on a folder, once it answers."""

    def __init__(self, process: Any, folder: Path) -> None:
        self.process, end = process, time.monotonic() + 30
        while not (said := (folder / "out").read_text() if (folder / "out").exists() else "").count("\n"):
            assert time.monotonic() < end and process.poll() is None, (folder / "log").read_text()
            time.sleep(0.01)
        self.http = httpx2.Client(base_url=said.split("\n")[0].split()[-1], timeout=60, trust_env=False)

    def submit(self, work: Work, key: str = "", wait: float = 0) -> httpx2.Response:
        return self.http.post(f"/v1/jobs?wait={wait}", content=work.to_bytes(), headers=WORK | ({"Idempotency-Key": key} if key else {}))

    def job(self, id: str, wait: float = 0) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/v1/jobs/{id}?wait={wait}").json()
        return found

    def until(self, id: str, state: str) -> None:
        end = time.monotonic() + 20
        while (found := self.job(id))["state"] != state:
            assert time.monotonic() < end and found["state"] not in FINAL, found
            time.sleep(0.01)

    def workers(self) -> list[int]:
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        children = [int(pid) for task in listed.parents[1].iterdir() for pid in (task / "children").read_text().split()]
        return [pid for pid in children if b"_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def sockets(self) -> int:
        return sum("socket:" in os.readlink(path) for path in self._descriptors())

    def _descriptors(self) -> Iterator[Path]:
        for path in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                os.readlink(path)
                yield path

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self, seconds: float = 30.0) -> int:
        """Its exit status, after SIGTERM."""
        self.process.terminate()
        return self.process.wait(seconds)


@pytest.fixture
def serve(tmp_path: Path, forks: Forks) -> Iterator[Callable[..., Served]]:
    """`serve(...)`: a server on the folder of this test. forked: whether it begins with all imported."""
    all: list[Served] = []

    def start(*options: str, forked: bool = True) -> Served:
        (tmp_path / "out").unlink(missing_ok=True)
        options = ("--port", "0", *options)
        if forked:
            process: Any = forks.start(tmp_path, *options)
        else:
            command = [str(Path(sys.executable).parent / "cutaway"), "serve", NAME, "--folder", str(tmp_path), *options]
            with (tmp_path / "out").open("w") as out, (tmp_path / "log").open("w") as log:
                process = subprocess.Popen(command, stdout=out, stderr=log, env=ENVIRONMENT)
        all.append(Served(process, tmp_path))
        return all[-1]

    yield start
    for served in all:
        served.http.close()
        served.kill()


def checked(folder: Path, graphs: Any, expected: dict[str, int]) -> dict[str, Job]:
    """The jobs of a table that nobody uses: id -> number of its work. Each is done, once, with the right numbers; there are no others."""
    database = Sqlite(folder / "jobs.sqlite", flush=False)
    table, results = Table(database), Results(folder / "results", flush=False)
    jobs = {job.id: job for job in table.find(None, limit=10**6)}
    assert expected.keys() == jobs.keys()
    for id, number in expected.items():
        states = [State(event.data["state"]) for event in table.events(id, None) if event.type == "state"]
        assert (jobs[id].state, states.count(State.DONE)) == (State.DONE, 1), (jobs[id], states)
        assert all(after in NEXT[before] for before, after in pairwise(states))
        assert graphs.right(number, results.get(jobs[id].result or ""))
    with database.read("Look.") as sql:
        assert sql("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    return jobs


@pytest.mark.parametrize("runner", [(), ("--process",)], ids=["inline", "process"])
def test_a_server_that_is_killed_in_the_middle_of_a_job(
    serve: Callable[..., Served], graphs: Any, tmp_path: Path, runner: tuple[str, ...]
) -> None:
    """And again while it recovers. Jobs that ran, that waited, and one that was accepted a moment before."""
    first = serve(*runner)
    running = first.submit(graphs(1, body=slow)).json()["id"]
    first.until(running, "running")
    waiting = {first.submit(graphs(number)).json()["id"]: number for number in range(2, 8)}
    last = first.submit(graphs(8)).json()["id"]
    first.kill()
    expected = {running: 1, last: 8} | waiting
    second = serve(*runner)
    time.sleep(0.3)
    second.kill()
    third = serve(*runner)
    ended = [third.job(id, wait=30)["state"] for id in expected]
    assert ended == ["done"] * 8
    assert third.submit(graphs(1, body=slow)).json()["cached"]
    again = third.submit(graphs(1, body=slow)).json()["id"]
    assert third.end() == 0
    expected |= {id: 1 for id in _others(tmp_path, expected)}
    assert again in expected
    jobs = checked(tmp_path, graphs, expected)
    assert 1 <= jobs[running].attempts <= 2 and jobs[last].attempts <= 1


def _others(folder: Path, known: dict[str, int]) -> list[str]:
    with contextlib.closing(sqlite3.connect(folder / "jobs.sqlite")) as connection:
        return [id for (id,) in connection.execute("SELECT id FROM jobs") if id not in known]


def test_a_worker_that_is_killed_in_the_middle_of_a_forward(serve: Callable[..., Served], graphs: Any, tmp_path: Path) -> None:
    served = serve("--process")
    running = served.submit(graphs(1, body=slow)).json()["id"]
    served.until(running, "running")
    expected = {running: 1} | {served.submit(graphs(number)).json()["id"]: number for number in range(2, 8)}
    (worker,) = served.workers()
    time.sleep(0.5)
    os.kill(worker, signal.SIGKILL)
    assert [served.job(id, wait=30)["state"] for id in expected] == ["done"] * 7
    assert served.workers() not in ([], [worker])
    assert served.end() == 0
    jobs = checked(tmp_path, graphs, expected)
    assert {id: job.attempts for id, job in jobs.items()} == dict.fromkeys(expected, 0) | {running: 1}


def test_clients_that_go_away(serve: Callable[..., Served], graphs: Any, tmp_path: Path) -> None:
    """In the middle of waiting, of following events, and of sending."""
    served = serve()
    served.submit(graphs(0), wait=20)
    before, expected = served.sockets(), {}
    host, port = served.http.base_url.host, served.http.base_url.port
    body = graphs(1, body=slow).to_bytes()
    lines = ("POST /v1/jobs?wait=60 HTTP/1.1", f"Host: {host}:{port}", *map(": ".join, WORK.items()), f"Content-Length: {len(body)}")
    head = "\r\n".join([*lines, "", ""]).encode()
    gone = [socket.create_connection((host, port)) for _ in range(30)]
    for one in gone[:10]:
        one.sendall(head + body)
    while len(listed := served.http.get("/v1/jobs").json()["jobs"]) < 11:
        time.sleep(0.02)
    expected = {job["id"]: 1 for job in listed if job["state"] != "done"} | {job["id"]: 0 for job in listed if job["state"] == "done"}
    for one in gone[10:20]:
        one.sendall(
            f"GET /v1/jobs/{next(iter(expected))}/events HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: text/event-stream\r\n\r\n".encode()
        )
        assert b"200 OK" in one.recv(100)
    for one in gone[20:]:
        one.sendall(head + body[:100])
    assert served.sockets() >= before + 30
    for one in gone:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # with a reset, as from a machine that lost its power
        one.close()
    assert all(served.job(id, wait=30)["state"] == "done" for id in expected)
    end = time.monotonic() + 5
    while served.sockets() > before:
        assert time.monotonic() < end, "connections that nobody has are let go of"
        time.sleep(0.05)
    assert served.end() == 0
    jobs = checked(tmp_path, graphs, expected)
    assert sum(not job.cached for job in jobs.values()) == 2


def test_a_server_that_is_told_to_end(serve: Callable[..., Served], graphs: Any, tmp_path: Path) -> None:
    served = serve(forked=False)
    running = served.submit(graphs(1, body=slow)).json()["id"]
    served.until(running, "running")
    expected = {running: 1} | {served.submit(graphs(number)).json()["id"]: number for number in range(2, 6)}
    assert served.http.get("/readyz").status_code == 200
    with ThreadPoolExecutor(1) as waiter:
        waited = waiter.submit(served.job, running, 30)
        time.sleep(0.1)
        _drains(served, graphs)
        assert waited.result()["state"] == "done"
    assert served.process.wait(10) == 0
    table = Table(database := Sqlite(tmp_path / "jobs.sqlite"))
    assert [(table.get(id, None).state, table.get(id, None).attempts) for id in expected][1:] == [(State.QUEUED, 0)] * 4
    database.close()
    after = serve()
    assert all(after.job(id, wait=30)["state"] == "done" for id in expected)
    assert after.end() == 0
    checked(tmp_path, graphs, expected)


def _drains(served: Served, graphs: Any) -> None:
    served.process.terminate()
    end = time.monotonic() + 1
    while served.http.get("/readyz").status_code != 503:
        assert time.monotonic() < end
    assert served.http.get("/livez").status_code == 200
    refused = served.submit(graphs(9))
    assert refused.status_code == 503 and int(refused.headers["Retry-After"]) > 0
    assert refused.headers["Content-Type"] == "application/problem+json" and "shut down" in refused.json()["found"]


@pytest.mark.parametrize("runner", [(), ("--process",)], ids=["inline", "process"])
def test_a_server_that_is_told_twice_ends_at_once(
    serve: Callable[..., Served], graphs: Any, tmp_path: Path, runner: tuple[str, ...]
) -> None:
    served = serve(*runner)
    running = served.submit(graphs(1, body=endless)).json()["id"]
    waiting = served.submit(graphs(2)).json()["id"]
    served.until(running, "running")
    workers = served.workers()
    served.process.terminate()
    time.sleep(0.5)
    assert served.process.poll() is None and served.job(running)["state"] == "running"
    began = time.monotonic()
    served.process.terminate()
    assert served.process.wait(5) == 1
    assert time.monotonic() - began < 2.5
    table = Table(database := Sqlite(tmp_path / "jobs.sqlite"))
    assert [(table.get(id, None).state, table.get(id, None).attempts) for id in (running, waiting)] == [(State.QUEUED, 0)] * 2
    database.close()
    end = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < end, "no process is left behind"
        time.sleep(0.05)


def test_a_disk_that_is_full_for_a_while(serve: Callable[..., Served], graphs: Any, tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk without room: it is set while the server runs."""
    served = serve("--log", "error")
    expected = {served.submit(graphs(0), wait=20).json()["id"]: 0}
    running = served.submit(graphs(1, body=slow)).json()["id"]
    served.until(running, "running")
    expected |= {running: 1} | {served.submit(graphs(number)).json()["id"]: number for number in (2, 3)}
    nothing = resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    refused = served.submit(graphs(9))
    assert refused.status_code == 503 and refused.json()["type"] == "storage" and str(tmp_path) not in refused.text
    assert served.http.get("/livez").status_code == 200
    time.sleep(6)
    states = [served.job(id)["state"] for id in expected]
    assert states == ["done", "running", "queued", "queued"], "what is computed waits to be kept"
    assert served.http.get(f"/v1/jobs/{next(iter(expected))}/result").status_code == 200
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, nothing)
    assert all(served.job(id, wait=30)["state"] == "done" for id in expected)
    expected[served.submit(graphs(9), wait=20).json()["id"]] = 9
    assert served.end() == 0
    assert {job.attempts for job in checked(tmp_path, graphs, expected).values()} == {0}


def test_a_table_that_another_process_holds(serve: Callable[..., Served], graphs: Any, tmp_path: Path) -> None:
    served = serve("--log", "error")
    expected = {served.submit(graphs(0), wait=20).json()["id"]: 0}
    running = served.submit(graphs(1, body=slow)).json()["id"]
    served.until(running, "running")
    expected |= {running: 1}
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        refused = served.submit(graphs(9), key="k")
        assert (refused.status_code, refused.json()["type"]) == (503, "storage") and int(refused.headers["Retry-After"]) > 0
        assert served.job(running)["state"] == "running", "who only reads does not wait"
        time.sleep(1)
    expected[served.submit(graphs(9), key="k", wait=30).json()["id"]] = 9
    assert all(served.job(id, wait=30)["state"] == "done" for id in expected)
    assert served.end() == 0
    assert {job.attempts for job in checked(tmp_path, graphs, expected).values()} == {0}


class Chaos:
    """Clients that submit whatever happens, each work under a key, until they are told to end."""

    def __init__(self, url: str, graphs: Any) -> None:
        self._url, self._graphs, self._over = url, graphs, threading.Event()
        self.jobs: dict[str, int] = {}
        self.wrong: list[Any] = []
        self._threads = [threading.Thread(target=self._client, args=[number]) for number in range(4)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _client(self, client: int) -> None:
        connection, chance = Connection(self._url, patience=60), random.Random(client)
        for count in range(10**6):
            number = 1_000 * client + chance.randrange(200)
            body, headers = self._graphs(number).to_bytes(), WORK | {"Idempotency-Key": f"{client}-{count}"}
            wait = chance.choice([0, 0, 5])
            try:
                job = connection.json("POST", "/v1/jobs", params={"wait": wait}, content=body, headers=headers, wait=wait)
                self.jobs[job["id"]] = number
                if chance.random() < 0.2:  # it has forgotten that it had an answer
                    again = connection.json("POST", "/v1/jobs", content=body, headers=headers)
                    if again["id"] != job["id"]:
                        self.wrong.append((job, again))
            except CutawayError as error:
                self.wrong.append(error)
            if self._over.wait(chance.uniform(0, 0.1)):
                break
        connection.close()


def test_thirty_deaths_at_any_time(forks: Forks, graphs: Any, tmp_path: Path) -> None:
    """Clients go on meanwhile, and try again. Each server begins where the one before was killed, also before it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url, chance = f"http://127.0.0.1:{port}", random.Random(7)
    server, chaos = forks.start(tmp_path, "--port", str(port)), Chaos(url, graphs)
    try:
        for _ in range(30):
            time.sleep(chance.uniform(0.05, 1.6))
            server.kill()
            server.wait()
            server = forks.start(tmp_path, "--port", str(port))
        time.sleep(1)
        chaos.end()
        with httpx2.Client(base_url=url, timeout=60, trust_env=False) as http:
            found = [http.get(f"/v1/jobs/{id}?wait=30").json() for id in chaos.jobs]
            assert not [job for job in found if job["state"] != "done"]
        server.terminate()
        assert server.wait() == 0
    finally:
        chaos.end()
        server.kill()
    assert not chaos.wrong
    assert len(chaos.jobs) > 200
    jobs = checked(tmp_path, graphs, chaos.jobs)
    assert max(job.attempts for job in jobs.values()) >= 1, "some were killed while they ran"
