"""`cutaway keys`: a key is printed once, and is good until it is rotated or revoked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cutaway.errors import AccessError
from cutaway.service.keys import Keys
from cutaway.service.sqlite import Sqlite

Cutaway = Callable[..., Any]


def test_a_key_from_its_issue_to_its_end(cutaway: Cutaway, tmp_path: Path) -> None:
    folder = ("--folder", str(tmp_path))
    text = cutaway("keys", "issue", "ada", "--scope", "run", "--scope", "admin", "--days", "1", *folder).out.strip()
    database = Sqlite(tmp_path / "jobs.sqlite")
    keys = Keys(database)
    key = keys.check(text)
    assert key.user == "ada" and key.scopes == {"run", "admin"} and key.expires is not None
    (listed,) = json.loads(cutaway("keys", "list", "--json", *folder).out)
    assert listed["id"] == key.id and text.rpartition("_")[2] not in cutaway("keys", "list", *folder).out
    newer = cutaway("keys", "rotate", key.id, "--days", "0", *folder).out.strip()
    assert keys.check(newer).user == "ada"
    with pytest.raises(AccessError):
        keys.check(text)
    assert "no more" in cutaway("keys", "list", *folder).out
    cutaway("keys", "revoke", keys.check(newer).id, *folder)
    with pytest.raises(AccessError):
        keys.check(newer)
    database.close()


def test_wrong_input(cutaway: Cutaway, tmp_path: Path) -> None:
    folder = ("--folder", str(tmp_path))
    ran = cutaway("keys", "issue", "ada", "--scope", "root", *folder)
    assert ran.status == 2 and "run, publish, admin" in ran.err
    assert cutaway("keys", "revoke", "0" * 16, *folder).status == 2
    assert cutaway("keys", "list", "--user", "ada", *folder).out == ""
