"""One line, in place, only for what takes its time and only where somebody looks."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from rich.console import Console

from cutaway.remote import status
from cutaway.remote.status import Notebook, Status, Terminal, described


class Kept:
    """A line that keeps what it was told."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.ended: list[str] = []

    def show(self, text: str) -> None:
        self.shown.append(text)

    def end(self, text: str) -> None:
        self.ended.append(text)


@pytest.mark.parametrize(
    ("job", "progress", "said"),
    [
        ({"state": "queued", "position": 3, "expected_wait": 12.4}, None, "queued, number 3, begins in about 12 s"),
        ({"state": "queued", "position": 1, "expected_wait": 0.2}, None, "queued, number 1"),
        ({"state": "queued", "position": None, "expected_wait": None}, None, "queued"),
        ({"state": "loading"}, None, "loading"),
        ({"state": "running"}, None, "running"),
        ({"state": "running"}, {"label": "causal trace", "done": 3, "total": 12}, "causal trace 25 %"),
        ({"state": "running"}, {"label": "causal trace", "done": 0, "total": 0}, "running"),
        ({}, None, "sent"),
    ],
)
def test_where_a_job_stands(job: dict[str, Any], progress: dict[str, Any] | None, said: str) -> None:
    assert described(job, progress) == said


def test_quick_jobs_show_nothing() -> None:
    line = Kept()
    with Status("run on m", lambda: line) as told:
        told.tell({"state": "running"})
    assert not line.shown and not line.ended


def test_a_slow_job_is_shown_and_its_time_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "QUICK", 0.01)
    line, other = Kept(), Kept()
    with Status("run on m", lambda: line) as told:
        time.sleep(0.02)
        told.tell({"state": "queued", "position": 2})
        with Status("another", lambda: other) as second:
            time.sleep(0.02)
            second.tell({"state": "running"})
        told.tell({"state": "done"})
    assert [text.split(" · ")[:2] for text in line.shown] == [["run on m", "queued, number 2"], ["run on m", "done"]]
    assert line.ended[0].startswith("run on m · done · 0.") and line.ended[0].endswith(" s")
    assert not other.shown  # two lines would write over one another
    with Status("later", lambda: other) as third:
        time.sleep(0.02)
        third.tell({"state": "running"})
    assert other.ended


def test_no_terminal_no_line() -> None:
    assert status.place() is None and not Status("run on m").possible


def test_a_terminal() -> None:
    """Drawn in place, and nothing in it is read as markup or as a control character."""
    out = io.StringIO()
    line = Terminal(Console(file=out, force_terminal=True, width=80))
    line.show("run on [red]m[/red]")
    line.end("run on [red]m[/red] · done · 1.0 s")
    first, last = out.getvalue().split("\x1b[1A\x1b[2K")  # one line up, and clear it
    assert "run on [red]m[/red]\n" in first and "[red]m[/red] · done" in last and last.count("\n") == 1


def test_a_notebook() -> None:
    """A display handle, as IPython gives one: text and HTML, updated in place."""

    class Handle:
        def __init__(self) -> None:
            self.drawn: list[Any] = []

        def update(self, what: Any) -> None:
            self.drawn.append(what)

    handle = Handle()
    line = Notebook(lambda what, display_id: handle)
    line.show("run on <m>")
    line.end("done")
    assert repr(handle.drawn[0]) == "run on <m>" and "run on &lt;m&gt;" in handle.drawn[0]._repr_html_()
    assert [repr(one) for one in handle.drawn] == ["run on <m>", "done"]
