"""Progress is drawn on a terminal only, nests, and never gets in the way of an exception."""

from __future__ import annotations

import pytest

from cutaway.progress import progress, reporting


def test_nothing_is_printed_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("outer", 2) as outer:
        outer(1)
        with progress("inner", 3) as inner:
            inner(3)
        outer(1)
    assert capsys.readouterr() == ("", "")


def test_an_exception_inside_leaves_nothing_open() -> None:
    with pytest.raises(KeyboardInterrupt), progress("outer", 1), progress("inner", 1):
        raise KeyboardInterrupt
    with progress("again", 1) as done:
        done(1)


def test_reported_instead_of_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[str, float, float]] = []
    with reporting(lambda *what: told.append(what)), progress("outer", 2) as outer:
        outer(1)
        with progress("inner", 1) as inner:
            inner(0.5)
        outer(1)
    with progress("unheard", 1) as done:
        done(1)
    assert told == [("outer", 0, 2), ("outer", 1, 2), ("inner", 0, 1), ("inner", 0.5, 1), ("outer", 2, 2)]
    assert capsys.readouterr() == ("", "")
