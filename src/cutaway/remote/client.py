"""The front door of the service: `cut.connect(url, key)`, then models that are opened and used like those that run here."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, final

import cutaway
from cutaway.engine import wire
from cutaway.engine.graph import VERSION
from cutaway.errors import ServiceError, UnknownNameError
from cutaway.models.weightless import weightless
from cutaway.remote.connection import PATIENCE, Connection, quoted
from cutaway.remote.job import RemoteJob
from cutaway.remote.model import RemoteModel

_LARGEST = 512 * 2**20
_GREETING = 5.0
"""Seconds for which the first request is tried again: an address that nobody listens at is told of soon."""


def connect(url: str, key: str | None = None, *, patience: float = PATIENCE) -> Remote:
    """Connect to a server: `remote = cut.connect("http://127.0.0.1:8000")`, then `lm = remote.open("induction_lm")`.

    key: "cut_...", if the server wants one; else that of the environment variable CUTAWAY_KEY. patience: seconds for which a request is tried again.
    Raises AccessError, InputError for what is no address, ServiceError where no server answers or it speaks another version.
    """
    given = key or os.environ.get("CUTAWAY_KEY") or None
    greeting = Connection(url, given, min(patience, _GREETING))
    try:
        told = greeting.json("GET", "/v1/capabilities")
    finally:
        greeting.close()
    spoken = told.get("wire")
    if not isinstance(spoken, list) or VERSION not in spoken:
        versions = ", ".join(map(str, spoken))[:80] if isinstance(spoken, list) else "none"
        there = f"Cutaway {str(told.get('version'))[:40]} there, which reads graphs of version {versions}"
        here = f"Cutaway {cutaway.__version__} here, which writes version {VERSION}"
        raise ServiceError(f"Connect to {greeting.url}.", f"{there}; {here}", "the same version of Cutaway on both sides")
    return Remote(Connection(url, given, patience))


@final
class Remote:
    """A server, for one user. `with cut.connect(url) as remote:` closes its connections at the end; without it they are closed with the program."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def open(self, name: str) -> RemoteModel:
        """A model of the server, by its name there. Its config and tokenizer travel, not its weights. Raises UnknownNameError, LayoutError."""
        blob = self._connection.ask("GET", f"/v1/models/{quoted(name)}/description").content
        return RemoteModel(self._connection, weightless(wire.unpacked(blob, _LARGEST)))

    def models(self) -> list[dict[str, Any]]:
        """The models there are, each with its state, how many jobs wait and run, and how long one would wait."""
        return list(self._connection.json("GET", "/v1/models")["models"])

    def methods(self) -> list[dict[str, Any]]:
        """The methods there are, each with the JSON Schema of its arguments."""
        return list(self._connection.json("GET", "/v1/methods")["methods"])

    def capabilities(self) -> dict[str, Any]:
        """What the server can do: its version, the operations that graphs may have, their limits."""
        return self._connection.json("GET", "/v1/capabilities")

    def limits(self) -> dict[str, Any]:
        """What this user may use, and what of it is left."""
        return self._connection.json("GET", "/v1/limits")

    def job(self, id: str) -> RemoteJob:
        """A job of this user by its id, whichever process began it. Raises UnknownNameError."""
        if not id.isascii() or not id.isalnum():  # it becomes a part of a path
            raise UnknownNameError("job", id[:80], ())
        return RemoteJob(self._connection, self._connection.json("GET", f"/v1/jobs/{id}"))

    def jobs(self, state: str | None = None, limit: int = 50, *, everybody: bool = False) -> list[RemoteJob]:
        """This user's jobs, newest first; of one state, if it is given. everybody: those of all users, for an administrator."""
        params = {"limit": limit, "all": everybody} | ({} if state is None else {"state": state})
        return [RemoteJob(self._connection, told) for told in self._connection.json("GET", "/v1/jobs", params=params)["jobs"]]

    def load(self, name: str) -> None:
        """Have the server open a model before anybody asks for it. Raises ScopeError for a key that is no administrator's."""
        self._connection.json("POST", f"/v1/models/{quoted(name)}/open")

    def unload(self, name: str) -> None:
        """Have the server let go of a model, after what runs on it. Raises ScopeError for a key that is no administrator's."""
        self._connection.json("POST", f"/v1/models/{quoted(name)}/close")

    def drain(self) -> None:
        """Have the server take nothing on any more, and end what runs. Raises ScopeError for a key that is no administrator's."""
        self._connection.json("POST", "/v1/drain")

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Remote {self._connection.url}>"
