"""The database of several machines: PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, final

import psycopg

from cutaway.errors import StorageError
from cutaway.service.database import MIGRATIONS, Execute

_LOCK = 0x43555441  # "CUTA": the advisory lock that whoever changes something holds


@final
class Postgres:
    """A `Database` in one that Cutaway has to itself. address: `postgresql://user:password@host/name`; it is not in any error.

    Changes hold one advisory lock, so that they follow one another as they do in SQLite, where the same statements run. patience: seconds to wait
    for others. flush: whether changes that ask for it wait for the server's disk. Raises StorageError, also for tables of something else or of a
    newer Cutaway.
    """

    def __init__(self, address: str, *, patience: float = 5.0, flush: bool = True) -> None:
        self._address, self._patience, self._flush = address, patience, flush
        self._idle: list[psycopg.Connection[Any]] = []
        try:
            self._migrate()
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def change(self, asked: str, *, flush: bool = True) -> Iterator[Execute]:
        with self._connection(asked) as connection, connection.transaction():
            execute = _executes(connection)
            settings = str(int(self._patience * 1_000)), "on" if flush and self._flush else "off"
            execute("SELECT set_config('lock_timeout', ?, true), set_config('synchronous_commit', ?, true)", settings)
            execute("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
            yield execute

    @contextlib.contextmanager
    def read(self, asked: str) -> Iterator[Execute]:
        with self._connection(asked) as connection, connection.transaction():
            execute = _executes(connection)
            execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield execute

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    @contextlib.contextmanager
    def _connection(self, asked: str) -> Iterator[psycopg.Connection[Any]]:
        """A connection that nobody else has meanwhile. One on which a statement failed is not used again."""
        connection = None
        try:
            connection = self._idle.pop() if self._idle else self._connect()
            yield connection
        except psycopg.Error as error:
            if connection is not None:
                connection.close()
                connection = None
            if isinstance(error, psycopg.OperationalError):
                self.close()  # a server that went away has taken the idle ones with it
            if isinstance(error, psycopg.IntegrityError):
                raise
            busy = isinstance(error, psycopg.errors.LockNotAvailable)
            found = f"others that held the tables for {self._patience:g} seconds" if busy else f"PostgreSQL: {type(error).__name__}"
            raise StorageError(asked, found, "to try again, or the server's log") from error
        finally:
            if connection is not None:
                self._idle.append(connection)

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self._address, autocommit=True, connect_timeout=max(2, round(self._patience)))

    def _migrate(self) -> None:
        asked = "Open the tables in PostgreSQL."
        with self.change(asked) as execute:
            execute("CREATE TABLE IF NOT EXISTS cutaway_version (version INTEGER NOT NULL)")
            row = execute("SELECT version FROM cutaway_version").fetchone()
            version = row[0] if row else 0
            if version > len(MIGRATIONS):
                raise StorageError(asked, f"tables of version {version}", f"version {len(MIGRATIONS)} or older, or a newer Cutaway")
            for statements in MIGRATIONS[version:]:
                for statement in statements:
                    execute(statement)
            execute("DELETE FROM cutaway_version")
            execute("INSERT INTO cutaway_version VALUES (?)", (len(MIGRATIONS),))


def _executes(connection: psycopg.Connection[Any]) -> Execute:
    def execute(statement: str, parameters: Sequence[Any] = (), /) -> psycopg.Cursor[Any]:
        plain = [str(value) if isinstance(value, str) else value for value in parameters]  # an enum's text, and not its name
        return connection.execute(statement.replace("?", "%s").encode(), plain)

    return execute
