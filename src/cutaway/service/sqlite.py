"""The database of one machine: SQLite in WAL mode, for any number of threads and processes."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import final

from cutaway.errors import StorageError
from cutaway.service.database import MIGRATIONS, Execute

_APPLICATION = 0x43555441  # "CUTA", in the header of the file
_JOURNAL = 64 * 2**20  # bytes; a large job makes the journal large, and without a limit it stays so
_REASONS = {
    sqlite3.SQLITE_BUSY: ("another process that holds it for too long", "to try again"),
    sqlite3.SQLITE_LOCKED: ("another process that holds it for too long", "to try again"),
    sqlite3.SQLITE_FULL: ("a full disk", "room on the disk"),
    sqlite3.SQLITE_IOERR: ("a disk that fails, or is full", "room on a disk that works"),
    sqlite3.SQLITE_READONLY: ("a file that cannot be written to", "a folder that can be written to"),
    sqlite3.SQLITE_CANTOPEN: ("a file that cannot be opened", "a folder that can be written to"),
    sqlite3.SQLITE_CORRUPT: ("a damaged file", "the last good copy of it"),
    sqlite3.SQLITE_NOTADB: ("a file that is no SQLite database", "a path where there is none yet"),
}


@final
class Sqlite:
    """A `Database` in one file (and two beside it while it is open), which nobody but its owner may read; made where there is none.

    patience: seconds to wait for others. flush: whether changes that ask for it wait for the disk. Without, they survive the death of any
    process, but the last ones may not survive a power cut. Raises StorageError, also for a file of something else or of a newer Cutaway.
    """

    def __init__(self, path: str | os.PathLike[str], *, patience: float = 5.0, flush: bool = True) -> None:
        self.path = Path(path)
        self._patience, self._flush = patience, flush
        self._turn = threading.Lock()  # writers of this process wait here, in turn; SQLite alone would let them poll the file
        self._idle: list[sqlite3.Connection] = []
        self._first: sqlite3.Connection | None = None  # while it is open, others need no room on the disk to begin to read
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise StorageError(f"Open {self.path}.", error.strerror or str(error), "a folder that can be written to") from error
        try:
            self._migrate()
            with self._connection(f"Open {self.path}."):
                self._first = self._connect()
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def change(self, asked: str, *, flush: bool = True) -> Iterator[Execute]:
        if not self._turn.acquire(timeout=self._patience):
            raise StorageError(asked, f"{self.path.name} held by others for {self._patience:g} seconds", "to try again")
        try:
            with self._connection(asked) as connection:
                connection.execute(f"PRAGMA synchronous = {'FULL' if flush and self._flush else 'NORMAL'}")
                with _transaction(connection, "IMMEDIATE"):
                    yield connection.execute
        finally:
            self._turn.release()

    @contextlib.contextmanager
    def read(self, asked: str) -> Iterator[Execute]:
        with self._connection(asked) as connection, _transaction(connection, "DEFERRED"):
            yield connection.execute

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
        if self._first is not None:
            self._first.close()
            self._first = None

    @contextlib.contextmanager
    def _connection(self, asked: str) -> Iterator[sqlite3.Connection]:
        """A connection that nobody else has meanwhile. One on which a statement failed is not used again."""
        connection = None
        try:
            connection = self._idle.pop() if self._idle else self._connect()
            yield connection
        except sqlite3.DatabaseError as error:
            if connection is not None:
                connection.close()
                connection = None
            if isinstance(error, (sqlite3.IntegrityError, sqlite3.ProgrammingError)):
                raise
            reason, works = _REASONS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, (str(error), "to try again"))
            raise StorageError(asked, f"{self.path.name}: {reason}", works) from error
        finally:
            if connection is not None:
                self._idle.append(connection)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=self._patience, isolation_level=None, check_same_thread=False)
        try:
            _begin_journal(connection, self._patience)
            connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL}")
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection

    def _migrate(self) -> None:
        asked = f"Open {self.path}."
        with self.change(asked) as execute:
            (version,), (application,) = execute("PRAGMA user_version").fetchone(), execute("PRAGMA application_id").fetchone()
            (tables,) = execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            if application != _APPLICATION and (tables or version or application):
                raise StorageError(asked, "a database of something else", "a path where there is none yet")
            if version > len(MIGRATIONS):
                raise StorageError(asked, f"tables of version {version}", f"version {len(MIGRATIONS)} or older, or a newer Cutaway")
            for statements in MIGRATIONS[version:]:
                for statement in statements:
                    execute(statement)
            execute(f"PRAGMA application_id = {_APPLICATION}")
            execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _begin_journal(connection: sqlite3.Connection, patience: float) -> None:
    """SQLite itself waits for nobody here: others that open the same new file, or close it as the last, are in the way for a moment."""
    until = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.005)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection, kind: str) -> Iterator[None]:
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has ended it already
            connection.execute("ROLLBACK")
        raise
