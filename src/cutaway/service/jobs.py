"""A work that was accepted, how it goes on, and what every table of such jobs guarantees.

    received ─► queued ─► loading ─► running ─► done ─► expired
        │         ▲ ▲ └───────────────▲ │ │
        │         │ └──── lost ───┴─────┘ ├─► failed
        └─► done (result known before)    └─► cancelled (from every state but the final ones)

Times are seconds since 1970, UTC.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, final

from cutaway.errors import InputError

if TYPE_CHECKING:
    from cutaway.remote.work import Work


class State(StrEnum):
    """Where a job stands. Only the table changes it."""

    RECEIVED = "received"
    QUEUED = "queued"
    LOADING = "loading"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


LEASED = frozenset({State.LOADING, State.RUNNING})
FINAL = frozenset({State.DONE, State.FAILED, State.CANCELLED, State.EXPIRED})
_LEFT = {State.QUEUED, State.DONE, State.FAILED, State.CANCELLED}
NEXT: Mapping[State, frozenset[State]] = {
    State.RECEIVED: frozenset({State.QUEUED, State.DONE}),
    State.QUEUED: frozenset({State.LOADING, State.RUNNING, State.DONE, State.CANCELLED}),
    State.LOADING: frozenset({State.RUNNING, *_LEFT}),
    State.RUNNING: frozenset(_LEFT),
    State.DONE: frozenset({State.EXPIRED}),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.EXPIRED: frozenset(),
}
"""State -> the states that may follow it."""


@final
@dataclass(frozen=True)
class Job:
    """A work accepted from a user. As `Jobs.lease` returns it, it is also the proof of that lease.

    hash: of the work; size: its bytes. attempts: leases that were lost while it ran; orphaned: those of them whose server was lost too.
    worker, until: who holds the lease, and how long; leases: how many there were. result: hash of the result. problem: fields of
    problem+json. cached: whether the result was known before. seconds: of computing.
    """

    id: str
    user: str
    kind: str
    model: str
    method: str
    hash: str
    size: int
    state: State
    accepted: float
    started: float | None = None
    finished: float | None = None
    attempts: int = 0
    orphaned: int = 0
    worker: str = ""
    until: float = 0.0
    leases: int = 0
    result: str | None = None
    problem: Mapping[str, Any] | None = None
    cached: bool = False
    seconds: float = 0.0


@final
@dataclass(frozen=True)
class Event:
    """Something that happened to a job. number: from 1, without a gap but where newer progress took the place of older.

    type "state": data has `state`, and what belongs to it; "progress": `done`, `total`, `unit`; "log": `text`.
    """

    job: str
    number: int
    time: float
    type: str
    data: Mapping[str, Any] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class Ending:
    """What came of a leased job: `result`, the hash under which its bytes already lie; or a problem; or neither: it was lost, and is queued again.

    seconds: of computing. Raises InputError for both.
    """

    job: Job
    result: str | None = None
    problem: Mapping[str, Any] | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.result is not None and self.problem is not None:
            raise InputError("End a job.", "a result and a problem", "one of them, or neither where the worker was lost")


class Jobs(Protocol):
    """A table of jobs. What it guarantees, whoever dies when, and whoever else uses it at the same time:

    - A job that `accept` has returned is there, once, until it has been final for as long as jobs are kept.
    - Each change happens whole, together with its event, or not at all. States follow one another as `NEXT` says.
    - A job is leased to one worker at a time. Only that lease can finish it, and only once: a job has one `done`, with one result.
    - A lease that is not renewed is lost: the job is queued again, before those that came later, and after a few losses while it ran it fails and
      says so.
    - Whoever asks as a user sees that user's jobs, and of others not even that they exist. `user=None` is the operator, who sees all.

    Every method raises StorageError where the table cannot be read or written; then nothing has changed.
    """

    def accept(self, user: str, work: Work, key: str | None = None) -> Job:
        """Take a work on: queued, or done at once where the result of an equal work is kept.

        The same idempotency key with the same body gives the same job again. Raises ConflictError for another body, and GraphError.
        """

    def get(self, id: str, user: str | None) -> Job:
        """A job. Raises UnknownNameError where the user has none of that id."""

    def find(self, user: str | None, states: Collection[State] = (), limit: int = 50, before: str | None = None) -> list[Job]:
        """Jobs, newest first; in some states only; accepted before the job `before`. Raises UnknownNameError for that one."""

    def queued(self, each: int = 64) -> list[Job]:
        """Jobs that wait, oldest first: of each user and model the first so many, so that nobody's hide another's."""

    def work(self, id: str) -> bytes:
        """What `Work.from_bytes` reads. Kept until the job is final. Raises UnknownNameError."""

    def lease(self, worker: str, seconds: float, ids: Sequence[str], state: State = State.RUNNING) -> list[Job]:
        """Give those jobs that are still queued to a worker for some seconds, into the state running or loading.

        A job whose result has become known while it waited is done, and not leased.
        """

    def start(self, job: Job) -> bool:
        """From loading to running. False where the lease is lost."""

    def renew(self, jobs: Sequence[Job], seconds: float) -> list[Job]:
        """Hold leases for so long from now. Returns those that are still held: of the others the work can be stopped."""

    def release(self, job: Job) -> bool:
        """Give a job back to the queue; this is no attempt. False where the lease is lost."""

    def record(self, job: Job, type: str, data: Mapping[str, Any]) -> Event | None:
        """Note progress or a log line. None where the lease is lost, or the job has as many events as are kept."""

    def finish(self, *endings: Ending) -> set[str]:
        """Keep what came of leased jobs, of all or of none. Returns the jobs whose lease was still held: of others nothing counts."""

    def settle(self, hash: str) -> list[str]:
        """Jobs that wait, and whose result is known, are done with it. Returns their ids."""

    def cancel(self, id: str, user: str | None) -> Job:
        """End a job that is not final. Its worker learns of it when it renews. Raises UnknownNameError."""

    def expire(self, *, everybody: bool = False) -> list[Job]:
        """End leases that have run out; let go of results, then of jobs, that are too old. Returns the jobs whose lease ended, as they are now.

        everybody: end all leases; for the only server of a table, when it starts.
        """

    def events(self, id: str, user: str | None, after: int = 0) -> list[Event]:
        """What happened to a job after the event of that number. Raises UnknownNameError."""

    def position(self, id: str, user: str | None) -> int:
        """Which of the jobs that wait for its model it is, by arrival: 1 is the first; 0 where it does not wait. Raises UnknownNameError."""

    def unfinished(self, user: str) -> int:
        """How many jobs of a user are not final."""

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""

    def demand(self) -> dict[str, tuple[int, int]]:
        """Model -> how many jobs wait for it, and how many are leased; of models that any job wants."""

    def results(self) -> frozenset[str]:
        """Hashes of the results that are kept."""

    def forget(self, result: str) -> int:
        """The bytes of a result are gone or damaged: jobs done with it are expired, and no new job gets it. Returns how many."""
