"""`cutaway drain`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import cutaway as cut
from cutaway.errors import BusyError

Cutaway = Callable[..., Any]


def test_a_drained_server_takes_nothing_on(cutaway: Cutaway, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(keys=True) as (url, _, keys):
        monkeypatch.setenv("CUTAWAY_KEY", keys.issue("root", ("run", "admin")).text)
        assert cutaway("drain", "--url", url).out == f"{url} takes nothing new on.\n"
        remote = cut.connect(url, patience=0.1)
        with pytest.raises(BusyError):
            remote.open("induction_lm").submit("locate.direct_effect", "induction:n=2,length=6")
