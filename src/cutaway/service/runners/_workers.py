"""A runner whose models are each with a worker outside this process, which may die without harm to the server or to other models.

What a worker ran when it died is lost, its streams end, and the next use of its model has another. What it does not finish in time after it was
told to stop is stopped by killing it.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar

from cutaway import errors
from cutaway.engine import wire
from cutaway.errors import CutawayError, ServiceError
from cutaway.remote.work import Work
from cutaway.service.outcomes import Outcome, cancelled, too_long
from cutaway.service.runners.base import OnEvent, Settings

_RAISED = ("WeightsError", "LayoutError", "ParityError", "ModelError", "InputError", "StreamError", "ServiceError")
"""Errors of a worker that are raised here as what they are; others as ServiceError."""
GONE: dict[str, Any] = {"gone": True}
"""The answer of a worker that is dead, or dies before it answers."""


class Worker(Protocol):
    """Something with one model that answers questions (`_answers`). Every method may be called from any thread."""

    model: str
    listeners: dict[str, OnEvent]
    """Job -> who hears of it."""

    @property
    def alive(self) -> bool:
        """Whether questions may be asked; a worker that is replaced by itself is always alive."""

    def ask(self, ask: str, **question: Any) -> Future[dict[str, Any]]:
        """Ask for something; the answer may be `GONE`."""

    def tell(self, ask: str, **question: Any) -> None:
        """Ask for something whose answer nobody waits for."""

    def kill(self) -> None:
        """End it at once."""

    def close(self) -> None:
        """Let it end, and wait until it has."""


W = TypeVar("W", bound=Worker)


class Workers(ABC, Generic[W]):
    """A `Runner` over workers; what starts one is left to the classes below."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._workers: dict[str, W] = {}
        self._bytes: dict[str, int] = {}
        self._starting: dict[str, threading.Lock] = {}
        self._turns: dict[str, threading.Lock] = {}
        self._running: dict[str, tuple[W, frozenset[str]]] = {}
        self._cancelled: set[str] = set()
        self._streams: dict[str, W] = {}
        self._lock = threading.Lock()

    @abstractmethod
    def _start(self, model: str) -> W:
        """A new worker for a model, which it will be asked to load."""

    def load(self, model: str) -> int:
        with self._lock:
            starting = self._starting.setdefault(model, threading.Lock())
        with starting:
            worker = self._workers.get(model)
            if worker is None or not worker.alive:
                worker = self._start(model)
                try:
                    self._bytes[model] = raised(worker.ask("load", model=model).result(), f"Open {model}.")["bytes"]
                except BaseException:
                    worker.close()
                    raise
                self._workers[model] = worker
            return self._bytes[model]

    def unload(self, model: str) -> None:
        with self._turn(model):
            worker = self._workers.pop(model, None)
            self._bytes.pop(model, None)
        if worker is not None:
            worker.close()

    def loaded(self) -> dict[str, int]:
        return dict(self._bytes)

    def run(self, works: Mapping[str, Work], on_event: OnEvent, rehearsed: bool = False) -> dict[str, Outcome]:
        models = {work.model for work in works.values()}
        if len(models) != 1:
            raise ServiceError("Run works together.", f"those of {len(models)} models", "works of one model")
        with self._turn(*models):
            worker = self._worker(*models)
            with self._lock:
                self._running |= dict.fromkeys(works, (worker, frozenset(works)))
                worker.listeners |= dict.fromkeys(works, on_event)
            try:
                return self._outcomes(worker, works, rehearsed)
            finally:
                with self._lock:
                    for job in works:
                        self._running.pop(job, None)
                        worker.listeners.pop(job, None)
                        self._cancelled.discard(job)

    def cancel(self, job: str) -> None:
        with self._lock:
            if job not in self._running:
                return
            worker, together = self._running[job]
            self._cancelled.add(job)
            all_of_them = together <= self._cancelled
        worker.tell("cancel", job=job)
        if all_of_them:
            timer = threading.Timer(self._settings.grace, self._kill_if_running, [worker, together])
            timer.daemon = True
            timer.start()

    def open_stream(self, model: str) -> str:
        worker = self._worker(model)
        stream: str = raised(worker.ask("open", model=model).result(), f"Open a stream on {model}.")["stream"]
        with self._lock:
            self._streams = {id: one for id, one in self._streams.items() if one.alive}
            self._streams[stream] = worker
        return stream

    def send(self, stream: str, message: bytes) -> bytes:
        worker = self._streams.get(stream)
        if worker is None:
            return _parted("one that is not open, or was let go")
        limit = None if self._settings.seconds is None else self._settings.seconds + self._settings.grace
        future = worker.ask("send", stream=stream, message=message)
        try:
            answer = future.result(limit)
        except TimeoutError:
            worker.kill()
            answer = future.result()
        if answer is GONE:
            return _parted("a forward whose process has ended")
        return bytes(raised(answer, "Go on with a stream.")["message"])

    def close_stream(self, stream: str) -> None:
        with self._lock:
            worker = self._streams.pop(stream, None)
        if worker is not None:
            worker.ask("close", stream=stream).result()

    def close(self) -> None:
        for model in list(self._workers):
            worker = self._workers.pop(model)
            self._bytes.pop(model, None)
            worker.close()

    def _turn(self, model: str) -> threading.Lock:
        with self._lock:
            return self._turns.setdefault(model, threading.Lock())

    def _worker(self, model: str) -> W:
        """The live worker of a model that is loaded; a new one where it has died."""
        if model not in self._bytes:
            raise ServiceError(f"Run on {model}.", "a model that is not open here", "load it first")
        self.load(model)
        return self._workers[model]

    def _outcomes(self, worker: W, works: Mapping[str, Work], rehearsed: bool) -> dict[str, Outcome]:
        began, seconds = time.monotonic(), self._settings.seconds
        future = worker.ask("run", works={job: work.to_bytes() for job, work in works.items()}, rehearsed=rehearsed)
        turns = len(works) + (len(works) > 1)  # together, then each alone
        late = False
        try:
            answer = future.result(None if seconds is None else seconds * turns + self._settings.grace)
        except TimeoutError:
            worker.kill()
            late, answer = len(works) == 1, future.result()
        if answer is not GONE:
            return {job: Outcome(**told) for job, told in raised(answer, f"Run on {worker.model}.")["done"].items()}
        share = (time.monotonic() - began) / len(works)
        return {job: Outcome(problem=self._why(job, late), seconds=share) for job in works}

    def _why(self, job: str, late: bool) -> dict[str, Any] | None:
        """Why a job's process was killed; None where it died of something else, or of another job."""
        if job in self._cancelled:
            return cancelled()
        return too_long(self._settings.seconds) if late and self._settings.seconds is not None else None

    def _kill_if_running(self, worker: W, together: Collection[str]) -> None:
        with self._lock:
            running = any(self._running.get(job) == (worker, together) for job in together)
        if running:
            worker.kill()


def raised(answer: dict[str, Any], asked: str) -> dict[str, Any]:
    """An answer that is no error. Raises what the worker raised, ServiceError where it died."""
    if answer is GONE:
        raise ServiceError(asked, "a worker process that died", "to try again; the server's log may say why")
    if "error" in answer:
        kind: type[CutawayError] = getattr(errors, answer["error"]) if answer["error"] in _RAISED else ServiceError
        raise kind(*answer["parts"])
    return answer


def _parted(found: str) -> bytes:
    return wire.packed({"error": "StreamError", "parts": ["Go on with a stream.", found, "a new stream"]})
