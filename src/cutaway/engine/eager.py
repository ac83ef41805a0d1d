"""Compiled parts run uncompiled while something watches: a compiled block would skip the hooks of what it contains.

The stance of torch's compiler is one for the whole process, so the first who asks sets it and the last puts back what there was before.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_LOCK = threading.Lock()
_HOLDERS: list[object] = []
_STANCES: list[Any] = []


@contextmanager
def eager() -> Iterator[None]:
    """Hold compiled modules uncompiled for the length of a block, in every thread. Blocks may end in any order."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and asking would import the compiler
        yield
        return
    me = object()
    with _LOCK:
        if not _HOLDERS:
            _STANCES.append(torch.compiler.set_stance("force_eager"))
        _HOLDERS.append(me)
    try:
        yield
    finally:
        with _LOCK:
            _HOLDERS.remove(me)
            if not _HOLDERS:
                _STANCES.pop().__exit__(None, None, None)
