"""A key opens what it was issued for, as long as it is good, and its secret is nowhere but with its user."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from cutaway.errors import AccessError, InputError, ScopeError, StorageError, UnknownNameError
from cutaway.service.database import Database
from cutaway.service.keys import Keys, redacted
from cutaway.service.sqlite import Sqlite


@pytest.fixture
def keys(database: Database, clock: Callable[[], float]) -> Keys:
    return Keys(database, clock)


def test_a_key_says_whose_it_is(keys: Keys) -> None:
    issued = keys.issue("ada", ["run", "publish"])
    other = keys.issue("ben")
    assert keys.check(issued.text) == issued.key
    assert (issued.key.user, issued.key.scopes) == ("ada", {"run", "publish"})
    assert keys.find() == [issued.key, other.key] or keys.find() == [other.key, issued.key]
    assert keys.find("ben") == [other.key]


def test_all_but_the_key_is_refused_alike(keys: Keys) -> None:
    issued, other = keys.issue("ada"), keys.issue("ben")
    secret, foreign = issued.text[-64:], other.text[-64:]
    wrong = [issued.text[:-64] + foreign, f"cut_{'0' * 16}_{secret}", issued.text[:-1], issued.text + "0", issued.text.upper(), "", "cut__"]
    wrong += [f" {issued.text}", f"{issued.text}\n", "cut_' OR 1=1 --_", "\ud800", "cut_" + "0" * 10**6]
    messages = set()
    for text in wrong:
        with pytest.raises(AccessError) as caught:
            keys.check(text)
        messages.add(str(caught.value))
    assert len(messages) == 1
    assert keys.check(issued.text) == issued.key


def test_a_secret_is_stored_and_shown_nowhere(sqlite: Sqlite, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = Keys(sqlite)
    caplog.set_level(logging.DEBUG)
    issued = keys.issue("ada")
    secret = issued.text[-64:]
    with pytest.raises(AccessError) as caught:
        keys.check(issued.text[:-1] + ("1" if issued.text[-1] == "0" else "0"))
    shown = f"{issued!r} {issued.key!r} {keys.find()!r} {caught.value} {caplog.text}"
    assert secret not in shown and secret[:-1] not in shown
    stored = [path.read_bytes() for path in tmp_path.iterdir()]
    assert any(b"ada" in content for content in stored)
    assert not any(secret.encode() in content or bytes.fromhex(secret) in content for content in stored)


def test_keys_are_never_alike(keys: Keys) -> None:
    assert len({keys.issue("ada").text for _ in range(50)}) == 50


def test_a_key_ends(keys: Keys, clock: Callable[[], float]) -> None:
    issued = keys.issue("ada", expires=clock() + 10)
    clock.now += 9  # type: ignore[attr-defined]
    assert keys.check(issued.text).user == "ada"
    clock.now += 1  # type: ignore[attr-defined]
    with pytest.raises(AccessError, match="good no more"):
        keys.check(issued.text)
    with pytest.raises(AccessError):
        keys.rotate(issued.key.id)


def test_rotation_leaves_time_to_change(keys: Keys, clock: Callable[[], float]) -> None:
    old = keys.issue("ada", ["run", "admin"])
    new = keys.rotate(old.key.id, grace=100)
    assert (new.key.user, new.key.scopes) == (old.key.user, old.key.scopes)
    assert keys.check(old.text).user == keys.check(new.text).user == "ada"
    clock.now += 100  # type: ignore[attr-defined]
    with pytest.raises(AccessError):
        keys.check(old.text)
    assert keys.check(new.text) == new.key


def test_rotation_does_not_prolong(keys: Keys, clock: Callable[[], float]) -> None:
    old = keys.issue("ada", expires=clock() + 10)
    keys.rotate(old.key.id, grace=100)
    clock.now += 10  # type: ignore[attr-defined]
    with pytest.raises(AccessError):
        keys.check(old.text)


def test_a_revoked_key_is_good_no_more_at_once(keys: Keys) -> None:
    issued = keys.issue("ada")
    keys.revoke(issued.key.id)
    with pytest.raises(AccessError):
        keys.check(issued.text)


def test_scopes_do_not_contain_one_another(keys: Keys) -> None:
    key = keys.issue("ada", ["admin"]).key
    key.require("admin")
    for scope in ("run", "publish"):
        with pytest.raises(ScopeError):
            key.require(scope)


@pytest.mark.parametrize(
    ("user", "scopes"), [("", ["run"]), ("a\nb", ["run"]), ("a" * 101, ["run"]), ("ada", []), ("ada", ["root"]), ("ada", "run")]
)
def test_no_key_for_what_is_not_understood(keys: Keys, user: str, scopes: list[str]) -> None:
    with pytest.raises(InputError):
        keys.issue(user, scopes)
    assert keys.find() == []


def test_no_key_for_the_past(keys: Keys, clock: Callable[[], float]) -> None:
    with pytest.raises(InputError):
        keys.issue("ada", expires=clock())


def test_an_unknown_key_is_named(keys: Keys) -> None:
    known = keys.issue("ada").key.id
    for use in (keys.rotate, keys.revoke):
        with pytest.raises(UnknownNameError, match=known):
            use("0" * 16)


def test_a_database_that_fails_is_no_wrong_key(sqlite: Sqlite) -> None:
    keys = Keys(sqlite)
    issued = keys.issue("ada")
    sqlite.close()
    sqlite.path.write_bytes(b"no database" * 1_000)
    for beside in ("-wal", "-shm"):
        sqlite.path.with_name(f"{sqlite.path.name}{beside}").unlink(missing_ok=True)
    with pytest.raises(StorageError):
        keys.check(issued.text)


def test_logs_are_cleaned() -> None:
    text = f"GET /v1/jobs?key=cut_{'ab' * 8}_{'cd' * 32} from cut_{'ef' * 8}_{'01' * 30} with cut_off=3"
    assert redacted(text) == f"GET /v1/jobs?key=key {'ab' * 8} from cut_… with cut_off=3"
