"""Runs each model in an operating-system process of its own, which can be killed. A worker that dies is noticed at once; it ends by itself
when its server does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, final

from cutaway.service.runners._channel import Channel
from cutaway.service.runners._workers import GONE, Workers
from cutaway.service.runners.base import OnEvent, Settings


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
        """Ask for something; the answer is `GONE` where the process is, or dies before it."""
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            number = next(self._numbers)
            if self._gone:
                future.set_result(GONE)
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
                future.set_result(GONE)


@final
class Process(Workers[_Worker]):
    """A `Runner` whose models are each in a process of their own."""

    def pids(self) -> dict[str, int]:
        """Model -> the process it is in."""
        return {model: worker.process.pid for model, worker in list(self._workers.items())}

    def _start(self, model: str) -> _Worker:
        return _Worker(model, self._settings)
