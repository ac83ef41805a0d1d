"""A server with its folder, its runner and its port: what `cutaway serve` starts, and what ends it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, final

import platformdirs
import uvicorn

from cutaway.errors import InputError, StorageError
from cutaway.service.api import app
from cutaway.service.catalogue import Catalogue
from cutaway.service.database import Database
from cutaway.service.keys import Keys
from cutaway.service.quota import Quota
from cutaway.service.results import Results
from cutaway.service.runners.base import Runner, Settings
from cutaway.service.scheduler import Policy
from cutaway.service.server import Server
from cutaway.service.sqlite import Sqlite
from cutaway.service.table import Table
from cutaway.service.telemetry import Telemetry

_LOG = logging.getLogger("cutaway.service")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
WIRE: dict[str, Any] = {
    "http": "h11",  # it bounds headers; the other parser of uvicorn does not
    "ws": "none",
    "lifespan": "off",
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "timeout_graceful_shutdown": 5,
}
"""How uvicorn is set."""
_LAST, _AT_ONCE = 15.0, 2.0
"""Seconds that connections and models are given to close, after what ran has ended; that leases are, at a second signal."""
FOLDER = Path(platformdirs.user_state_dir("cutaway")) / "service"
"""Where jobs, results and keys are kept unless told otherwise."""


@final
@dataclass(frozen=True)
class Site:
    """Where a server keeps what must not be lost, and who does its work.

    database: of several servers (postgresql://...); "" for a file in the folder. runner: "inline" runs in this process, "process" each model in one
    of its own, "ray" on a cluster: at the address `cluster`, or started here. flush: whether an accepted job survives a power cut, and not only the
    death of every process. grace: seconds that running work is given when the server is told to end.
    """

    models: tuple[str, ...]
    folder: Path = FOLDER
    database: str = ""
    runner: Literal["inline", "process", "ray"] = "inline"
    cluster: str = ""
    flush: bool = False
    grace: float = 20.0
    settings: Settings = field(default_factory=Settings)
    policy: Policy = field(default_factory=Policy)
    quota: Quota = field(default_factory=Quota)


def tables(site: Site) -> Database:
    """The database of a server. Raises StorageError."""
    if site.database:
        from cutaway.service.postgres import Postgres

        return Postgres(site.database)
    return Sqlite(site.folder / "jobs.sqlite", flush=site.flush)


@contextlib.contextmanager
def opened(site: Site) -> Iterator[tuple[Server, Keys]]:
    """A server that runs until the block ends, and its keys. Raises StorageError for a folder that another server has, and what its models raise."""
    catalogue = Catalogue(site.models, dtype=site.settings.dtype, limits=site.settings.limits, tokens=site.policy.tokens)
    if site.policy.memory is not None and (largest := max(catalogue.sizes.values())) > site.policy.memory:
        found = f"weights of {largest / 1e9:.2f} GB"
        raise InputError(f"Serve in {site.policy.memory / 1e9:.2f} GB.", found, "more --memory, or another --dtype")
    with contextlib.ExitStack() as stack:
        if not site.database:
            stack.enter_context(_alone(site.folder))
        kept = tables(site)
        stack.callback(kept.close)
        results = Results(site.folder / "results", flush=site.flush)
        runner = _runner(site)
        server = Server(
            catalogue,
            Table(kept),
            results,
            runner,
            policy=site.policy,
            quota=site.quota,
            telemetry=Telemetry(),
            settings=site.settings,
            alone=not site.database,
        )
        stack.callback(server.stop)
        server.start()
        room = site.policy.memory if site.policy.memory is not None else sum(catalogue.sizes.values())
        for name in site.models:  # as many as fit: the others are opened when somebody asks for them
            if (bytes := catalogue.sizes[name]) <= room:
                room -= bytes
                server.dispatcher.want("", name)
        yield server, Keys(kept)


def serve(site: Site, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT, which let running work end first; a second one does not. Raises InputError, StorageError."""
    with contextlib.closing(tables(site)) as kept:
        open = not Keys(kept).issued()
    if open and host not in _LOOPBACK:
        works = "cutaway keys issue USER, or --host 127.0.0.1, which needs none"
        raise InputError(f"Serve at {host}.", "no keys, so that everybody could use it", works)
    with opened(site) as (server, keys):
        config = uvicorn.Config(app(server, keys, open=open), host, port, **WIRE)
        found = config.bind_socket()
        found.listen(config.backlog)  # whoever reads the next line may come at once
        shown = f"[{host}]" if ":" in host else host
        print(f"Serving {', '.join(site.models)} at http://{shown}:{found.getsockname()[1]}", flush=True)
        print(
            "Anybody on this machine may use it without a key, until one is issued." if open else "Whoever has a key may use it.",
            flush=True,
        )
        _Uvicorn(config, server, site.grace).run([found])


@final
class _Uvicorn(uvicorn.Server):
    """Ends after what runs has ended, and answers meanwhile."""

    def __init__(self, config: uvicorn.Config, server: Server, grace: float) -> None:
        super().__init__(config)
        self._server, self._grace = server, grace

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        name, again, self._draining = signal.Signals(sig).name, self._draining, True
        threading.Thread(target=self._end if again else self._drain, args=(name,), daemon=True).start()

    _draining = False

    def _drain(self, name: str) -> None:
        ended = self._server.drain(self._grace)
        _LOG.info("%s: %s", name, "what ran has ended" if ended else "what has not ended is queued again")
        _exit_in(_LAST, 0)
        self.should_exit = True

    def _end(self, name: str) -> None:
        _exit_in(_AT_ONCE, 1)
        self._server.drain(0.0)
        _LOG.warning("%s again: what has not ended is queued again", name)
        os._exit(1)


def _exit_in(seconds: float, status: int) -> None:
    """End the process then, whatever hangs in it."""
    timer = threading.Timer(seconds, os._exit, [status])
    timer.daemon = True
    timer.start()


def _runner(site: Site) -> Runner:
    if site.runner == "ray":
        from cutaway.service.runners.ray import Ray

        return Ray(site.settings, address=site.cluster or None)
    if site.runner == "process":
        from cutaway.service.runners.process import Process

        return Process(site.settings)
    from cutaway.service.runners.inline import Inline

    return Inline(site.settings)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds a folder: one server at a time. The operating system lets go of it, however the server ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise StorageError(f"Open {folder}.", error.strerror or str(error), "a folder that can be written to") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise StorageError(f"Serve from {folder}.", "another server that does", "another --folder, or to end that server") from error
    try:
        yield
    finally:
        os.close(handle)
