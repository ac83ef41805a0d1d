"""Carries the messages of a streamed body to the server, where its forward is parked."""

from __future__ import annotations

import contextlib
import json
from typing import final

from cutaway.errors import CutawayError, StreamError, UnknownNameError
from cutaway.remote.connection import Connection, quoted

_LONG = 600.0
"""Seconds that a model may take to be opened, and a message to be answered."""


@final
class Session:
    """A transport (`engine.streaming`) to a model of a server. It is opened with the first message; no message is sent twice."""

    def __init__(self, connection: Connection, model: str) -> None:
        self._connection, self._model = connection, model
        self._path = ""

    def send(self, message: bytes) -> bytes:
        if not self._path:
            body = json.dumps({"model": self._model}).encode()
            opened = self._connection.json("POST", "/v1/sessions", content=body, headers={"Content-Type": "application/json"}, wait=_LONG)
            self._path = f"/v1/sessions/{quoted(str(opened.get('id', '')))}"
        headers = {"Content-Type": "application/octet-stream"}
        try:
            return bytes(self._connection.ask("POST", self._path, content=message, headers=headers, once=True, wait=_LONG).content)
        except UnknownNameError as error:
            found = "a forward that was let go: too long without a message, or the server began anew"
            raise StreamError("Go on with a stream.", found, "a new stream, with less time between its lines") from error

    def close(self) -> None:
        path, self._path = self._path, ""
        if path:
            with contextlib.suppress(CutawayError):  # it ends by itself
                self._connection.ask("DELETE", path)
