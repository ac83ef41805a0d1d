"""Keys of users: `cut_<id>_<secret>`, of which the service keeps the id and a hash.

The secret is 256 random bits, so that one round of SHA-256 is enough: nobody can try them all. A slow hash is for passwords, which people choose.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, final

from cutaway.errors import AccessError, InputError, ScopeError, UnknownNameError
from cutaway.service.database import Database

SCOPES = ("run", "publish", "admin")
"""run: jobs of one's own. publish: add to the catalogue. admin: other users' jobs, keys, models. None contains another."""
_KEY = re.compile(r"cut_([0-9a-f]{16})_([0-9a-f]{64})")
_COLUMNS = "id, owner, scopes, created, expires"
_NOBODY = hashlib.sha256(b"").hexdigest()


@final
@dataclass(frozen=True)
class Key:
    """What is known of a key, without its secret. expires: seconds since 1970; None is never."""

    id: str
    user: str
    scopes: frozenset[str]
    created: float
    expires: float | None = None

    def require(self, scope: str) -> None:
        """Raises ScopeError where the key is not for that."""
        if scope not in self.scopes:
            raise ScopeError(
                f"Use key {self.id} to {scope}.", f"a key to {', '.join(sorted(self.scopes))}", f"a key with the scope {scope}"
            )


@final
@dataclass(frozen=True)
class Issued:
    """A new key, and its text: the only time that it can be read."""

    key: Key
    text: str = field(repr=False)


@final
class Keys:
    """The keys in a database. clock: seconds since 1970. Every method raises StorageError where the database fails."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock

    def issue(self, user: str, scopes: Collection[str] = ("run",), expires: float | None = None) -> Issued:
        """A new key for a user, good until `expires`. Raises InputError."""
        if not (0 < len(user) <= 100 and user.isprintable()):
            raise InputError("Issue a key.", f"the user {user!r}"[:120], "a name of at most 100 printable characters")
        if not scopes or not set(scopes) <= set(SCOPES):
            raise InputError("Issue a key.", f"the scopes {', '.join(sorted(scopes)) or '(none)'}", f"of {', '.join(SCOPES)}")
        key = Key(secrets.token_hex(8), user, frozenset(scopes), self._clock(), expires)
        if expires is not None and expires <= key.created:
            raise InputError("Issue a key.", "a time that has passed", "a later one, or none")
        secret = secrets.token_hex(32)
        with self._database.change("Issue a key.") as sql:
            values = (key.id, user, " ".join(sorted(key.scopes)), key.created, expires, _digest(secret))
            sql(f"INSERT INTO keys ({_COLUMNS}, digest) VALUES (?, ?, ?, ?, ?, ?)", values)
        return Issued(key, f"cut_{key.id}_{secret}")

    def check(self, text: str) -> Key:
        """Whose key this is. Raises AccessError, which does not tell an unknown key from a wrong one."""
        found = _KEY.fullmatch(text)
        id, secret = found.groups() if found else ("", "")
        with self._database.read("Check a key.") as sql:
            row = sql(f"SELECT {_COLUMNS}, digest FROM keys WHERE id = ?", (id,)).fetchone()
        good = hmac.compare_digest(_digest(secret), row[-1] if row else _NOBODY)  # an unknown key takes as long as a wrong one
        if row is None or not good:
            raise AccessError("Use a key.", "none that is known here", "a key as it was issued: cut_, 16 digits, _, 64 digits")
        key = _key(row[:-1])
        if key.expires is not None and key.expires <= self._clock():
            raise AccessError(f"Use key {key.id}.", "that it is good no more", "a newer key of the same user")
        return key

    def rotate(self, id: str, grace: float = 86_400.0) -> Issued:
        """A new key like an old one, which stays good for `grace` seconds at most. Raises UnknownNameError; AccessError where it is too old."""
        old, now = self._find(id), self._clock()
        if old.expires is not None and old.expires <= now:
            raise AccessError(f"Rotate key {id}.", "that it is good no more", "a new key for the same user")
        issued = self.issue(old.user, old.scopes)
        self._end(id, now + grace)
        return issued

    def revoke(self, id: str) -> None:
        """Let a key be good no more, from now. Raises UnknownNameError."""
        self._find(id)
        self._end(id, self._clock())

    def issued(self) -> bool:
        """Whether there is any key, good or not."""
        with self._database.read("Look for keys.") as sql:
            return sql("SELECT 1 FROM keys LIMIT 1").fetchone() is not None

    def find(self, user: str | None = None) -> list[Key]:
        """All keys, or a user's, oldest first."""
        with self._database.read("List keys.") as sql:
            rows = sql(f"SELECT {_COLUMNS} FROM keys ORDER BY created, id").fetchall()
        return [key for key in map(_key, rows) if user in (None, key.user)]

    def _find(self, id: str) -> Key:
        keys = {key.id: key for key in self.find()}
        if id not in keys:
            raise UnknownNameError("key", id[:40], keys)
        return keys[id]

    def _end(self, id: str, expires: float) -> None:
        with self._database.change("End a key.") as sql:
            sql("UPDATE keys SET expires = ? WHERE id = ? AND (expires IS NULL OR expires > ?)", (expires, id, expires))


def redacted(text: str) -> str:
    """A text for logs: of the keys in it only the ids are left, and of what looks much like a key nothing."""
    return re.sub(r"cut_\w{16,}", "cut_…", _KEY.sub(r"key \1", text))


def _key(row: Any) -> Key:
    id, owner, scopes, created, expires = row
    return Key(id, owner, frozenset(scopes.split()), created, expires)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
