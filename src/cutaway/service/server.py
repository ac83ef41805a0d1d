"""The server, whatever it is spoken to by: takes works on, says where they stand, hands out what came of them."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from cutaway import registry
from cutaway.errors import BusyError, StorageError
from cutaway.remote.work import Work
from cutaway.service import inputs
from cutaway.service.catalogue import Catalogue
from cutaway.service.dispatch import PATIENCE, Dispatcher, leaving
from cutaway.service.jobs import Job, Jobs, State
from cutaway.service.leases import LEASE, Leases
from cutaway.service.quota import Balances, Quota
from cutaway.service.results import Results
from cutaway.service.runners.base import Runner, Settings
from cutaway.service.scheduler import Policy, Scheduler
from cutaway.service.sessions import Sessions
from cutaway.service.telemetry import Telemetry

LISTENERS = 500
"""Requests of a user that may wait for jobs at once, as those for events do."""
_POLL = 10.0, 2.0
"""Seconds after which who waits for a job looks again without having heard of a change: of one server alone, and of one that shares its table with
others, whose changes it does not hear."""


@final
@dataclass(frozen=True)
class Standing:
    """A job, and what is known of it now. position: 1 is the next of its model, 0 where it does not wait. expected: seconds until it begins, None
    where nothing is known. size: bytes of its result."""

    job: Job
    position: int = 0
    expected: float | None = None
    size: int | None = None
    warnings: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class Model:
    """A model that is offered, and how much it is wanted. state: "open", "loading" or "closed"."""

    name: str
    state: str
    bytes: int
    queued: int
    running: int
    expected: float | None
    context: int | None
    revision: str
    pinned: bool


@final
class Server:
    """One server on a table of jobs, which others may share.

    alone: whether no other shares it; then leases of a server before this one end at once. park: as the runner's. lease: seconds.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        jobs: Jobs,
        results: Results,
        runner: Runner,
        *,
        policy: Policy | None = None,
        quota: Quota | None = None,
        telemetry: Telemetry | None = None,
        settings: Settings | None = None,
        alone: bool = True,
        lease: float = LEASE,
    ) -> None:
        self.catalogue, self.jobs, self.results, self.runner = catalogue, jobs, results, runner
        self.policy, self.quota, self.settings = policy or Policy(), quota or Quota(), settings or Settings()
        self.telemetry, self._alone = telemetry or Telemetry(), alone
        self.poll = _POLL[0] if alone else _POLL[1]
        self._listeners: dict[str, set[Callable[[], None]]] = {}
        self._waited: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.balances = Balances(self.quota)
        scheduler = Scheduler(self.policy, self.balances)
        leases = Leases(jobs, results, self.balances, self.telemetry, self._changed, lease)
        self.dispatcher = Dispatcher(catalogue, jobs, results, runner, scheduler, leases, self.telemetry)
        self.sessions = Sessions(runner, self.dispatcher, self.balances, self.settings.park)
        self.telemetry.watch(jobs.counts, runner.loaded)

    def start(self) -> None:
        """Begin to work on what the table holds. Raises StorageError."""
        if self._alone:
            self.jobs.expire(everybody=True)
        self.dispatcher.start()

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken on."""
        return self.dispatcher.draining

    def drain(self, seconds: float) -> bool:
        """Take nothing on any more, and wait so long for what runs; the rest stays queued. Returns whether nothing was cut short."""
        return self.dispatcher.drain(seconds)

    def stop(self, seconds: float = 0.0) -> None:
        """Drain, and let go of all models; of one that hangs in a forward after a while."""
        ended = self.dispatcher.stop(seconds)
        closing = threading.Thread(target=self.runner.close, daemon=True)
        closing.start()
        closing.join(None if ended else PATIENCE)

    def submit(self, user: str, work: Work, key: str | None = None) -> Job:
        """Take a work on. Raises BusyError, ConflictError, StorageError, and what its run would raise before it computes."""
        if self.draining:
            raise leaving("Accept a job.")
        self.balances.refuse(user, self.jobs.unfinished(user))
        if work.kind == "method":
            inputs.arguments(registry.load("methods", work.method), work.arguments)
        work = dataclasses.replace(work, revision=self.catalogue[work.model].revision)
        self.catalogue.admit(work)
        job = self.jobs.accept(user, work, key)
        if job.state == State.QUEUED:
            self.dispatcher.wake()
        return job

    def standing(self, job: Job) -> Standing:
        """A job with what is known of it now."""
        if job.state == State.QUEUED:
            position = self.jobs.position(job.id, None)
            mean = self.dispatcher.expected(job.model) if job.model in self.catalogue else None
            return Standing(job, position, mean and mean * position, warnings=tuple(self.dispatcher.warnings(job)))
        size = None
        if job.result is not None:
            with contextlib.suppress(StorageError):
                size = self.results.size(job.result)
        return Standing(job, size=size)

    def cancel(self, id: str, user: str | None) -> Job:
        """End a job. Raises UnknownNameError."""
        job = self.jobs.cancel(id, user)
        if job.state == State.CANCELLED:
            self.dispatcher.cancel(id)
        return job

    def result(self, job: Job) -> Path | None:
        """The file of a job's result; None where it is there no more, and then the job is expired."""
        if job.result is None:
            return None
        try:
            return self.results.path(job.result)
        except StorageError:
            self.jobs.forget(job.result)
            return None

    def models(self) -> list[Model]:
        """All models that are offered."""
        opened, loading = self.runner.loaded(), self.dispatcher.loading
        demand, found = self.jobs.demand(), []
        for name in self.catalogue:
            queued, running = demand.get(name, (0, 0))
            offer, mean = self.catalogue[name], self.dispatcher.expected(name)
            state = "open" if name in opened else "loading" if name in loading else "closed"
            wait = None if mean is None else mean * (queued + running)
            sizes = opened.get(name, offer.bytes), queued, running, wait, offer.context, offer.revision
            found.append(Model(name, state, *sizes, pinned=name in self.policy.pinned))
        return found

    def refuse_listener(self, user: str) -> None:
        """Raise BusyError where a user waits for as many jobs as may be at once."""
        if self._waited[user] >= LISTENERS:
            raise BusyError("Wait for a job.", f"{LISTENERS} requests of yours that do", "to end some, or to ask without waiting")

    @contextlib.contextmanager
    def listening(self, job: str, user: str, heard: Callable[[], None]) -> Iterator[None]:
        """Call `heard`, from any thread, whenever something happens here to a job, until the block ends. Raises BusyError."""
        with self._lock:
            self.refuse_listener(user)
            self._waited[user] += 1
            self._listeners.setdefault(job, set()).add(heard)
        try:
            yield
        finally:
            with self._lock:
                self._waited[user] -= 1
                self._listeners[job].discard(heard)
                if not self._listeners[job]:
                    del self._listeners[job]

    def _changed(self, job: str) -> None:
        with self._lock:
            listeners = list(self._listeners.get(job, ()))
        for heard in listeners:
            with contextlib.suppress(RuntimeError):  # its loop has ended, with the server
                heard()


def methods() -> list[dict[str, Any]]:
    """Every method of the registry as plain data: name, summary, kind of result, and the JSON Schema of its arguments."""
    return [
        {
            "name": name,
            "summary": registry.summary("methods", name),
            "returns": registry.declared("methods", name, "Returns"),
            "arguments": inputs.schema(registry.load("methods", name)),
        }
        for name in registry.names("methods")
    ]
