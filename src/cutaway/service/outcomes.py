"""How work ends: by itself, by an error, or from outside. Each becomes an outcome; what only the server should know stays in its log."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, final

import torch

from cutaway.errors import CutawayError, ModelError, ServiceError, StorageError
from cutaway.remote.problem import problem

_LOG = logging.getLogger("cutaway.service")
_LINE = re.compile(r"(?:at |\()([^()]+:\d+)\)?\.")
_MEMORY = (MemoryError, torch.OutOfMemoryError)


@final
@dataclass(frozen=True)
class Outcome:
    """What came of a work: the bytes of a result, or a problem; neither where whoever ran it was lost. seconds: of computing."""

    result: bytes | None = field(default=None, repr=False)
    problem: Mapping[str, Any] | None = None
    seconds: float = 0.0

    @property
    def lost(self) -> bool:
        """Whether nobody lived to tell."""
        return self.result is None and self.problem is None


@final
class Stop:
    """When work has to end: where all that runs now is cancelled, or out of time. `cancel` may be called from any thread.

    seconds: for each turn, that is for jobs that run together.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds
        self._cancelled: set[str] = set()
        self._jobs: frozenset[str] = frozenset()
        self._until = float("inf")

    def begin(self, jobs: Iterable[str]) -> None:
        """A turn begins; its time is counted from here."""
        self._jobs = frozenset(jobs)
        self._until = float("inf") if self._seconds is None else time.monotonic() + self._seconds

    def cancel(self, job: str) -> None:
        """Nobody wants this job's result."""
        self._cancelled.add(job)

    def check(self) -> None:
        """Raises ServiceError where what runs now has to end."""
        if self._jobs and self._jobs <= self._cancelled:
            raise ServiceError("Go on with a job.", "it was cancelled", "a new job")
        if self.late:
            raise ServiceError("Go on with a job.", f"more than {self._seconds:g} seconds", "fewer examples or steps, or a smaller graph")

    @property
    def late(self) -> bool:
        """Whether the turn is out of time."""
        return time.monotonic() > self._until

    def cancelled(self, jobs: Iterable[str]) -> bool:
        """Whether all of these are."""
        return self._cancelled.issuperset(jobs)

    def problem(self, job: str) -> dict[str, Any] | None:
        """Why a job was ended from outside; None where it was not."""
        if job in self._cancelled:
            return cancelled()
        return too_long(self._seconds) if self._seconds is not None and self.late else None


def cancelled() -> dict[str, Any]:
    """The problem of a job that was cancelled."""
    return _plain("cancelled", "The job was cancelled.", "Run a job.", "it was cancelled", "a new job")


def too_long(seconds: float) -> dict[str, Any]:
    """The problem of a job that ran out of time."""
    found = f"more than {seconds:g} seconds"
    return _plain("time-limit", "The job ran out of time.", "Run a job.", found, "fewer examples or steps, or a smaller graph")


def told(error: Exception, job: str) -> dict[str, Any]:
    """Any error as a problem: one of the user's making in full; of any other, which may name the server's own files, an id, under which the log has
    the rest."""
    if isinstance(error, CutawayError) and not isinstance(error, (ModelError, StorageError)):
        line = _LINE.search(error.asked)
        return problem(error, line[1] if line else "")
    number = uuid.uuid4().hex
    _LOG.error("error %s of job %s", number, job, exc_info=error)
    if isinstance(error, _MEMORY):
        return _plain("out-of-memory", "The server ran out of memory.", "Run a job.", "no memory left", "fewer or shorter inputs") | {
            "id": number
        }
    works = f"the server's log has more under {number}"
    return _plain("internal", "The server failed.", "Run a job.", "an error of the server's own", works) | {"id": number}


def _plain(kind: str, title: str, asked: str, found: str, works: str) -> dict[str, Any]:
    return {"type": kind, "title": title, "detail": f"{asked} {found}", "asked": asked, "found": found, "works": works, "line": ""}


@final
class Telling:
    """`with Telling(job, done, stop):` makes what is raised in its block the outcome of a job in `done`."""

    def __init__(self, job: str, done: dict[str, Outcome], stop: Stop) -> None:
        self._job, self._done, self._stop = job, done, stop

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if not isinstance(error, Exception):
            return False
        self._done[self._job] = Outcome(problem=self._stop.problem(self._job) or told(error, self._job))
        return True
