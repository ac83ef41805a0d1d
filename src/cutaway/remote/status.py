"""One line that says where a job stands, on a terminal's error stream or in a notebook; nowhere else, and not for what is quick."""

from __future__ import annotations

import html
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, final

QUICK = 0.5
"""Seconds after which a line is shown."""
_ONE = threading.Lock()
"""Held by who draws: two lines would write over one another."""


class Line(Protocol):
    """A place for one line of text."""

    def show(self, text: str) -> None:
        """Put a text there, in place of the one before."""

    def end(self, text: str) -> None:
        """Put the last text there, which stays."""


@final
class Terminal:
    """The line at the bottom of a terminal."""

    def __init__(self, console: Any) -> None:
        from rich.status import Status as Spinner

        self._console, self._spinner = console, Spinner("", console=console)
        self._spinner.start()

    def show(self, text: str) -> None:
        self._spinner.update(_escaped(text))

    def end(self, text: str) -> None:
        self._spinner.stop()
        self._console.print(_escaped(text), style="dim", highlight=False)


@final
class Notebook:
    """A line below the cell that runs."""

    def __init__(self, display: Any) -> None:
        self._handle = display(_Shown(""), display_id=True)

    def show(self, text: str) -> None:
        self._handle.update(_Shown(text))

    def end(self, text: str) -> None:
        self._handle.update(_Shown(text))


@final
class _Shown:
    """A text, as notebooks draw it and as they keep it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return f"<span style='opacity:.7'>{html.escape(self._text)}</span>"


@final
class Status:
    """`with Status("causal_trace on induction_lm") as status: status.tell(job)`.

    make: makes the line; None to find out whether there is a place for one. Nothing is drawn where there is none, or another status draws already.
    """

    def __init__(self, label: str, make: Callable[[], Line] | None = None) -> None:
        self._label, self._make = label, make or place()
        self._line: Line | None = None
        self._began, self._state = time.monotonic(), ""

    @property
    def possible(self) -> bool:
        """Whether there is a place for a line."""
        return self._make is not None

    @property
    def shown(self) -> bool:
        """Whether the line is there, or ought to be by now."""
        if self._line is None and self._make is not None and time.monotonic() - self._began >= QUICK and _ONE.acquire(blocking=False):
            self._line = self._make()
        return self._line is not None

    def tell(self, job: Mapping[str, Any], progress: Mapping[str, Any] | None = None) -> None:
        """Say where a job stands: its JSON, and the data of its last event of progress."""
        self._state = str(job.get("state", ""))
        if self.shown and self._line is not None:
            self._line.show(f"{self._label} · {described(job, progress)} · {self._seconds}")

    def __enter__(self) -> Status:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._line is not None:
            line, self._line = self._line, None
            _ONE.release()
            line.end(f"{self._label} · {self._state or 'ended'} · {self._seconds}")

    @property
    def _seconds(self) -> str:
        return f"{time.monotonic() - self._began:.1f} s"


def described(job: Mapping[str, Any], progress: Mapping[str, Any] | None = None) -> str:
    """Where a job stands, in words."""
    state = str(job.get("state", "sent"))
    if state == "queued":
        place, wait = job.get("position"), job.get("expected_wait")
        found = f"queued, number {place}" if isinstance(place, int) and place > 0 else "queued"
        return f"{found}, begins in about {wait:.0f} s" if isinstance(wait, (int, float)) and wait >= 1 else found
    if state == "running" and progress and isinstance(progress.get("total"), (int, float)) and progress["total"] > 0:
        return f"{progress.get('label', 'running')} {100 * progress.get('done', 0) / progress['total']:.0f} %"
    return state


def place() -> Callable[[], Line] | None:
    """What makes a line where there is a place for one; None where there is none."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None and hasattr(shell, "kernel"):
        from IPython.display import display  # type: ignore[import-not-found]  # an extra

        return lambda: Notebook(display)
    from rich.console import Console

    console = Console(stderr=True)
    return (lambda: Terminal(console)) if console.is_terminal else None


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
