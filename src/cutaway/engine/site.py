"""Where in a forward a value can be seen and replaced.

A site is an event of one module (its input, its output, or a tap inside it) and a view of the raw value of that event: an element of
a tuple, a slice of a fused projection, heads unfolded. Reading gives a torch view of the raw value, so in-place changes reach it; writing gives a
new raw value.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, final

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from cutaway.engine.eager import eager

Callback = Callable[[Any], Any]
"""Takes an event's raw value; returns a new one, or None to leave it."""


@final
@dataclass(frozen=True)
class View:
    """A reversible way of looking at a raw value: `read(raw)`, and `write(raw, new)`, a raw value in which the view is `new`."""

    read: Callable[[Any], Any]
    write: Callable[[Any, Any], Any]

    def then(self, inner: View) -> View:
        """Look at what this view shows through another."""
        return View(
            lambda raw: inner.read(self.read(raw)),
            lambda raw, new: self.write(raw, inner.write(self.read(raw), new)),
        )


WHOLE = View(lambda raw: raw, lambda raw, new: new)


def _write_first(raw: Any, new: Any) -> Any:
    return (new, *raw[1:]) if isinstance(raw, tuple) else new


FIRST = View(lambda raw: raw[0] if isinstance(raw, tuple) else raw, _write_first)
"""The first element of a tuple, or the value itself where a module returns it bare."""


def _read_argument(raw: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    return next(iter((*raw[0], *raw[1].values())), None)


def _write_argument(raw: tuple[tuple[Any, ...], dict[str, Any]], new: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs = raw
    return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, next(iter(kwargs)): new})


ARGUMENT = View(_read_argument, _write_argument)
"""The first argument of a call, whether it was given by position or by keyword."""


def heads(n: int) -> View:
    """Unfold the last axis (n * d) into (n, d)."""
    return View(lambda raw: raw.unflatten(-1, (n, -1)), lambda raw, new: new.flatten(-2))


def part(start: int, stop: int) -> View:
    """Elements [start, stop) of the last axis."""

    def write(raw: Tensor, new: Tensor) -> Tensor:
        return torch.cat([raw[..., :start], new, raw[..., stop:]], dim=-1)

    return View(lambda raw: raw[..., start:stop], write)


def entry(key: str) -> View:
    """One entry of a mapping such as a transformers ModelOutput."""

    def write(raw: Any, new: Any) -> Any:
        fields = dict(raw.items())
        return type(raw)(**(fields | {key: new}))

    return View(lambda raw: raw[key], write)


@final
@dataclass(frozen=True)
class Site:
    """`name` is what the user wrote, for messages; `path` is the module's own path; `dims` names the axes of what the view shows, where known.

    `event`: output, inputs, or a tap. Event `input` becomes `inputs`, seen through its first argument: the two are one event.
    `opening` makes a context that must be held for the event to occur at all (an attention implementation that shows its inside); it takes the
    greenlet that will run the forward, by default the calling one.
    """

    name: str
    module: nn.Module
    path: str
    event: str
    view: View = WHOLE
    dims: tuple[str, ...] = ()
    opening: Callable[..., AbstractContextManager[Any]] | None = field(default=None, compare=False)
    key: tuple[int, str] = field(init=False, compare=False, repr=False)
    """Sites with one key see the same event."""

    def __post_init__(self) -> None:
        if self.event == "input":
            object.__setattr__(self, "event", "inputs")
            object.__setattr__(self, "view", ARGUMENT.then(self.view))
        object.__setattr__(self, "key", (id(self.module), self.event))

    @property
    def carrier(self) -> View:
        """Where the tensor lies in the raw value, of which `view` may show a part."""
        return ARGUMENT if self.event.endswith("inputs") else FIRST


EVENTS = ("input", "output", "inputs")
LOCK = threading.RLock()
"""Held while hooks, taps and forwards are put on or taken off a module: torch numbers its hooks without a lock."""

_TAPS: weakref.WeakKeyDictionary[nn.Module, dict[str, tuple[_Listener, ...]]] = weakref.WeakKeyDictionary()


@final
@dataclass(frozen=True, eq=False)
class _Listener:
    owner: weakref.ref[Any]
    callback: Callback


def tap(module: nn.Module, event: str, value: Any) -> Any:
    """Called by code that runs inside `module`'s forward to offer a value: whoever listens may replace it."""
    for listener in _TAPS.get(module, {}).get(event, ()):
        if listener.owner() is getcurrent():
            new = listener.callback(value)
            value = value if new is None else new
    return value


@final
class Enough(BaseException):
    """Raised by a callback that has seen the last value of a forward that is of use.

    No Exception: where a hook raises one, torch goes through the module's hooks once more, while other threads may add and remove theirs.
    """


def tapped(module: nn.Module, prefix: str = "") -> bool:
    """Whether the running greenlet listens to a tap of this module, one whose event begins with `prefix`."""
    return bool(listened(module, prefix))


def listened(module: nn.Module, prefix: str) -> list[str]:
    """The taps of this module that the running greenlet listens to, of those whose event begins with `prefix`."""
    found = _TAPS.get(module) or {}
    return [event for event, them in found.items() if event.startswith(prefix) and any(one.owner() is getcurrent() for one in them)]


def attach(module: nn.Module, event: str, callback: Callback, owner: greenlet | None = None) -> Callable[[], None]:
    """Call `callback` whenever the event occurs in a forward that `owner` runs (the calling greenlet, if not given); returns what undoes it.

    Several threads may run one module: each sees its own callbacks only. The hooks take what torch gives them even if another thread's removal
    comes between torch's look at a hook and its call.
    """
    mine = weakref.ref(getcurrent() if owner is None else owner)
    if event == "output":

        def after(module: nn.Module, args: Any, out: Any) -> Any:
            return callback(out) if mine() is getcurrent() else None

        with LOCK:
            return _removal(module.register_forward_hook(after))
    if event == "inputs":

        def before(module: nn.Module, args: Any, kwargs: Any = None) -> Any:
            return callback((args, kwargs)) if mine() is getcurrent() else None

        with LOCK:
            return _removal(module.register_forward_pre_hook(before, with_kwargs=True))
    return _listen(module, event, _Listener(mine, callback))


def _removal(hook: Any) -> Callable[[], None]:
    def remove() -> None:
        with LOCK:
            hook.remove()

    return remove


def _listen(module: nn.Module, event: str, listener: _Listener) -> Callable[[], None]:
    with LOCK:
        taps = _TAPS.get(module, {})
        _TAPS[module] = {**taps, event: (*taps.get(event, ()), listener)}

    def remove() -> None:
        with LOCK:
            taps = _TAPS.get(module, {})
            left = tuple(other for other in taps.get(event, ()) if other is not listener)
            _TAPS[module] = {
                name: them for name, them in {**taps, event: left}.items() if them
            }  # a new mapping: others may be reading the old
            if not _TAPS[module]:
                del _TAPS[module]

    return remove


@contextlib.contextmanager
def attached(callbacks: Sequence[tuple[Site, Callback]]) -> Iterator[None]:
    """Hold callbacks at sites, and what the sites need opened, for the length of a block. At one event the earlier callback acts first."""
    with eager(), contextlib.ExitStack() as stack:
        for opening in {site.opening for site, _ in callbacks if site.opening is not None}:
            stack.enter_context(opening())
        for site, callback in callbacks:
            stack.callback(attach(site.module, site.event, callback))
        yield
