"""Ends work from outside: work that runs here asks, before every node of a graph and every block of a model, whether it is to go on.

    undo = stopping.watch(module)           # its forwards ask from now on
    with stopping.asking(check):            # in this thread, until the block ends
        model.replay(graph, x)              # calls `check` many times; what that raises ends the replay

Where no check is set, nothing is asked. What is between two questions, one operation or one block, is not interrupted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from torch import nn

from cutaway.engine.site import LOCK

Check = Callable[[], None]
"""Returns where work is to go on, and raises where it is not."""
_CHECK: ContextVar[Check | None] = ContextVar("check", default=None)


@contextlib.contextmanager
def asking(check: Check) -> Iterator[None]:
    """Let all that runs in this block, in this thread and task, ask `check`."""
    token = _CHECK.set(check)
    try:
        yield
    finally:
        _CHECK.reset(token)


def ask() -> None:
    """Ask whether to go on."""
    check = _CHECK.get()
    if check is not None:
        check()


def watch(module: nn.Module) -> Callable[[], None]:
    """Let every forward of a module ask: at its start, and before each part that stands in a list or sequence. Returns what undoes it."""
    lists = (part for part in module.modules() if isinstance(part, (nn.ModuleList, nn.Sequential)))
    asked = {id(part): part for part in (module, *(block for blocks in lists for block in blocks))}
    with LOCK:
        hooks = [part.register_forward_pre_hook(lambda module, args: ask()) for part in asked.values()]

    def undo() -> None:
        with LOCK:
            for hook in hooks:
                hook.remove()

    return undo
