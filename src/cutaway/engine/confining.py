"""Keeps work that comes from others to what it was given: nothing is opened for it that it only names.

    with confining.confined():
        method(lm, task)    # InputError where it would open a model, a folder or a file by a name

A second lock: `service.inputs` refuses such arguments before anything runs. This one holds for a method that forgot to say what it opens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from cutaway.errors import InputError

_CONFINED: ContextVar[bool] = ContextVar("confined", default=False)


@contextlib.contextmanager
def confined() -> Iterator[None]:
    """Let nothing that runs in this block, in this thread and task, open what it names."""
    token = _CONFINED.set(True)
    try:
        yield
    finally:
        _CONFINED.reset(token)


def refuse_opening(what: str) -> None:
    """Raise InputError in a confined block; `what` is "a model", "a file", and never its name, which the block may not learn to be there."""
    if _CONFINED.get():
        raise InputError(f"Open {what}.", "work for others, on a server", "what came with the work; or to run it where the files are")
