"""Bytes in a folder, under the hash of what they are: a name never comes from a user, and damage is found when they are read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import uuid
from collections.abc import Container
from pathlib import Path
from typing import final

from cutaway.errors import InputError, StorageError

_NAME = re.compile(r"[0-9a-f]{64}")
_SUFFIX = ".result"


@final
class Results:
    """A folder of results, which nobody but its owner may read; made where there is none.

    flush: whether `put` waits for the disk. Without, a result survives the death of any process, but may not survive a power cut: then `get` says so.
    """

    def __init__(self, folder: str | os.PathLike[str], *, flush: bool = True) -> None:
        self.folder, self._flush = Path(folder), flush
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageError(f"Open {self.folder}.", error.strerror or str(error), "a folder that can be written to") from error

    def put(self, *contents: bytes) -> list[str]:
        """Keep bytes, each whole or not at all; returns the SHA-256 of each. What is there is written anew: that heals it. Raises StorageError."""
        names = [hashlib.sha256(content).hexdigest() for content in contents]
        written: list[Path] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # somebody may have tidied it away
            for name, content in zip(names, contents, strict=True):
                written.append(self.folder / f".{name}-{uuid.uuid4().hex}")
                with written[-1].open("xb") as file:
                    file.write(content)
            for name, temporary in zip(names, written, strict=True):
                if self._flush:  # after all are written: the disk then takes them together
                    _flush(temporary)
                temporary.replace(self._path(name))
            if self._flush:  # a rename survives a power cut once its folder is on the disk
                _flush(self.folder)
        except OSError as error:
            for temporary in written:
                with contextlib.suppress(OSError):
                    temporary.unlink()
            raise StorageError(
                f"Keep results {', '.join(names)}.", error.strerror or str(error), "a folder that is writable and has room"
            ) from error
        return names

    def get(self, name: str) -> bytes:
        """The bytes of that hash. Raises StorageError where they are gone or damaged, InputError for what is no hash."""
        try:
            content = self._path(name).read_bytes()
        except OSError as error:
            raise StorageError(f"Read the result {name}.", error.strerror or str(error), "to run the work again") from error
        if hashlib.sha256(content).hexdigest() != name:
            raise StorageError(f"Read the result {name}.", "other bytes than were put there", "to run the work again")
        return content

    def path(self, name: str) -> Path:
        """A file with the bytes of that hash, which have been read and found whole. Raises StorageError, InputError."""
        path = self._path(name)
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise StorageError(f"Read the result {name}.", error.strerror or str(error), "to run the work again") from error
        if found != name:
            raise StorageError(f"Read the result {name}.", "other bytes than were put there", "to run the work again")
        return path

    def size(self, name: str) -> int:
        """Bytes of one result. Raises StorageError where it is gone."""
        try:
            return self._path(name).stat().st_size
        except OSError as error:
            raise StorageError(f"Read the result {name}.", error.strerror or str(error), "to run the work again") from error

    def delete(self, name: str) -> None:
        """Let go of one result, if it is there. Raises StorageError."""
        _unlink(self._path(name))

    def sweep(self, kept: Container[str], before: float) -> int:
        """Let go of what is not to be kept, and of what a dead process left half-written, if it was written before that time. Returns how many.

        Leave an hour: a result is put before a job is done with it, and until then only its age speaks for it.
        """
        gone = 0
        for path in self.folder.iterdir():
            if path.name.removesuffix(_SUFFIX) in kept:
                continue
            try:
                old = path.stat().st_mtime < before
            except FileNotFoundError:  # another process has been here
                continue
            if old:
                _unlink(path)
                gone += 1
        return gone

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InputError("Find a result.", repr(name)[:80], "64 hexadecimal digits, as `put` returned them")
        return self.folder / f"{name}{_SUFFIX}"


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"Delete {path.name}.", error.strerror or str(error), "a folder that can be written to") from error


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
