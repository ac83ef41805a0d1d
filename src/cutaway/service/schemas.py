"""What the API takes and gives, as its OpenAPI document states it. Times are seconds since 1970, UTC; lengths of time are seconds."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from cutaway.service.jobs import Event as JobEvent
from cutaway.service.jobs import State
from cutaway.service.server import Model as Offered
from cutaway.service.server import Standing


class Problem(BaseModel):
    """An error (RFC 9457). `type` is the name of its page in docs/errors; `line` stands in the user's text."""

    type: str
    title: str
    status: int
    detail: str
    asked: str = ""
    found: str = ""
    works: str = ""
    line: str = ""
    id: str = ""


class MethodCall(BaseModel):
    """A call of a method: `GET /v1/methods` lists them with their arguments."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["method"] = "method"
    model: str = Field(min_length=1, max_length=300)
    method: str = Field(min_length=1, max_length=300)
    task: str | dict[str, Any] = Field(description="the text of a task, such as facts:n=20, or an object with its pairs")
    arguments: dict[str, Any] = {}
    seed: int = Field(0, ge=0, lt=2**63)


class Result(BaseModel):
    """What can be fetched from /v1/jobs/{id}/result. hash: SHA-256 of its bytes; size: how many they are."""

    hash: str
    size: int | None = None


class Job(BaseModel):
    """A job, and where it stands. position: 1 is the next of its model; 0 where it does not wait. seconds: of computing."""

    id: str
    state: State
    kind: Literal["graph", "method"]
    model: str
    method: str
    accepted: float
    started: float | None
    finished: float | None
    seconds: float
    attempts: int
    cached: bool
    position: int
    expected_wait: float | None
    result: Result | None
    problem: dict[str, Any] | None
    warnings: list[str]

    @classmethod
    def of(cls, standing: Standing) -> Self:
        """As the server knows it."""
        job = standing.job
        known = {f.name: getattr(job, f.name) for f in dataclasses.fields(job) if f.name in cls.model_fields and f.name != "result"}
        result = None if job.result is None else Result(hash=job.result, size=standing.size)
        told = {"position": standing.position, "expected_wait": standing.expected, "warnings": list(standing.warnings)}
        return cls.model_validate({**known, **told, "result": result})


class Jobs(BaseModel):
    """Jobs, newest first."""

    jobs: list[Job]


class Event(BaseModel):
    """Something that happened to a job. type "state": data has `state`; "progress": `label`, `done`, `total`."""

    number: int
    time: float
    type: Literal["state", "progress", "log"]
    data: dict[str, Any]

    @classmethod
    def of(cls, event: JobEvent) -> Self:
        """As the table keeps it."""
        return cls.model_validate(dataclasses.asdict(event))


class Events(BaseModel):
    """Events, oldest first."""

    events: list[Event]


class OpenSession(BaseModel):
    """On which model a session is to begin."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1, max_length=300)


class Session(BaseModel):
    """A session. park: seconds without a message after which it ends."""

    id: str
    model: str
    park: float


class Model(BaseModel):
    """A model of this server. bytes: of its weights; context: tokens it can take; revision: of its weights."""

    name: str
    state: Literal["open", "loading", "closed"]
    bytes: int
    queued: int
    running: int
    expected_wait: float | None
    context: int | None
    revision: str
    pinned: bool

    @classmethod
    def of(cls, model: Offered) -> Self:
        """As the server knows it."""
        told = dataclasses.asdict(model)
        return cls.model_validate(told | {"expected_wait": told.pop("expected")})


class Models(BaseModel):
    """All models of this server."""

    models: list[Model]


class Method(BaseModel):
    """A method. arguments: JSON Schema of them."""

    name: str
    summary: str
    returns: str
    arguments: dict[str, Any]


class Methods(BaseModel):
    """All methods of this server."""

    methods: list[Method]


class Capabilities(BaseModel):
    """What this server can do. wire: versions of the forms of graphs and messages that it reads; limits: of one graph."""

    version: str
    wire: list[int]
    kinds: list[str]
    models: list[str]
    operations: list[str]
    limits: dict[str, int]


class Limits(BaseModel):
    """What the caller may use. balance: seconds of computing that are left now; rate: how many more there are each second, up to burst."""

    user: str
    rate: float
    burst: float
    balance: float
    unfinished: int
    queued: int
    body: int
    result: int
    sessions: int


class Draining(BaseModel):
    """The server takes nothing new."""

    draining: bool
