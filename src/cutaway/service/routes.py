"""The routes of the API. Each says what it does; errors and bounds are the same for all, and stand in `api`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Annotated, Any, TypeVar, get_args

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import APIRouter, Depends, Header, Query, Request, Response, Security
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.sse import format_sse_event
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

import cutaway
from cutaway.engine.graph import VERSION, strict_json
from cutaway.engine.operations import TABLE
from cutaway.errors import AccessError, BusyError, InputError
from cutaway.remote.work import Work
from cutaway.service import schemas
from cutaway.service import server as core
from cutaway.service.jobs import FINAL, Job, State
from cutaway.service.keys import Key, Keys
from cutaway.service.measured import BODY, LARGEST
from cutaway.service.server import Server
from cutaway.service.sessions import PER_USER
from cutaway.service.telemetry import CONTENT_TYPE

_T = TypeVar("_T")
_Body = TypeVar("_Body", bound=BaseModel)
PROBLEM = "application/problem+json"
WORK, RESULT, BYTES = "application/vnd.cutaway.work", "application/vnd.safetensors", "application/octet-stream"
_SMALL = 2**20
"""Bytes of a result that is sent at once, and not read in parts, each of which costs a turn of a thread."""
_PING = 15.0
_BODIES, _ADMISSIONS, _THREADS = 8, 4, 256
"""At once: bodies of a user that are read, works of a user that are admitted; threads of all users for admissions, and as many for sessions. More
wait their turn, where they hold no thread and no memory."""
_NOBODY = Key("", "local", frozenset({"run"}), 0.0)
_bearer = HTTPBearer(auto_error=False, description="A key of this server: cut_, 16 digits, _, 64 digits.")


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": schemas.Problem, "content": {PROBLEM: {}}} for status in statuses}


_KEYED = _problems(401, 403, 422, 503)
_NAMED = _KEYED | _problems(404)
_WAITED = _NAMED | _problems(429)
_SENT = _WAITED | _problems(408, 413, 415)
router = APIRouter(responses=_problems(421, 500))
_EVENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "event": {"enum": list(get_args(schemas.Event.model_fields["type"].annotation))},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["id", "event", "data"],
}
"""A server-sent event; its data has `time` besides what `schemas.Event` says of it."""
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


async def caller(request: Request, credentials: Credentials) -> Key:
    """Whose request this is, which has no parameters but those of its route. Raises AccessError, InputError."""
    keys: Keys | None = None if request.scope["open"] else request.app.state.keys
    if keys is not None and credentials is None:
        raise AccessError("Use this server.", "no key", "Authorization: Bearer cut_...")
    found = _NOBODY if keys is None or credentials is None else await run_in_threadpool(keys.check, credentials.credentials)
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    if not request.query_params.keys() <= known:
        raise InputError("Read the parameters of a request.", "one that is not known", ", ".join(sorted(known)) or "none")
    return found


async def runner(key: Annotated[Key, Depends(caller)]) -> str:
    """The user, whose key is one to run with. Raises AccessError, ScopeError."""
    key.require("run")
    return key.user


async def admin(key: Annotated[Key, Depends(caller)]) -> str:
    """The administrator. Raises AccessError, ScopeError."""
    key.require("admin")
    return key.user


async def serving(request: Request) -> Server:
    """The server behind the API."""
    found: Server = request.app.state.server
    return found


User = Annotated[str, Depends(runner)]
Admin = Annotated[str, Depends(admin)]
Serving = Annotated[Server, Depends(serving)]
Wait = Annotated[float, Query(ge=0, le=60, description="seconds to wait for the job to end")]


# Jobs


@router.post(
    "/v1/jobs",
    status_code=202,
    response_model=schemas.Job,
    responses=_SENT | {200: {"model": schemas.Job, "description": "The job has ended."}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schemas.MethodCall.model_json_schema()},
                WORK: {"schema": {"type": "string", "format": "binary", "description": "Work.to_bytes(): a graph with its inputs"}},
            },
        }
    },
)
async def submit(
    request: Request,
    response: Response,
    server: Serving,
    user: User,
    wait: Wait = 0.0,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> schemas.Job:
    """Take a graph or a call of a method on. The same body under the same Idempotency-Key is the same job."""
    if wait:
        server.refuse_listener(user)
    body, kind = await _body(request, user, "application/json", WORK)
    async with _limiter(asyncio.get_running_loop(), f"admission of {user}", _ADMISSIONS):
        job = await _aside("admissions", lambda: server.submit(user, _read(body, kind), idempotency_key))
    warnings = server.dispatcher.warnings(job)
    standing = await _settled(server, job, user, wait)
    response.status_code = 200 if standing.state in FINAL else 202
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return standing.model_copy(update={"warnings": warnings})


async def _body(request: Request, user: str, *kinds: str) -> tuple[bytes, str]:
    """The body of a request, of one of these types, and its type. Raises HTTPException."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in kinds:
        raise HTTPException(415, f"a body of type {kind[:80] or '(none)'}: {' or '.join(kinds)}")
    async with _limiter(asyncio.get_running_loop(), f"bodies of {user}", _BODIES):
        return await request.body(), kind


def _read(body: bytes, kind: str) -> Work:
    return Work.from_bytes(body) if kind == WORK else Work(**_json(body, schemas.MethodCall).model_dump())


def _json(body: bytes, kind: type[_Body]) -> _Body:
    """A body of JSON. Raises InputError."""
    try:
        return kind.model_validate(strict_json(body))
    except InputError:
        raise
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3])
    except (ValueError, RecursionError) as error:
        wrong = f"no JSON ({str(error)[:80]})"
    raise InputError("Read a body.", wrong[:300], "the fields that /v1/openapi.json lists")


@router.get("/v1/jobs", responses=_NAMED)
def jobs(
    server: Serving,
    key: Annotated[Key, Depends(caller)],
    state: Annotated[State | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[str | None, Query(max_length=40)] = None,
    all: bool = False,
) -> schemas.Jobs:
    """Jobs, newest first. all: those of every user, for an administrator."""
    key.require("admin" if all else "run")
    found = server.jobs.find(None if all else key.user, () if state is None else (state,), limit, before)
    return schemas.Jobs(jobs=[schemas.Job.of(server.standing(job)) for job in found])


@router.get("/v1/jobs/{id}", responses=_WAITED)
async def job(id: str, server: Serving, user: User, wait: Wait = 0.0) -> schemas.Job:
    """Where a job stands."""
    if wait:
        server.refuse_listener(user)
    return await _settled(server, await run_in_threadpool(server.jobs.get, id, user), user, wait)


@router.delete("/v1/jobs/{id}", responses=_NAMED)
def cancel(id: str, server: Serving, user: User) -> schemas.Job:
    """End a job that has not ended; one that has stays as it is."""
    return schemas.Job.of(server.standing(server.cancel(id, user)))


@router.get(
    "/v1/jobs/{id}/result",
    response_class=FileResponse,
    responses=_NAMED
    | _problems(409, 410)
    | {200: {"content": {RESULT: {"schema": {"type": "string", "format": "binary"}}}, "description": "The result."}},
)
def result(id: str, server: Serving, user: User) -> Response:
    """The result of a job that is done: of a graph what it saved, of a method its result, as safetensors with JSON in its header."""
    found = server.jobs.get(id, user)
    if found.state not in (State.DONE, State.EXPIRED):
        raise HTTPException(409, f"a job that is {found.state}, and has no result")
    path = server.result(found)
    if path is None:
        raise HTTPException(410, "a result that is kept no more: run it again")
    size, headers = path.stat().st_size, {"ETag": f'"{found.result}"'}
    server.telemetry.sent(size)
    if size <= _SMALL:
        return Response(path.read_bytes(), media_type=RESULT, headers=headers)
    return FileResponse(path, media_type=RESULT, headers=headers)


@router.get(
    "/v1/jobs/{id}/events",
    response_model=schemas.Events,
    responses=_WAITED
    | {200: {"content": {"text/event-stream": {"itemSchema": _EVENT}}, "description": "Events, until the job has ended."}},
)
async def events(
    id: str,
    server: Serving,
    user: User,
    accept: Annotated[str, Header()] = "",
    last_event_id: Annotated[str, Header(max_length=20)] = "0",
) -> Any:
    """What happened to a job, as server-sent events that go on after Last-Event-ID; with `Accept: application/json` what there is now."""
    after = int(last_event_id) if last_event_id.isascii() and last_event_id.isdigit() else 0
    after = min(after, 2**31)
    found = await run_in_threadpool(server.jobs.events, id, user, after)
    if accept.startswith("application/json"):
        return schemas.Events(events=[schemas.Event.of(event) for event in found])
    server.refuse_listener(user)
    return StreamingResponse(_stream(server, id, user, after), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _stream(server: Server, id: str, user: str, after: int) -> AsyncIterator[bytes]:
    with contextlib.suppress(BusyError), _Ear(server, id, user) as ear:  # busy: many came in the same moment
        pinged = time.monotonic()
        while True:
            for event in await run_in_threadpool(server.jobs.events, id, user, after):
                after = event.number
                data = json.dumps({"time": event.time, **event.data})
                yield format_sse_event(data_str=data, event=event.type, id=str(event.number))
                if event.type == "state" and event.data["state"] in FINAL:
                    return
            if time.monotonic() - pinged > _PING:
                pinged = time.monotonic()
                yield b": still here\n\n"
            await ear.wait(server.poll)


class _Ear:
    """Hears what happens to a job."""

    def __init__(self, server: Server, job: str, user: str) -> None:
        self._heard, self._loop = asyncio.Event(), asyncio.get_running_loop()
        self._listening = server.listening(job, user, self._hear)

    def _hear(self) -> None:
        self._loop.call_soon_threadsafe(self._heard.set)

    def __enter__(self) -> _Ear:
        self._listening.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._listening.__exit__(None, None, None)

    async def wait(self, seconds: float) -> None:
        """Until something has happened since the last wait, or for so long."""
        try:
            await asyncio.wait_for(self._heard.wait(), seconds)
        except TimeoutError:
            pass
        self._heard.clear()


async def _settled(server: Server, job: Job, user: str, seconds: float) -> schemas.Job:
    """A job, once it has ended or the time is over."""
    until = time.monotonic() + seconds

    def told() -> schemas.Job | None:
        found = server.jobs.get(job.id, user)
        over = found.state in FINAL or time.monotonic() >= until
        return schemas.Job.of(server.standing(found)) if over else None

    if seconds and job.state not in FINAL:
        with contextlib.suppress(BusyError), _Ear(server, job.id, user) as ear:
            while (answer := await run_in_threadpool(told)) is None:
                await ear.wait(min(max(until - time.monotonic(), 0.0), server.poll))
            return answer
    return await run_in_threadpool(lambda: schemas.Job.of(server.standing(job)))


# Sessions


@router.post(
    "/v1/sessions",
    status_code=201,
    responses=_SENT,
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": schemas.OpenSession.model_json_schema()}}}},
)
async def open_session(request: Request, server: Serving, user: User) -> schemas.Session:
    """Begin a session on a model, once that is open."""
    body, _ = await _body(request, user, "application/json")
    model = _json(body, schemas.OpenSession).model
    _ = server.catalogue[model]
    id = await _aside("sessions", server.sessions.open, user, model)
    return schemas.Session(id=id, model=model, park=server.sessions.park)


@router.post(
    "/v1/sessions/{id}",
    response_class=Response,
    responses=_SENT | {200: {"content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}, "description": "The answer."}},
    openapi_extra={"requestBody": {"required": True, "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}},
)
async def send(id: str, request: Request, server: Serving, user: User) -> Response:
    """A message of a session, and its answer; an error of the body is an answer too."""
    body, _ = await _body(request, user, BYTES)
    return Response(await _aside("sessions", server.sessions.send, user, id, body), media_type=BYTES)


@router.delete("/v1/sessions/{id}", status_code=204, responses=_NAMED)
async def close_session(id: str, server: Serving, user: User) -> None:
    """End a session; its forward is let go."""
    await _aside("sessions", server.sessions.close, user, id)


@cache
def _limiter(loop: asyncio.AbstractEventLoop, what: str, most: int) -> CapacityLimiter:
    return CapacityLimiter(most)


async def _aside(what: str, function: Callable[..., _T], *args: Any) -> _T:
    """In a thread that nothing else waits for: a session's forward, or an admission, may take its time."""
    limiter = _limiter(asyncio.get_running_loop(), what, _THREADS)
    return await anyio.to_thread.run_sync(lambda: function(*args), limiter=limiter)


# What there is


@router.get("/v1/models", responses=_KEYED)
def models(server: Serving, user: User) -> schemas.Models:
    """The models of this server, and how long they would take."""
    return schemas.Models(models=[schemas.Model.of(model) for model in server.models()])


@router.get(
    "/v1/models/{name:path}/description",
    response_class=Response,
    responses=_NAMED | {200: {"content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}, "description": "The description."}},
)
def description(name: str, server: Serving, user: User) -> Response:
    """What a client needs to know of a model to open it without weights: its config and tokenizer, as a message of `engine.wire`."""
    offer = server.catalogue[name]
    return Response(offer.description, media_type=BYTES, headers={"ETag": f'"{offer.revision}"'})


@router.post("/v1/models/{name:path}/open", status_code=202, responses=_NAMED)
def open_model(name: str, server: Serving, user: Admin) -> schemas.Model:
    """Open a model before anybody asks for it."""
    _ = server.catalogue[name]
    server.dispatcher.want(user, name)
    return _model(server, name)


@router.post("/v1/models/{name:path}/close", responses=_NAMED)
def close_model(name: str, server: Serving, user: Admin) -> schemas.Model:
    """Let go of a model, after what runs on it; its jobs stay queued, and open it again."""
    _ = server.catalogue[name]
    server.runner.unload(name)
    return _model(server, name)


def _model(server: Server, name: str) -> schemas.Model:
    return next(schemas.Model.of(model) for model in server.models() if model.name == name)


@cache
def _methods() -> schemas.Methods:
    return schemas.Methods(methods=[schemas.Method(**method) for method in core.methods()])


@router.get("/v1/methods", responses=_KEYED)
def methods(user: User) -> schemas.Methods:
    """The methods of this server, with the JSON Schema of their arguments."""
    return _methods()


@router.get("/v1/capabilities", responses=_KEYED)
def capabilities(server: Serving, user: User) -> schemas.Capabilities:
    """What this server can do."""
    limits = {name: value for name, value in vars(server.settings.limits).items() if isinstance(value, int)}
    operations = sorted(TABLE)
    told: dict[str, Any] = {"version": cutaway.__version__, "wire": [VERSION], "kinds": ["graph", "method"]}
    return schemas.Capabilities(**told, models=list(server.catalogue), operations=operations, limits=limits)


@router.get("/v1/limits", responses=_KEYED)
def limits(server: Serving, user: User) -> schemas.Limits:
    """What the caller may use, and how much of it is left."""
    return schemas.Limits(
        user=user,
        rate=server.quota.rate,
        burst=server.quota.burst,
        balance=server.balances.balance(user),
        unfinished=server.jobs.unfinished(user),
        queued=server.quota.queued,
        body=BODY,
        result=LARGEST,
        sessions=PER_USER,
    )


# For operators


@router.post("/v1/drain", status_code=202, responses=_KEYED)
def drain(server: Serving, user: Admin) -> schemas.Draining:
    """Take nothing new on, and end what runs; what waits stays queued for the next server."""
    server.dispatcher.draining = True
    return schemas.Draining(draining=True)


@router.get("/livez")
async def livez() -> dict[str, bool]:
    """Whether the server answers."""
    return {"live": True}


@router.get("/readyz", responses=_problems(503))
def readyz(server: Serving) -> dict[str, bool]:
    """Whether the server takes jobs on: its table can be read, and it is not being shut down."""
    if server.draining:
        raise HTTPException(503, "a server that is being shut down", {"Retry-After": "5"})
    server.jobs.counts()
    return {"ready": True}


@router.get(
    "/metrics",
    response_class=Response,
    responses=_KEYED | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Metrics."}},
)
async def metrics(request: Request, server: Serving, credentials: Credentials) -> Response:
    """Metrics for Prometheus; of a server with keys, for an administrator."""
    key = await caller(request, credentials)
    if key is not _NOBODY:
        key.require("admin")
    return Response(await run_in_threadpool(server.telemetry.text), media_type=CONTENT_TYPE)
