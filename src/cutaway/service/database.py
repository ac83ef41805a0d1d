"""What the tables of the service need of a database: whole changes, one after another, and SQL that every database here understands."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE jobs (
            number BIGINT PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, kind TEXT NOT NULL, model TEXT NOT NULL, method TEXT NOT NULL,
            hash TEXT NOT NULL, size BIGINT NOT NULL, state TEXT NOT NULL, accepted DOUBLE PRECISION NOT NULL, started DOUBLE PRECISION,
            finished DOUBLE PRECISION, attempts INTEGER NOT NULL DEFAULT 0, worker TEXT NOT NULL DEFAULT '',
            until DOUBLE PRECISION NOT NULL DEFAULT 0, leases INTEGER NOT NULL DEFAULT 0, result TEXT, problem TEXT,
            cached INTEGER NOT NULL DEFAULT 0, seconds DOUBLE PRECISION NOT NULL DEFAULT 0,
            key TEXT, body TEXT NOT NULL, told INTEGER NOT NULL DEFAULT 0, work BYTEA)""",
        "CREATE UNIQUE INDEX jobs_key ON jobs (owner, key) WHERE key IS NOT NULL",
        "CREATE INDEX jobs_owner ON jobs (owner, number)",
        "CREATE INDEX jobs_state ON jobs (state, number)",
        "CREATE INDEX jobs_finished ON jobs (state, finished)",
        "CREATE INDEX jobs_done ON jobs (hash) WHERE state = 'done'",
        "CREATE INDEX jobs_result ON jobs (result) WHERE state = 'done'",
        """CREATE TABLE events (
            job BIGINT NOT NULL, number INTEGER NOT NULL, time DOUBLE PRECISION NOT NULL, type TEXT NOT NULL, data TEXT NOT NULL,
            PRIMARY KEY (job, number))""",
        """CREATE TABLE keys (
            id TEXT PRIMARY KEY, owner TEXT NOT NULL, scopes TEXT NOT NULL, digest TEXT NOT NULL, created DOUBLE PRECISION NOT NULL,
            expires DOUBLE PRECISION)""",
    ),
    (
        "ALTER TABLE jobs ADD COLUMN orphaned INTEGER NOT NULL DEFAULT 0",
        "CREATE INDEX jobs_place ON jobs (state, owner, model, number)",
    ),
)
"""Statements that bring the tables from version i to i + 1. What is here was run somewhere: add, never change."""


class Rows(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""

    def fetchone(self) -> Any:
        """The next row, or None."""

    def fetchall(self) -> list[Any]:
        """All rows."""


class Execute(Protocol):
    """Runs one statement; `?` stands for the next parameter."""

    def __call__(self, statement: str, parameters: Sequence[Any] = (), /) -> Rows: ...


class Database(Protocol):
    """Where tables lie. Every block raises StorageError, which says what was `asked`, where the database fails; then it has changed nothing."""

    def change(self, asked: str, *, flush: bool = True) -> AbstractContextManager[Execute]:
        """A block of statements that happen together, while nobody else changes anything; undone where the block raises.

        flush: whether the change, once the block is left, survives a power cut too, and not only the death of every process.
        """

    def read(self, asked: str) -> AbstractContextManager[Execute]:
        """A block of queries that see one state of the tables."""

    def close(self) -> None:
        """Let go of every connection."""
