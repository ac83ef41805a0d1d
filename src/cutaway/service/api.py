"""The server over HTTP: who is calling, what is refused before it is read, and how errors are told. The routes are in `routes`."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from typing import Any, final

import anyio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import cutaway
from cutaway.errors import (
    AccessError,
    BusyError,
    ConflictError,
    CutawayError,
    EngineError,
    InputError,
    ScopeError,
    ServiceError,
    StorageError,
    UnknownNameError,
)
from cutaway.remote.problem import problem
from cutaway.remote.work import MiB
from cutaway.service.keys import Keys, redacted
from cutaway.service.measured import BODY
from cutaway.service.outcomes import told
from cutaway.service.routes import PROBLEM, router
from cutaway.service.server import Server
from cutaway.service.telemetry import REQUEST

_LOG = logging.getLogger("cutaway.service")
_STATUS: tuple[tuple[type[CutawayError], int], ...] = (
    (ScopeError, 403),
    (AccessError, 401),
    (ConflictError, 422),
    (BusyError, 429),
    (UnknownNameError, 404),
    (InputError, 422),
    (EngineError, 422),
    (StorageError, 503),
    (ServiceError, 503),
)
JSON = 4 * MiB
"""Bytes that a body of JSON may have."""
PATIENCE = 300.0
"""Seconds in which a body has to be there."""
_LOOK = 1.0
"""Seconds after which an open server looks again whether a key was issued, unless one is shown to it."""
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def app(server: Server, keys: Keys | None = None, *, open: bool = False) -> FastAPI:
    """The API of a server. keys: whose callers may use it; open: or everybody, until the first key is issued. Without keys it is open for good.

    While it is open, all callers share one user, and none is an administrator; and it answers only to a loopback name, so that no page in a browser
    on the machine can reach it through a name of its own.
    """
    about: dict[str, Any] = {"title": "Cutaway", "version": cutaway.__version__, "docs_url": None, "redoc_url": None}
    api = _Api(**about, openapi_url="/v1/openapi.json", redirect_slashes=False)
    api.state.server, api.state.keys = server, keys
    api.include_router(router)
    api.add_exception_handler(CutawayError, _refused)  # type: ignore[arg-type]  # of starlette: handlers take any Exception
    api.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type]
    api.add_exception_handler(HTTPException, _http)  # type: ignore[arg-type]
    api.add_middleware(Doorway, server=server, keys=keys, open=open or keys is None)
    return api


@final
class _Api(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """The document of the API, in which errors have the one type that they have."""
        document = super().openapi()
        answers = [answer for path in document["paths"].values() for verb in path.values() for answer in verb["responses"].values()]
        for content in (answer["content"] for answer in answers if PROBLEM in answer.get("content", {})):
            content[PROBLEM] = content.pop("application/json", content[PROBLEM])
        return document


@final
class Doorway:
    """What every request passes: an id, a bound on its body, its time measured, and no error that shows the inside of the server.

    It leaves in the scope, under "open", whether whoever comes may do so without a key.
    """

    def __init__(self, app: ASGIApp, server: Server, keys: Keys | None, open: bool) -> None:
        self._app, self._server, self._keys, self._open, self._looked = app, server, keys, open, float("-inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        number, began, status, sent = uuid.uuid4().hex, time.monotonic(), [500], [False]
        token = REQUEST.set(number)
        headers = {name.lower(): value for name, value in scope["headers"]}

        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0], sent[0] = message["status"], True
                message["headers"] = [*message["headers"], (b"x-request-id", number.encode()), (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            scope["open"] = await self._still_open(b"authorization" in headers)
            refused = self._refusal(headers)
            if refused is not None:
                await refused(scope, receive, reply)
            else:
                await self._app(scope, _bounded(receive, _most(headers)), reply)
        except Exception as error:
            if sent[0]:
                raise
            await _told(told(error, "(none)"), 500)(scope, receive, reply)
        finally:
            route = getattr(scope.get("route"), "path", "")
            seconds = time.monotonic() - began
            self._server.telemetry.request(route, status[0], seconds)
            _LOG.debug("%s %s %d", scope["method"], redacted(scope["path"]), status[0], extra={"data": {"seconds": seconds}})
            REQUEST.reset(token)

    async def _still_open(self, now: bool) -> bool:
        if self._open and self._keys is not None and (now or time.monotonic() - self._looked > _LOOK):
            self._looked = time.monotonic()
            with contextlib.suppress(StorageError):
                self._open = not await run_in_threadpool(self._keys.issued)
        return self._open

    def _refusal(self, headers: dict[bytes, bytes]) -> JSONResponse | None:
        host = headers.get(b"host", b"").decode("latin-1")
        if self._open and host.rpartition(":")[0] not in _LOOPBACK and host not in _LOOPBACK:
            return _plain(421, "access-error", "Reach a server without keys.", f"the name {host[:80]!r}", " or ".join(_LOOPBACK))
        most, length = _most(headers), headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > most:
            return _plain(413, "too-large", "Send a body.", f"{int(length):,} bytes", f"at most {most:,}")
        encoding = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
        if encoding not in ("", "identity"):  # nothing is unpacked here, so that little cannot become much
            return _plain(415, "input-error", "Send a body.", f"the encoding {encoding[:80]!r}", "a body as it is")
        return None


def _most(headers: dict[bytes, bytes]) -> int:
    return BODY if headers.get(b"content-type", b"").startswith((b"application/vnd.", b"application/octet-stream")) else JSON


def _bounded(receive: Receive, most: int) -> Receive:
    """A body of which no more is read than may be, for no longer than may be, whatever its headers say."""
    total, whole, until = 0, False, anyio.current_time() + PATIENCE

    async def bounded() -> Message:
        nonlocal total, whole
        if whole:
            return await receive()
        try:
            with anyio.fail_after(max(until - anyio.current_time(), 0.0)):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"a body that is not there after {PATIENCE:g} seconds") from None
        total, whole = total + len(message.get("body", b"")), not message.get("more_body", False)
        if total > most:
            raise HTTPException(413, f"more than {most:,} bytes")
        return message

    return bounded


async def _refused(request: Request, error: CutawayError) -> JSONResponse:
    server: Server = request.app.state.server
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    if status in (500, 503):  # its text is of the server's own folders and processes
        number = uuid.uuid4().hex
        _LOG.error("error %s", number, exc_info=error)
        kind = "storage" if isinstance(error, StorageError) else "unavailable" if status == 503 else "internal"
        works = f"to try again; the server's log has more under {number}"
        headers = {"Retry-After": "2"} if status == 503 else {}
        return _plain(status, kind, "Answer a request.", "a part of the server that fails", works, headers, number)
    headers = {}
    if isinstance(error, BusyError):
        status = 503 if server.draining else 429
        headers = {"Retry-After": str(max(1, round(error.retry_after)))}
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    return _told(problem(error), status, headers)


async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3])
    return _plain(422, "input-error", "Read a request.", wrong[:300], "what /v1/openapi.json says")


async def _http(request: Request, error: HTTPException) -> JSONResponse:
    kinds = {404: "unknown-name-error", 413: "too-large"}
    works = "a path and a verb that /v1/openapi.json lists" if error.status_code in (404, 405) else "what /v1/openapi.json says"
    headers = dict(error.headers or {})
    return _plain(error.status_code, kinds.get(error.status_code, "input-error"), "Answer a request.", str(error.detail), works, headers)


def _plain(
    status: int, kind: str, asked: str, found: str, works: str, headers: dict[str, str] | None = None, number: str = ""
) -> JSONResponse:
    fields = {"type": kind, "title": asked, "detail": f"{asked} {found}", "asked": asked, "found": found, "works": works, "line": ""}
    return _told(fields | {"id": number}, status, headers)


def _told(fields: dict[str, Any], status: int, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(fields | {"status": status}, status, headers, media_type=PROBLEM)
