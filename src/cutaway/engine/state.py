"""The thread-local state of torch that a body and a forward must not share.

A trace runs two pieces of code in turn on one thread. Each may change grad mode, inference mode, autocast or the stacks of function and
dispatch modes; torch keeps all of these per thread, so they are swapped at every switch. Setters are called only on a difference:
a switch costs about two microseconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple, final

import torch
from torch.utils import checkpoint
from torch.utils._python_dispatch import _pop_mode, _push_mode

from cutaway.errors import EngineError

_C: Any = torch._C
_DEVICES = ("cpu", "cuda")


class State(NamedTuple):
    """One side's whole state."""

    grad: bool
    autocast: tuple[bool, ...]
    dtypes: tuple[torch.dtype, ...]
    cache: bool
    inference: bool
    functions: tuple[Any, ...]
    dispatches: tuple[Any, ...]


_SETTINGS = State._fields.index("inference")
"""The fields before this one have setters."""


def current() -> State:
    """The calling thread's state now."""
    # written out, as a trace asks this twice for every value it reads
    functions, dispatches = _C._len_torch_function_stack(), _C._len_torch_dispatch_stack()
    return State(
        torch.is_grad_enabled(),
        (_C.is_autocast_enabled("cpu"), _C.is_autocast_enabled("cuda")),
        (_C.get_autocast_dtype("cpu"), _C.get_autocast_dtype("cuda")),
        _C.is_autocast_cache_enabled(),
        torch.is_inference_mode_enabled(),
        tuple(_C._get_function_stack_at(i) for i in range(functions)) if functions else (),
        tuple(_C._get_dispatch_stack_at(i) for i in range(dispatches)) if dispatches else (),
    )


@final
class Swap:
    """Runs one side with its own state, then puts the caller's back. Keeps the side's state between its turns."""

    def __init__(self) -> None:
        self.theirs = current()
        self._guard: Any = None

    def run(self, turn: Callable[[], Any]) -> Any:
        """Call `turn` under the kept state; keep what it leaves; restore the caller's, also when it raises."""
        mine = current()
        if mine != self.theirs or self._guard is not None:
            self._become(mine, self.theirs)
        try:
            return turn()
        finally:
            self.theirs = theirs = current()
            if theirs != mine or self._guard is not None:
                self._become(theirs, mine)

    def close(self) -> None:
        """End the last turn of all: nothing of the other side is left."""
        mine = current()
        self._guard = None
        _set(current(), mine)

    def _become(self, now: State, wanted: State) -> None:
        # inference mode has no setter: a guard is held until the next switch. A guard also moves the grad mode, so it goes first.
        if self._guard is not None or now.inference != wanted.inference:
            self._guard = None
            if torch.is_inference_mode_enabled() != wanted.inference:
                self._guard = _C._InferenceMode(wanted.inference)
            now = current()
        if now != wanted:
            _set(now, wanted)


def _set(now: State, wanted: State) -> None:
    if now[:_SETTINGS] != wanted[:_SETTINGS]:
        with _C.DisableTorchFunction():  # a recording mode must not see these calls
            _C._set_grad_enabled(wanted.grad)
            for device, enabled, dtype in zip(_DEVICES, wanted.autocast, wanted.dtypes, strict=True):
                _C.set_autocast_enabled(device, enabled)
                _C.set_autocast_dtype(device, dtype)
            _C.set_autocast_cache_enabled(wanted.cache)
    if now.functions != wanted.functions:
        while _C._len_torch_function_stack():
            _C._pop_torch_function_stack()
        for mode in wanted.functions:
            _C._push_on_torch_function_stack(mode)
    if now.dispatches != wanted.dispatches:
        while _C._len_torch_dispatch_stack():
            _pop_mode()
        for mode in wanted.dispatches:
            _push_mode(mode)


def checkpointed() -> bool:
    """Whether the calling code runs inside a checkpointed region, which the backward will run again."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename == checkpoint.__file__:
            return True
        frame = frame.f_back
    return False


def refuse_checkpointed(name: str) -> None:
    """An edit inside a checkpointed region would be missing when the backward runs that region again. Raises EngineError."""
    if checkpointed():
        raise EngineError(
            f"Change {name} while gradients are kept.",
            "gradient checkpointing, whose backward would run this part again without the change",
            "module.gradient_checkpointing_disable(), a point outside the checkpointed part, or torch.no_grad()",
        )
