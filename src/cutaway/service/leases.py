"""Jobs that this server has leased, from the lease to what comes of it. Leases are renewed while they are held; what was computed waits for room."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, final

from cutaway.errors import InputError, StorageError, UnknownNameError
from cutaway.service.jobs import Ending, Job, Jobs, State
from cutaway.service.outcomes import Outcome
from cutaway.service.quota import Balances
from cutaway.service.results import Results
from cutaway.service.telemetry import Telemetry

_LOG = logging.getLogger("cutaway.service")
LEASE = 15.0
"""Seconds for which a job is leased; renewed three times in it. So long a job waits after its server died, where other servers may be alive."""
PAUSE = 1.0
"""Seconds between two tries of what failed."""
_T = TypeVar("_T")


@final
class Leases:
    """What this server holds. changed: told the id of a job whenever something happened to it, from any thread. seconds: of a lease.

    equal: hashes of works that others wait for as well; set by who looks at the queue.
    """

    def __init__(
        self, jobs: Jobs, results: Results, balances: Balances, telemetry: Telemetry, changed: Callable[[str], None], seconds: float = LEASE
    ) -> None:
        self._jobs, self._results, self._balances, self._telemetry = jobs, results, balances, telemetry
        self.changed, self.seconds = changed, seconds
        self.equal: set[str] = set()
        self.ended = threading.Event()
        """Set when nothing is waited for any more."""
        self._worker = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._lock = threading.Lock()
        self._held: dict[str, Job] = {}

    @property
    def hashes(self) -> set[str]:
        """Of the works that are held."""
        with self._lock:
            return {job.hash for job in self._held.values()}

    def take(self, ids: Sequence[str], state: State) -> list[Job]:
        """Lease those jobs that are still queued. Raises StorageError."""
        leased = self._jobs.lease(self._worker, self.seconds, ids, state)
        with self._lock:
            self._held |= {job.id: job for job in leased}
        for id in ids:
            self.changed(id)
        return leased

    def pass_over(self, ids: Collection[str]) -> None:
        """These could not be leased: they were cancelled just now, or are done by an equal one, as others are then."""
        for id in ids:
            with contextlib.suppress(UnknownNameError):
                job = self._jobs.get(id, None)
                self._settle(job, job.state)

    def finish(self, *ended: tuple[Job, Outcome]) -> None:
        """Keep what came of jobs, all at once: to wait for the disk is what takes longest."""

        def kept() -> set[str]:
            contents = {job.id: outcome.result for job, outcome in ended if outcome.result is not None}
            names = dict(zip(contents, self._results.put(*contents.values()), strict=True))
            return self._jobs.finish(*(Ending(job, names.get(job.id), outcome.problem, outcome.seconds) for job, outcome in ended))

        counted = self._insisted([job for job, _ in ended], kept) or ()
        for job, outcome in ended:
            self.let_go(job)
            self._balances.charge(job.user, outcome.seconds)
            if job.id in counted:
                state = State.QUEUED if outcome.lost else State.FAILED if outcome.problem else State.DONE
                self._telemetry.job(job.kind, state, (job.started or job.accepted) - job.accepted, outcome.seconds)
                self._settle(job, state)
            self.changed(job.id)

    def give_back(self, jobs: Sequence[Job]) -> None:
        """Queue again those that are still held."""
        for job in jobs:
            if self._holds(job):
                self._insisted([job], partial(self._jobs.release, job))
                self.let_go(job)
                self.changed(job.id)

    def give_up(self) -> list[Job]:
        """Queue again all that is held; what cannot be is when its lease runs out. Returns it."""
        with self._lock:
            left, self._held = list(self._held.values()), {}
        for job in left:
            with contextlib.suppress(StorageError):
                self._jobs.release(job)
        return left

    def let_go(self, job: Job) -> bool:
        """Hold a job no more. False where it was not held."""
        with self._lock:
            return self._holds(job) and self._held.pop(job.id) is not None

    def note(self, id: str, type: str, data: Mapping[str, Any]) -> None:
        """Record progress of a job that is held."""
        held = self._held.get(id)
        if held is not None:
            with contextlib.suppress(StorageError, InputError):  # progress is not worth a job
                self._jobs.record(held, type, data)
            self.changed(id)

    def renew(self) -> list[Job]:
        """Hold on to what is held; returns what is not any more, as it was cancelled elsewhere. Raises StorageError."""
        with self._lock:
            held = list(self._held.values())
        kept = {job.id for job in self._jobs.renew(held, self.seconds)} if held else set()
        return [job for job in held if job.id not in kept and self.let_go(job)]

    def _holds(self, job: Job) -> bool:
        held = self._held.get(job.id)
        return held is not None and held.leases == job.leases

    def _settle(self, job: Job, state: State) -> None:
        """Those that waited for an equal job are done with it."""
        if job.hash in self.equal:
            self.equal.discard(job.hash)
            if state == State.DONE:
                with contextlib.suppress(StorageError):  # they are when they are leased
                    for id in self._jobs.settle(job.hash):
                        self.changed(id)

    def _insisted(self, jobs: Sequence[Job], change: Callable[[], _T]) -> _T | None:
        """What a change of held jobs gives. Tried again while the table, or the folder of results, cannot be written: nothing computed is lost."""
        while True:
            try:
                return change()
            except StorageError as error:
                _LOG.error("waiting for room to keep %s: %s %s", ", ".join(f"job {job.id}" for job in jobs), error.asked, error.found)
            if self.ended.wait(PAUSE) or not any(map(self._holds, jobs)):
                return None
