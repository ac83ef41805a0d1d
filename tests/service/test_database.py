"""The statements that make the tables, which both kinds of database run."""

from __future__ import annotations

import hashlib

from cutaway.service.database import MIGRATIONS

RUN_SOMEWHERE = ["99160d5e9e1ba98f", "508f24051dbdd754"]


def test_what_was_run_somewhere_is_not_changed() -> None:
    """A new version is a new entry, here and there."""
    found = [hashlib.sha256("\n".join(statements).encode()).hexdigest()[:16] for statements in MIGRATIONS]
    assert found == RUN_SOMEWHERE
