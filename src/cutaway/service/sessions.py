"""Streamed sessions of users: a body at home, its forward parked here (`engine.streaming`). They live as long as this server does."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import final

from cutaway.errors import BusyError, ServiceError, UnknownNameError
from cutaway.service.dispatch import Dispatcher, leaving
from cutaway.service.quota import Balances
from cutaway.service.runners.base import Runner

PER_USER = 2
"""Sessions that a user may have open."""


@final
@dataclass
class _Session:
    user: str
    model: str
    stream: str
    used: float = field(default_factory=time.monotonic)
    busy: bool = False


@final
class Sessions:
    """Who has which stream open. park: seconds after the last message at which a session has ended; it is the runner that lets its forward go."""

    def __init__(self, runner: Runner, dispatcher: Dispatcher, balances: Balances, park: float, load: float = 600.0) -> None:
        self._runner, self._dispatcher, self._balances, self.park, self._load = runner, dispatcher, balances, park, load
        self._open: dict[str, _Session] = {}
        self._opening: list[tuple[str, str]] = []
        self._over: list[str] = []
        self._lock = threading.RLock()
        dispatcher.kept = self.models

    def models(self) -> frozenset[str]:
        """Models that have a session, or are about to."""
        with self._lock:
            return frozenset([*(one.model for one in self._alive().values()), *(model for _, model in self._opening)])

    def open(self, user: str, model: str) -> str:
        """Begin a session, once its model is open; returns its id. Raises BusyError, ServiceError, and what opening the model raises."""
        if self._dispatcher.draining:
            raise leaving("Open a session.")
        with self._lock:
            if sum(one.user == user for one in self._alive().values()) + sum(one == user for one, _ in self._opening) >= PER_USER:
                raise BusyError("Open a session.", f"{PER_USER} that are open", "to end one first", retry_after=5)
            self._opening.append((user, model))
            over, self._over = self._over, []
        try:
            for stream in over:
                self._runner.close_stream(stream)
            wanted: Future[None] = self._dispatcher.want(user, model)
            try:
                wanted.result(self._load)
            except TimeoutError as error:
                wanted.cancel()
                raise ServiceError("Open a session.", f"a model that is not open after {self._load:g} seconds", "to try later") from error
            id = self._runner.open_stream(model)
            with self._lock:
                self._open[id] = _Session(user, model, id)
            return id
        finally:
            with self._lock:
                self._opening.remove((user, model))
            self._dispatcher.wake()

    def send(self, user: str, id: str, message: bytes) -> bytes:
        """A message, and its answer; an error of the body is an answer.

        Raises UnknownNameError where the user has no such session, BusyError while another message of it has no answer.
        """
        with self._lock:
            session = self._of(user, id)
            if session.busy:
                raise BusyError("Send a message.", "another of this session that has no answer yet", "one message at a time")
            session.busy = True
        began = time.monotonic()
        try:
            return self._runner.send(session.stream, message)
        finally:
            session.used, session.busy = time.monotonic(), False
            self._balances.charge(user, session.used - began)

    def close(self, user: str, id: str) -> None:
        """End a session. Raises UnknownNameError where the user has none of that id."""
        with self._lock:
            session = self._of(user, id)
            del self._open[id]
        self._runner.close_stream(session.stream)
        self._dispatcher.wake()

    def _of(self, user: str, id: str) -> _Session:
        session = self._alive().get(id)
        if session is None or session.user != user:
            raise UnknownNameError("session", id[:40], [i for i, one in self._alive().items() if one.user == user])
        return session

    def _alive(self) -> dict[str, _Session]:
        until = time.monotonic() - self.park
        with self._lock:
            self._over += [one.stream for one in self._open.values() if not one.busy and one.used <= until]
            self._open = {id: one for id, one in self._open.items() if one.busy or one.used > until}
            return dict(self._open)
