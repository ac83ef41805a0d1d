"""Runs each model in an operating-system process of its own, which can be killed, and which may die without harm to the server or to other models.

A worker that dies is noticed at once: what it ran is lost, its streams end, and the next use of its model starts another. What it does not finish
in time after it was told to stop is stopped by killing it. A worker ends by itself when its server does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from typing import Any, final

from cutaway import errors
from cutaway.engine import wire
from cutaway.errors import CutawayError, ServiceError
from cutaway.remote.work import Work
from cutaway.service.outcomes import Outcome, cancelled, too_long
from cutaway.service.runners._channel import Channel
from cutaway.service.runners.base import OnEvent, Settings

_RAISED = ("WeightsError", "LayoutError", "ParityError", "ModelError", "InputError", "StreamError", "ServiceError")
"""Errors of a worker that are raised here as what they are; others as ServiceError."""
_GONE: dict[str, Any] = {"gone": True}


@final
class _Worker:
    """A process with one model, as the server sees it."""

    def __init__(self, model: str, settings: Settings) -> None:
        self.model = model
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "cutaway.service.runners._worker", str(theirs.fileno())]
        with theirs:  # a session of its own: Ctrl-C is the server's to handle
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True, stdin=subprocess.DEVNULL)
        self._channel, self._grace = Channel(ours), settings.grace
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._gone = False
        self.listeners: dict[str, OnEvent] = {}
        """Job -> who hears of it."""
        threading.Thread(target=self._read, name=f"worker {model}", daemon=True).start()
        self._send({"settings": dataclasses.asdict(settings)})

    @property
    def alive(self) -> bool:
        return not self._gone and self.process.poll() is None

    def ask(self, ask: str, **message: Any) -> Future[dict[str, Any]]:
        """Ask for something; the answer is `_GONE` where the process is, or dies before it."""
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            number = next(self._numbers)
            if self._gone:
                future.set_result(_GONE)
                return future
            self._waiting[number] = future
        self._send({"ask": ask, "number": number, **message})
        return future

    def tell(self, ask: str, **message: Any) -> None:
        """Ask for something that has no answer."""
        self._send({"ask": ask, **message})

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()

    def close(self) -> None:
        """Let the process end, and wait until it has."""
        self._channel.close()
        try:
            self.process.wait(self._grace)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _send(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it is gone: the reader finds out, and answers
            self._channel.send(message)

    def _read(self) -> None:
        try:
            for message in self._channel:
                if "event" in message:
                    listener = self.listeners.get(message["job"])
                    if listener is not None:
                        listener(message["job"], message["event"], message["data"])
                else:
                    self._waiting.pop(message["answer"]).set_result(message)
        finally:
            with self._lock:
                self._gone, waiting, self._waiting = True, self._waiting, {}
            self._channel.close()
            self.process.kill()
            self.process.wait()
            for future in waiting.values():
                future.set_result(_GONE)


@final
class Process:
    """A `Runner` whose models are each in a process of their own."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._workers: dict[str, _Worker] = {}
        self._bytes: dict[str, int] = {}
        self._starting: dict[str, threading.Lock] = {}
        self._turns: dict[str, threading.Lock] = {}
        self._running: dict[str, tuple[_Worker, frozenset[str]]] = {}
        self._cancelled: set[str] = set()
        self._streams: dict[str, _Worker] = {}
        self._lock = threading.Lock()

    def load(self, model: str) -> int:
        with self._lock:
            starting = self._starting.setdefault(model, threading.Lock())
        with starting:
            worker = self._workers.get(model)
            if worker is None or not worker.alive:
                worker = _Worker(model, self._settings)
                try:
                    self._bytes[model] = _raised(worker.ask("load", model=model).result(), f"Open {model}.")["bytes"]
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

    def pids(self) -> dict[str, int]:
        """Model -> the process it is in."""
        return {model: worker.process.pid for model, worker in list(self._workers.items())}

    def run(self, works: Mapping[str, Work], on_event: OnEvent) -> dict[str, Outcome]:
        models = {work.model for work in works.values()}
        if len(models) != 1:
            raise ServiceError("Run works together.", f"those of {len(models)} models", "works of one model")
        with self._turn(*models):
            worker = self._worker(*models)
            with self._lock:
                self._running |= dict.fromkeys(works, (worker, frozenset(works)))
                worker.listeners |= dict.fromkeys(works, on_event)
            try:
                return self._outcomes(worker, works)
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
        stream: str = _raised(worker.ask("open", model=model).result(), f"Open a stream on {model}.")["stream"]
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
        if answer is _GONE:
            return _parted("a forward whose process has ended")
        return bytes(_raised(answer, "Go on with a stream.")["message"])

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

    def _worker(self, model: str) -> _Worker:
        """The live worker of a model that is loaded; a new one where it has died."""
        if model not in self._bytes:
            raise ServiceError(f"Run on {model}.", "a model that is not open here", "load it first")
        self.load(model)
        return self._workers[model]

    def _outcomes(self, worker: _Worker, works: Mapping[str, Work]) -> dict[str, Outcome]:
        began, seconds = time.monotonic(), self._settings.seconds
        future = worker.ask("run", works={job: work.to_bytes() for job, work in works.items()})
        turns = len(works) + (len(works) > 1)  # together, then each alone
        late = False
        try:
            answer = future.result(None if seconds is None else seconds * turns + self._settings.grace)
        except TimeoutError:
            worker.kill()
            late, answer = len(works) == 1, future.result()
        if answer is not _GONE:
            return {job: Outcome(**told) for job, told in _raised(answer, f"Run on {worker.model}.")["done"].items()}
        share = (time.monotonic() - began) / len(works)
        return {job: Outcome(problem=self._why(job, late), seconds=share) for job in works}

    def _why(self, job: str, late: bool) -> dict[str, Any] | None:
        """Why a job's process was killed; None where it died of something else, or of another job."""
        if job in self._cancelled:
            return cancelled()
        return too_long(self._settings.seconds) if late and self._settings.seconds is not None else None

    def _kill_if_running(self, worker: _Worker, together: Collection[str]) -> None:
        with self._lock:
            running = any(self._running.get(job) == (worker, together) for job in together)
        if running:
            worker.kill()


def _raised(answer: dict[str, Any], asked: str) -> dict[str, Any]:
    """An answer that is no error. Raises what the worker raised, ServiceError where it died."""
    if answer is _GONE:
        raise ServiceError(asked, "a worker process that died", "to try again; the server's log may say why")
    if "error" in answer:
        kind: type[CutawayError] = getattr(errors, answer["error"]) if answer["error"] in _RAISED else ServiceError
        raise kind(*answer["parts"])
    return answer


def _parted(found: str) -> bytes:
    return wire.packed({"error": "StreamError", "parts": ["Go on with a stream.", found, "a new stream"]})
