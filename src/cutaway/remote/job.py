"""A job of the service: where it stands, what happens to it, what came of it."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, final

from cutaway.engine import wire
from cutaway.errors import ServiceError
from cutaway.remote.connection import FINAL, Connection, Event, quoted
from cutaway.remote.problem import raised
from cutaway.remote.status import Status
from cutaway.remote.work import Work
from cutaway.results.base import Result

SOON = 0.5
"""Seconds that a job is waited for when it is sent, by who waits for it."""
_POLL, _SHOWN = 20.0, 0.5
"""Seconds that the server may keep a question about a job that has not ended: as a rule, and where a line shows how far it is."""
_LARGEST = 2**40
_TRIES = 3


@final
class RemoteJob:
    """A job by its id; `remote.job(id)` finds it again, from any process with the same user's key."""

    def __init__(self, connection: Connection, told: Mapping[str, Any]) -> None:
        self._connection, self._told = connection, dict(told)
        self.id = str(told.get("id", ""))
        self._path = f"/v1/jobs/{quoted(self.id)}"

    @property
    def told(self) -> dict[str, Any]:
        """What the server told of it last: kind, model, method, times, position, expected wait, size of the result, ..."""
        return dict(self._told)

    @property
    def state(self) -> str:
        """Where it stands now: received, queued, loading, running; done, failed, cancelled or expired."""
        if not self.ended:
            self._ask(0.0)
        return str(self._told.get("state"))

    @property
    def ended(self) -> bool:
        """Whether it had ended when the server was last asked."""
        return self._told.get("state") in FINAL

    def wait(self, timeout: float | None = None) -> str:
        """Until it has ended, or for so many seconds; returns its state then. The job goes on, whoever stops waiting."""
        until = None if timeout is None else time.monotonic() + timeout
        label = f"{self._told.get('method') or 'run'} on {self._told.get('model')}"
        with Status(label) as status:
            last, progress = 0, None
            while not self.ended:
                left = _POLL if until is None else min(_POLL, until - time.monotonic())
                if left <= 0:
                    break
                self._ask(min(left, _SHOWN) if status.possible else left)
                if status.shown and self._told.get("state") == "running":
                    for event in self._happened(last):
                        last, progress = event.number, event.data if event.type == "progress" else progress
                status.tell(self._told, progress)
        return str(self._told.get("state"))

    def result(self) -> Any:
        """What came of it, once it has ended: of a graph what its body saved, by name; of a method its Result.

        Raises the error that ended the job, of the class it had there, or ServiceError where it was cancelled or its result is kept no more.
        """
        self.wait()
        problem = self._told.get("problem")
        if self._told.get("state") != "done":
            fields = {"asked": "The result of a job.", "found": f"it is {self._told.get('state')}", "works": "a new job"}
            raise raised(problem if isinstance(problem, Mapping) else fields)
        blob = self._fetched()
        if self._told.get("kind") == "method":
            return Result.from_bytes(blob)
        return wire.unpacked(blob, _LARGEST).get("saved", {})

    def cancel(self) -> None:
        """End it; one that has ended stays as it is."""
        self._told = self._connection.json("DELETE", self._path)

    def events(self, after: int = 0) -> Iterator[Event]:
        """What happens to it, from the event after that number on, until it has ended."""
        return self._connection.events(self.id, after)

    def __repr__(self) -> str:
        return f"<RemoteJob {self.id}: {self._told.get('method') or 'a graph'} on {self._told.get('model')}, {self._told.get('state')}>"

    def _ask(self, wait: float) -> None:
        self._told = self._connection.json("GET", self._path, params={"wait": round(wait, 3)}, wait=wait)

    def _happened(self, after: int) -> list[Event]:
        headers = {"Accept": "application/json", "Last-Event-ID": str(after)}
        events = self._connection.json("GET", f"{self._path}/events", headers=headers).get("events", [])
        return [Event(one["number"], one["type"], one["time"], one["data"]) for one in events]

    def _fetched(self) -> bytes:
        result = self._told.get("result")
        wanted = result.get("hash") if isinstance(result, Mapping) else None
        for _ in range(_TRIES):
            blob = self._connection.ask("GET", f"{self._path}/result").content
            if hashlib.sha256(blob).hexdigest() == wanted:
                return bytes(blob)
        raise ServiceError(f"Fetch the result of job {self.id}.", "other bytes than the server keeps", "to fetch it again, or run it again")


def submitted(connection: Connection, work: Work, wait: float = 0.0) -> RemoteJob:
    """A work as a job: one, however often it has to be sent until the server's answer arrives.

    wait: seconds that the server may keep the answer back for the job to end. Raises what it says of a work that cannot be done, and BusyError.
    """
    key = {"Idempotency-Key": uuid.uuid4().hex}
    if work.kind == "method":
        body, kind = json.dumps(_call(work)).encode(), "application/json"
    else:
        body, kind = work.to_bytes(), "application/vnd.cutaway.work"
    params = {"wait": round(wait, 3)}
    told = connection.json("POST", "/v1/jobs", params=params, content=body, headers={"Content-Type": kind, **key}, wait=wait)
    for text in told.get("warnings") or ():
        warnings.warn(str(text)[:1_000], stacklevel=4)
    return RemoteJob(connection, told)


def finished(job: RemoteJob) -> Any:
    """The result of a job that somebody waits for: who interrupts the waiting ends the job."""
    try:
        return job.result()
    except KeyboardInterrupt:
        job.cancel()
        raise


def _call(work: Work) -> dict[str, Any]:
    fields = {"kind": "method", "model": work.model, "method": work.method, "task": work.task}
    return {**fields, "arguments": dict(work.arguments), "seed": work.seed}
