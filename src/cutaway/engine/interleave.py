"""Runs a forward and a body of user code in turn.

    with model.trace(x) as run:
        h = model.layers[2].output      # the forward runs up to here; h is the real tensor
        model.layers[4].output = h      # and on to here; it goes on with h
    run.output                          # it has run to its end

    with model.trace(x, fn=loop) as run:
        for step in run.steps:          # once for every call of the model that `loop` makes
            model.layers[2].output *= 0

The body is ordinary Python in the caller's own frame. The forward runs in a second greenlet: a read switches into it until the hook of
the site that was asked for fires and switches back, the forward staying parked inside the hook. Leaving the block lets it finish.

Rules that a prototype taught, each with a test: both sides keep their own grad mode, autocast and mode stacks (`state`); a new greenlet
starts without
context variables, so it is given a copy; torch decides on entry to a module whether it has hooks, so the outputs of all ancestors of a
site are hooked with it; a hook acts only when called from this trace's own forward; which trace is open is a context variable, so threads and
tasks each have their own; where the forward calls the model several times, hooks put on late cannot know what they missed, so it parks at
the start of every call; nothing that refers to the model outlives the block.
"""

from __future__ import annotations

import contextvars
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, final

import torch
from greenlet import GreenletExit, getcurrent, greenlet
from torch import nn

from cutaway.engine.detour import Forward, detour, own
from cutaway.engine.eager import eager
from cutaway.engine.fake import size
from cutaway.engine.returns import padded
from cutaway.engine.shown import Shown
from cutaway.engine.site import EVENTS, Site, attach
from cutaway.engine.state import Swap, checkpointed, refuse_checkpointed
from cutaway.engine.steps import Steps
from cutaway.errors import OutOfOrderError, TraceError

if TYPE_CHECKING:
    from cutaway.engine.graph import Graph
    from cutaway.engine.model import Model
    from cutaway.engine.recording import Recorder

_PENDING = object()
_OPEN: contextvars.ContextVar[tuple[Any, ...]] = contextvars.ContextVar("open traces", default=())


def open_on(model: Model) -> Any:
    """The trace that is open on a model in this thread and task; None if there is none."""
    for trace in reversed(_OPEN.get()):
        if trace.model is model:
            return trace
    return None


@final
class Trace:
    """One forward, open for reading and writing. Made by `model.trace`; `run.output` is what the forward returned.

    driven: `call` is more than the module itself and may call it several times. within: a context for the forward alone. recorder: told of all that
    passes between body and forward.
    """

    def __init__(
        self,
        model: Model,
        call: Callable[[], Any],
        driven: bool = False,
        within: Callable[[], AbstractContextManager[Any]] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.model: Model | None = model
        self.recorder = recorder
        self.saved: dict[str, Any] = {}
        """What the body has saved by name."""
        self._call: Callable[[], Any] | None = call if within is None else _inside(within, call)
        self._driven = driven
        self._forward: Any = None
        self._resources = ExitStack()
        self._undo: list[Callable[[], None]] = []
        self._hooked: set[tuple[int, str]] = set()
        self._passed: set[tuple[int, str]] = set()
        self._openings: set[Callable[[], Any]] = set()
        self._parents: set[str] = set()
        self._me = weakref.ref(self)
        self._wanted: Site | None = None
        self._parked: Site | None = None
        self._raw: Any = None
        self._shown = Shown()
        self._last = "the start"
        self._ended = False
        self._output: Any = _PENDING
        self._skips: dict[int, Any] = {}
        self._thread = 0
        self._start: Site | None = None
        self._step, self._calls, self._ahead, self._stepping = 0, 0, False, False

    def __enter__(self) -> Trace:
        model = self.model
        if model is None or self._forward is not None:
            raise TraceError("Enter this trace.", "it has been used already", "a new `with model.trace(...)` for every run")
        if open_on(model) is not None:
            raise TraceError("Open a trace on this model.", "one that is still open", "leave its block first, or open the model twice")
        self._resources.enter_context(eager())
        self._swap, self._differentiable = Swap(), torch.is_grad_enabled()
        self._forward = greenlet(self._call)
        self._forward.gr_context = contextvars.copy_context()
        self._thread = threading.get_ident()
        self._resources.enter_context(model.acting(self._forward))
        self._hook(Site("output", model.module, "", "output"))
        if self._driven:
            self._start = Site("inputs", model.module, "", "inputs")
            self._hook_one(model.module, "inputs")
        _OPEN.set((*(trace for trace in _OPEN.get() if trace.model is not None), self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None and not self._ended:
                self._refuse_elsewhere()
                self._advance(None)
            else:
                self._unwind()
        finally:
            self._close()

    @property
    def output(self) -> Any:
        """What the forward returned; read inside the block, it runs the forward to its end. Raises TraceError if it was stopped."""
        if self._output is _PENDING and self.model is not None and not self._ended:
            self._refuse_elsewhere()
            self._advance(None)
        if self._output is _PENDING:
            raise TraceError("Read the output of this run.", "a forward that was stopped or failed", "leave out run.stop()")
        return self._output if self.recorder is None or self.model is None else self.recorder.output(self._output)

    @property
    def finished(self) -> bool:
        """Whether the forward has returned."""
        return self._output is not _PENDING

    @property
    def graph(self) -> Graph:
        """The body as an intervention graph. Raises TraceError where it was not recorded."""
        if self.recorder is None:
            raise TraceError("The graph of this run.", "a body that was not recorded", "with model.record(inputs) as run:")
        return self.recorder.graph()

    def save(self, **values: Any) -> None:
        """Keep values by name, in `run.saved`: what a graph brings back from where it is replayed. Ordinary variables do in a live run."""
        self.saved.update(values)
        if self.recorder is not None:
            self.recorder.save(values)

    def settle(self, saved: dict[str, Any], output: Any = _PENDING) -> None:
        """Put the values of a replay in place of a recording's."""
        self.saved, self._output = saved, output

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each saved value. In a scan they are known before anything runs."""
        return {name: size(value) for name, value in self.saved.items()}

    def stop(self) -> None:
        """End the forward here. The body goes on; nothing more can be read."""
        if self.model is None:
            raise TraceError("Stop this run.", "its block has been left", "call run.stop() inside the block")
        self._refuse_elsewhere()
        self._ended, self._parked, self._raw = True, None, None
        if self.recorder is not None:
            self.recorder.stop()
        self._unwind()

    def read(self, site: Site) -> Any:
        """The value at a site, running the forward up to it. Raises OutOfOrderError if the forward is past it or never gets there."""
        self._reach(site)
        if self.recorder is not None:
            return self.recorder.read(site.name, site.view.read(self._raw))
        return self._shown.read(site, self._raw)

    def write(self, site: Site, value: Any) -> None:
        """Replace the value at a site for the rest of this run."""
        self._reach(site)
        if self.recorder is not None:
            value = self.recorder.write(site.name, value)
        self._raw = site.view.write(self._shown.joined(self._raw), value)

    def skip(self, site: Site, value: Any) -> None:
        """Let the forward go on without running the site's module: `value` stands for what it returns. `site`: the module's inputs.

        Where the module returns a tuple and `value` is one tensor, the other elements are None.
        """
        self._reach(site)
        if self.recorder is not None:
            value = self.recorder.skip(site.name, value)
        self._skips[id(site.module)] = padded(own(site.module), value)

    @property
    def steps(self) -> Steps:
        """The calls of the model, one after the other: `for step in run.steps:`, or some of them: `run.steps[1:]`, `run.steps[:1]`."""
        return Steps(self)

    def begin(self, step: int) -> bool:
        """Let the forward run to the beginning of a later call of the model. False if it ends before. Raises OutOfOrderError for an earlier."""
        self._refuse_elsewhere()
        if step < self._step:
            raise OutOfOrderError(f"Go to step {step} of this run.", f"step {self._step} has begun", "later steps, or a second trace")
        if self.recorder is not None and step > self._step and not self._ended and not self.recorder.begin(step):
            self._ended, self._output = True, None  # where the values are, the forward has ended before
            self._unwind()
        while self._step < step:
            if self._ended:
                return False
            if not self._ahead:
                self._advance(None, to_next=True)
                if self._parked is None:
                    return False
            self._ahead = False
            self._step += 1
            self._last = f"the start of step {self._step}"
            self._passed.clear()
        return not self._ended

    def _reach(self, site: Site) -> None:
        self._refuse_elsewhere()
        if self._parked is not None and self._parked.key == site.key and not self._ahead:
            return
        if self._ended or self._ahead or site.key in self._passed:
            gone = (
                "the forward has ended" if self._ended else "this step has ended" if self._ahead else "the forward has already run past it"
            )
            raise self._out_of_order(site, gone)
        self._hook(site)
        self._advance(site)
        if self._parked is None:
            raise self._out_of_order(site, "the forward ended without reaching it: it ran earlier, or is not part of this forward")
        if self._ahead:
            raise self._out_of_order(site, "the step ended without reaching it: it ran earlier, or is not part of this step")

    def _out_of_order(self, site: Site, found: str) -> OutOfOrderError:
        return OutOfOrderError(
            f"Read or write {site.name} after {self._last}.",
            found,
            f"in the order of the forward: {site.name} first, then {self._last}; or a second trace",
        )

    def _hook(self, site: Site) -> None:
        assert self.model is not None
        if site.opening is not None and site.opening not in self._openings:
            self._openings.add(site.opening)
            self._resources.enter_context(site.opening(self._forward))
        parent, _, _ = site.path.rpartition(".")
        if parent not in self._parents:  # the blocks of a list have one parent, whose ancestors are walked once
            self._parents.add(parent)
            module = self.model.module
            for name in parent.split(".") if parent else ():
                module = module.get_submodule(name)
                self._hook_one(module, "output")
        if site.event not in EVENTS:  # inside the module, which will have been entered
            self._hook_one(site.module, "output")
        self._hook_one(site.module, site.event)

    def _hook_one(self, module: nn.Module, event: str) -> None:
        key = id(module), event
        if key in self._hooked:
            return
        self._hooked.add(key)
        me = self._me

        def fire(raw: Any) -> Any:
            trace = me()
            return None if trace is None else trace._fire(key, raw)

        self._undo.append(attach(module, event, fire, self._forward))
        if event == "inputs":  # before the module is entered: whoever reads its input may want to skip it
            self._undo.append(detour(module, self._bypass(id(module)), self._forward, first=True))

    def _bypass(self, module: int) -> Callable[[Forward, tuple[Any, ...], dict[str, Any]], Any]:
        skips = self._skips
        return lambda onward, args, kwargs: skips.pop(module) if module in skips else onward(*args, **kwargs)

    def _fire(self, key: tuple[int, str], raw: Any) -> Any:
        """In the forward: hand the value over, park, and return what the body made of it."""
        site = self._wanted
        if self._start is not None and key == self._start.key:
            self._calls += 1
            if self._calls - 1 > self._step:  # the next call begins
                if site is None and not self._stepping:
                    return None
                self._ahead, self._parked = True, self._start
                return self._park(self._start, raw)
        self._passed.add(key)
        if site is None or key != site.key:
            return None
        self._parked = site
        return self._park(site, raw)

    def _park(self, site: Site, raw: Any) -> Any:
        self._raw = raw
        before = _version(raw, site) if self._differentiable else 0
        getcurrent().parent.switch()
        new, self._raw = self._raw, None
        if self._differentiable and (new is not raw or _version(raw, site) != before):
            refuse_checkpointed(site.name)
        if self._shown.parts and not checkpointed():
            new = self._shown.joined(new)
        self._shown.forget()
        return None if new is raw else new

    def _advance(self, site: Site | None, to_next: bool = False) -> None:
        """Let the forward run until `site` fires, or to its end; `to_next`: or to the next call of the model."""
        forward = self._forward
        self._wanted, self._stepping = site, to_next
        self._parked = None
        forward.parent = getcurrent()
        try:
            value = self._swap.run(forward.switch)
        except BaseException:
            self._ended = True
            raise
        if forward.dead:
            self._ended, self._output = True, value
        elif site is not None and not self._ahead:
            self._last = site.name

    def _refuse_elsewhere(self) -> None:
        if threading.get_ident() != self._thread:
            raise TraceError("Go on with this run.", "another thread than the one that opened it", "a trace of its own in every thread")

    def _unwind(self) -> None:
        """Raise GreenletExit in the parked forward, so that its own clean-up runs."""
        self._refuse_elsewhere()
        if not self._forward.dead:
            self._forward.parent = getcurrent()
            self._swap.run(lambda: self._forward.throw(GreenletExit))

    def _close(self) -> None:
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()
        self._resources.close()
        _OPEN.set(tuple(trace for trace in _OPEN.get() if trace is not self))
        self._swap.close()
        if self.recorder is not None:
            self.recorder.close()
        # no cycle may keep the weights alive after the block
        self.model = self._call = self._wanted = self._parked = self._raw = self._forward = self._start = None
        self._openings.clear()
        self._skips.clear()
        self._shown.forget()


def _inside(within: Callable[[], AbstractContextManager[Any]], call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with within():
            return call()

    return run


def _version(raw: Any, site: Site) -> int:
    """A number that a change in place makes larger."""
    value = site.carrier.read(raw)
    return value._version if isinstance(value, torch.Tensor) and not value.is_inference() else 0
