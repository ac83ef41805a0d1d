"""Shows how far long work has come: bars on a terminal's error stream, nothing anywhere else, or wherever `reporting` sends it.

with progress("causal trace", total=270) as done:
    done(9)             # nine more
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, final

_BARS: ContextVar[Any] = ContextVar("bars", default=None)
Told = Callable[[str, float, float], None]
"""Takes what work is called, how much of it is done, and how much it is in all."""


@final
class _Report:
    """Stands where bars do, and tells."""

    def __init__(self, told: Told) -> None:
        self._told = told

    def begin(self, label: str, total: float) -> Callable[[float], None]:
        done = 0.0

        def more(by: float) -> None:
            nonlocal done
            done += by
            self._told(label, done, total)

        self._told(label, 0.0, total)
        return more


@contextlib.contextmanager
def reporting(told: Told) -> Iterator[None]:
    """Tell `told` what would be drawn of the work in this block, in this thread and task."""
    token = _BARS.set(_Report(told))
    try:
        yield
    finally:
        _BARS.reset(token)


@contextlib.contextmanager
def progress(label: str, total: float) -> Iterator[Callable[[float], None]]:
    """A bar for one piece of work; inside another's block it is drawn below it. Yields what tells it how much more is done."""
    bars = _BARS.get()
    if isinstance(bars, _Report):
        yield bars.begin(label, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    with contextlib.ExitStack() as stack:
        if bars is None:
            columns = TextColumn("{task.description:<28}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn()
            console = Console(stderr=True)
            bars = stack.enter_context(Progress(*columns, console=console, disable=not console.is_terminal))
            token = _BARS.set(bars)
            stack.callback(_BARS.reset, token)
        task = bars.add_task(label, total=total)
        yield lambda more: bars.advance(task, more)
