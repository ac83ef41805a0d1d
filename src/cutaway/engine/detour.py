"""Another forward in place of a module's own, for the forwards of one greenlet only.

torch looks up `module.forward` when the module is entered, so a detour has to be there before. `skip` bypasses a module, `source` runs a
rewritten forward; a bypass comes before a rewritten forward. What stands in for a forward has its signature, which callers look at: transformers'
`generate` passes no positions to a forward that does not name them.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

from greenlet import getcurrent, greenlet
from torch import nn

from cutaway.engine.site import LOCK

Forward = Callable[..., Any]
Detour = Callable[[Forward, tuple[Any, ...], dict[str, Any]], Any]
"""Called with the forward that would have run, and its arguments."""

_ABSENT = object()


@final
@dataclass(eq=False)
class _Crossing:
    """One module's detours: those that act first are last."""

    own: Any
    detours: tuple[tuple[weakref.ref[Any], int, Detour], ...] = field(default=())


_SIGNATURES: weakref.WeakKeyDictionary[Any, inspect.Signature] = weakref.WeakKeyDictionary()
_CROSSINGS: weakref.WeakKeyDictionary[nn.Module, _Crossing] = weakref.WeakKeyDictionary()


def detour(module: nn.Module, way: Detour, owner: greenlet, first: bool = False) -> Callable[[], None]:
    """Let `way` run instead of the module's forward in forwards that `owner` runs; returns what undoes it. `first`: before all that are not."""
    entry = (weakref.ref(owner), int(first), way)
    with LOCK:
        crossing = _CROSSINGS.get(module)
        if crossing is None:
            crossing = _CROSSINGS[module] = _Crossing(module.__dict__.get("forward", _ABSENT))
            module.__dict__["forward"] = _dispatcher(weakref.ref(module), crossing)
        crossing.detours = tuple(sorted((*crossing.detours, entry), key=lambda e: e[1]))

    def undo() -> None:
        with LOCK:
            crossing.detours = tuple(e for e in crossing.detours if e is not entry)
            if crossing.detours or _CROSSINGS.pop(module, None) is None:
                return
            if crossing.own is _ABSENT:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = crossing.own

    return undo


def _dispatcher(module: weakref.ref[nn.Module], crossing: _Crossing) -> Forward:
    def forward(*args: Any, **kwargs: Any) -> Any:
        run: Forward = own(module(), crossing)
        for owner, _, way in crossing.detours:
            if owner() is getcurrent():
                run = _through(way, run)
        return run(*args, **kwargs)

    forward.__signature__ = _signature(own(module(), crossing))  # type: ignore[attr-defined]
    return forward


def _signature(forward: Forward) -> inspect.Signature:
    function = getattr(forward, "__func__", None)
    if function is None:
        return inspect.signature(forward)
    if function not in _SIGNATURES:  # looked at for every module whose input is read, and the layers of a model have one forward
        _SIGNATURES[function] = inspect.signature(forward)
    return _SIGNATURES[function]


def _through(way: Detour, onward: Forward) -> Forward:
    return lambda *args, **kwargs: way(onward, args, kwargs)


def own(module: Any, crossing: _Crossing | None = None) -> Forward:
    """The module's own forward, whatever detours there are."""
    crossing = crossing or _CROSSINGS.get(module)
    if crossing is not None and crossing.own is not _ABSENT:
        return crossing.own
    if crossing is None and "forward" in module.__dict__:
        return module.__dict__["forward"]
    return type(module).forward.__get__(module)
