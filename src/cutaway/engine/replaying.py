"""Runs an intervention graph: as one more body, on real weights."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from cutaway.engine import fake
from cutaway.engine.graph import Graph
from cutaway.engine.interleave import Trace
from cutaway.engine.interpreter import PLAIN, Interpreter, Request, part, said, spent
from cutaway.engine.node import Limits
from cutaway.engine.site import FIRST, Site
from cutaway.errors import CutawayError, EngineError, GraphError

if TYPE_CHECKING:
    from cutaway.engine.model import Model

_UNREAD = object()
_MOST = 1_000
_PASSED: weakref.WeakKeyDictionary[torch.nn.Module, dict[tuple[Any, ...], dict[str, int]]] = weakref.WeakKeyDictionary()
"""Module -> the last rehearsals that passed: what they were of, and the sizes of what they save."""


@final
class Replayed:
    """What a replayed body saved, by name, and what the forward returned. `error`: why it could not run; then both raise it."""

    def __init__(self, saved: dict[str, Any] | None = None, output: Any = _UNREAD, error: CutawayError | None = None) -> None:
        self._saved, self._output, self.error = {} if saved is None else saved, output, error

    @property
    def saved(self) -> dict[str, Any]:
        """Values by name."""
        if self.error is not None:
            raise self.error
        return self._saved

    @property
    def finished(self) -> bool:
        """Whether the forward ran to its end."""
        return self._output is not _UNREAD

    @property
    def output(self) -> Any:
        """What the forward returned. Raises EngineError if the body stopped it."""
        if self.error is not None:
            raise self.error
        if self._output is _UNREAD:
            raise EngineError("The output of this replay.", "a body that stopped the forward", "a body without run.stop()")
        return self._output

    def finish(self, output: Any) -> None:
        """Told by who drives the forward."""
        self._output = output

    def __getitem__(self, name: str) -> Any:
        return self.saved[name]


def replay(
    model: Model, graph: Graph, inputs: tuple[Any, ...], fn: Callable[..., Any] | None, limits: Limits | None, options: dict[str, Any]
) -> Replayed:
    """See `Model.replay`."""
    graph.check(limits)
    if limits is not None:
        rehearse(model, graph, inputs, fn, limits, options)
    args, kwargs = model.arguments(inputs, options)
    run = Trace(model, partial(fn or model.module, *args, **kwargs), fn is not None)
    _drive(model, run, Interpreter(model, graph.constants), graph, perform)
    return Replayed(run.saved, run.output if run.finished else _UNREAD)


def rehearse(
    model: Model, graph: Graph, inputs: tuple[Any, ...], fn: Callable[..., Any] | None, limits: Limits, options: dict[str, Any]
) -> dict[str, int]:
    """Replay on shapes alone: bytes of each saved value. Raises GraphError for what would fail, or would exceed the limits.

    What has passed on inputs of the same shapes passes again at once.
    """
    args, kwargs = model.arguments(inputs, options)
    passed, key = _PASSED.setdefault(model.module, {}), _key(model, graph, (args, kwargs), limits)
    if fn is not None or key not in passed:
        within = fake.mode()
        args, kwargs = model.shapes((args, kwargs), within)
        run = Trace(model, partial(fn or model.module, *args, **kwargs), fn is not None, partial(fake.forward, model.module, within))
        _drive(model, run, Interpreter(model, graph.constants, limits, within), graph, guarded)
        if fn is not None:
            return run.sizes
        while len(passed) >= _MOST:
            del passed[next(iter(passed))]
        passed[key] = run.sizes
    return passed[key]


def _key(model: Model, graph: Graph, arguments: Any, limits: Limits) -> tuple[Any, ...]:
    """All that a rehearsal depends on, besides the module itself."""
    shapes = repr(fake.mapped(arguments, lambda tensor: ("tensor", tuple(tensor.shape), tensor.dtype, tensor.device)))
    weights = tuple((weight.shape, weight.dtype, weight.requires_grad) for weight in model.module.parameters())
    return graph.hash, limits, shapes, weights, tuple(part.training for part in model.module.modules()), torch.is_grad_enabled()


Perform = Callable[["Model", Trace, str, tuple[Any, ...], dict[str, Any]], Any]


def _drive(model: Model, run: Trace, interpreter: Interpreter, graph: Graph, how: Perform) -> None:
    try:
        with run:
            answer(model, run, interpreter.execute(graph.nodes, spent(graph.nodes)), how)
            if how is guarded and not run.finished:
                run.stop()  # what is left computes what it always does
    except CutawayError:
        raise
    except Exception as error:  # of the model's own forward, with the values that the graph put into it
        raise GraphError(f"Run {model.name} under a graph.", said(error), "values the forward can go on with") from error


def answer(model: Model, run: Trace, requests: Generator[Request, Any, None], how: Perform) -> None:
    """Give an interpreter what it asks of a trace, until it has no more nodes. how: `perform`, or `guarded`."""
    reply: Any = None
    while True:
        try:
            word, args, kwargs = requests.send(reply)
        except StopIteration:
            return
        reply = how(model, run, word, args, kwargs)


def perform(model: Model, run: Trace, word: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do in a trace what one word of a graph says."""
    if word == "read":
        return run.read(model.site(args[0]))
    if word == "write":
        return run.write(model.site(args[0]), args[1])
    if word == "skip":
        return run.skip(Site(args[0], part(model, args[0]), model.native(args[0]), "inputs"), args[1])
    if word == "begin":
        return run.begin(args[0])
    if word == "save":
        return run.save(**kwargs)
    return run.output if word == "output" else run.stop()


def guarded(model: Model, run: Trace, word: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As `perform`, for a body that is not trusted: what it writes has the shape of what is there, so that the forward computes what it would have.

    A module that is skipped runs all the same; what it returns is replaced.
    """
    if word not in ("write", "skip"):
        return perform(model, run, word, args, kwargs)
    site = model.site(args[0]) if word == "write" else replaced(model, args[0])
    refuse_other(run.read(site), args[1], site.name)
    return run.write(site, args[1])


def replaced(model: Model, path: str) -> Site:
    """What stands for skipping a module where it has to run."""
    return Site(path, part(model, path), model.native(path), "output", FIRST)


def refuse_other(there: Any, new: Any, name: str) -> None:
    """Raise GraphError unless a value is like the one in its place: tensors of that shape and type, all else the same."""
    if isinstance(there, Tensor) and isinstance(new, Tensor):
        if (there.shape, there.dtype) == (new.shape, new.dtype):
            return
        found, works = f"{tuple(new.shape)} {new.dtype}", f"{tuple(there.shape)} {there.dtype}"
        raise GraphError(f"Write {name}.", f"a tensor {found}", f"one {works}, as is there")
    if isinstance(there, Mapping) and isinstance(new, Mapping) and there.keys() == new.keys():
        there, new = list(there.values()), [new[k] for k in there]
    if isinstance(there, (tuple, list)) and isinstance(new, (tuple, list)) and len(there) == len(new):
        for one, other in zip(there, new, strict=True):
            refuse_other(one, other, name)
    elif there is not new and not (isinstance(there, PLAIN) and type(there) is type(new) and there == new):
        raise GraphError(f"Write {name}.", f"a {type(new).__name__}", f"the {type(there).__name__} that is there; tensors alone can change")
