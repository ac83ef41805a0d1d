"""Does the work: runs graphs and methods on a model that is open, and makes of whatever happens an outcome.

A graph is checked whole, then run on shapes alone, then on weights. Several graphs go through one forward where `engine.packing` can pack them: their
numbers are then those of separate runs to 1e-4 of the largest value. A graph by itself is bit-identical to the body it was recorded from.
What a graph saves comes back as `wire.packed({"saved": {name: value}})`, what a method returns as `Result.to_bytes()`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch

from cutaway import registry
from cutaway.engine import confining, fake, replaying, stopping, wire
from cutaway.engine.graph import Graph
from cutaway.engine.model import Model
from cutaway.engine.node import Limits
from cutaway.engine.replaying import Replayed
from cutaway.engine.stack import batch_size
from cutaway.errors import InputError, PromptError
from cutaway.models.language import LanguageModel
from cutaway.progress import reporting
from cutaway.remote.work import Work
from cutaway.service import inputs
from cutaway.service.measured import Measured
from cutaway.service.outcomes import Outcome, Stop, Telling, cancelled
from cutaway.service.runners.base import OnEvent

_OFTEN = 0.1
"""Seconds between two events of progress."""
_GRADIENTS = ("torch.autograd.grad", "Tensor.requires_grad_")


def silent(job: str, kind: str, data: Mapping[str, Any]) -> None:
    """An `OnEvent` that nobody hears."""


@final
@dataclass(frozen=True)
class _Replay:
    """A graph with its inputs, as the model takes them."""

    graph: Graph
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    driver: Callable[..., Any] | None
    steps: int = 0
    """Tokens that the driver adds to the prompt."""

    @property
    def packs(self) -> bool:
        return self.driver is None and not self.kwargs


@final
class Execution:
    """Runs works on one open model, one call of `run` at a time. limits: of each graph, which is a stranger's."""

    def __init__(self, model: Model, limits: Limits | None = None) -> None:
        self._model, self._limits = model, limits or Limits()

    def run(
        self, works: Mapping[str, Work], on_event: OnEvent = silent, stop: Stop | None = None, rehearsed: bool = False
    ) -> dict[str, Outcome]:
        """Do the works of some jobs, id -> work; returns what came of each. Raises nothing that a work is to blame for.

        rehearsed: whether all graphs have passed `measure`, on this model or on one like it without weights; then they are not run on shapes again.
        """
        stop, done, limits = stop or Stop(), dict[str, Outcome](), None if rehearsed else self._limits
        graphs: dict[str, _Replay] = {}
        stop.begin(works)
        with stopping.asking(stop.check):
            for job, work in works.items():
                with Telling(job, done, stop):
                    stop.check()
                    if work.kind == "graph":
                        graphs[job] = self._read(work)
            self._together({job: read for job, read in graphs.items() if read.packs}, done, stop, limits)
            for job, work in works.items():
                if job not in done:
                    started = time.monotonic()
                    stop.begin([job])
                    with Telling(job, done, stop):
                        stop.check()
                        done[job] = Outcome(self._alone(graphs[job], limits) if job in graphs else self._method(job, work, on_event, stop))
                    done[job] = dataclasses.replace(done[job], seconds=time.monotonic() - started)
        # what was cancelled while others went on is not wanted, even if it is there
        return {j: dataclasses.replace(done[j], result=None, problem=cancelled()) if stop.cancelled([j]) else done[j] for j in works}

    def measure(self, work: Work) -> Measured:
        """What a graph would take, from a run on shapes alone. Raises GraphError, InputError, ..., as the graph's run would."""
        read = self._read(work)
        with torch.set_grad_enabled(_differentiates(read.graph)):
            sizes = replaying.rehearse(self._model, read.graph, read.args, read.driver, self._limits, read.kwargs)
        if not isinstance(self._model, LanguageModel):
            return Measured(batch_size(self._model.arguments(read.args, read.kwargs)), 1, read.packs, sizes, passed=True)
        rows, width = self._model.tokens(read.args[0]).ids.shape
        return Measured(rows, width + read.steps, read.packs, sizes, passed=True)

    # Graphs

    def _read(self, work: Work) -> _Replay:
        graph = Graph.from_bytes(work.graph, self._limits)
        told = wire.unpacked(work.inputs, self._limits.inputs + 2**16)
        if not {"args"} <= told.keys() <= {"args", "kwargs", "driver"}:
            raise InputError("Read the inputs of a graph.", f"entries {', '.join(told)[:80] or 'none'}", "args, kwargs, driver")
        args, kwargs, driver = told["args"], told.get("kwargs") or {}, told.get("driver")
        if not isinstance(args, (tuple, list)) or not isinstance(kwargs, Mapping):
            raise InputError("Read the inputs of a graph.", f"args that are a {type(args).__name__}", "a list, and kwargs by name")
        if isinstance(self._model, LanguageModel):
            if kwargs or len(args) != 1:
                raise InputError(
                    "Run a language model.", f"{len(args)} inputs, {len(kwargs)} options", "one: a text, a prompt, a list of them"
                )
            args = (inputs.prompts(args[0], self._model),)
        device = self._model.device
        args, kwargs = fake.mapped((tuple(args), dict(kwargs)), lambda tensor: tensor.to(device))
        if driver is None:
            return _Replay(graph, self._model.prepare(args), kwargs, None)
        return _Replay(graph, self._model.prepare(args), kwargs, self._driver(driver, args), driver.get("new_tokens", 0))

    def _driver(self, told: Any, args: tuple[Any, ...]) -> Callable[..., Any]:
        driver = self._model.driver(told)
        if isinstance(self._model, LanguageModel):
            width, context = self._model.tokens(args[0]).ids.shape[1], self._model.sizes.context
            if width + told["new_tokens"] - 1 > context:
                found, works = f"a prompt of {width}", f"new_tokens={max(context - width + 1, 0)} at most: its context is {context}"
                raise PromptError(f"Generate {told['new_tokens']} tokens.", found, works)
        return driver

    def _together(self, reads: Mapping[str, _Replay], done: dict[str, Outcome], stop: Stop, limits: Limits | None) -> None:
        """Run graphs in one forward. Those that cannot be, and all where the time was too short for it, are left."""
        if len(reads) < 2:
            return
        stop.begin(reads)
        started, found = time.monotonic(), list[Replayed]()
        with Telling("", {}, stop):
            found = self._model.replay_together([(read.graph, read.args) for read in reads.values()], limits)
        share = (time.monotonic() - started) / len(reads)
        for job, replayed in zip(reads, found, strict=False):
            if replayed.error is None or not (stop.late or stop.cancelled([job])):
                with Telling(job, done, stop):
                    done[job] = Outcome(wire.packed({"saved": replayed.saved}))
                done[job] = dataclasses.replace(done[job], seconds=share)

    def _alone(self, read: _Replay, limits: Limits | None) -> bytes:
        with torch.set_grad_enabled(_differentiates(read.graph)):
            replayed = replaying.replay(self._model, read.graph, read.args, read.driver, limits, read.kwargs)
        return wire.packed({"saved": replayed.saved})

    # Methods

    def _method(self, job: str, work: Work, on_event: OnEvent, stop: Stop) -> bytes:
        method = registry.load("methods", work.method)
        if not isinstance(self._model, LanguageModel):
            raise InputError(f"Run {work.method} on {self._model.name}.", f"a {type(self._model).__name__}", "a language model")
        if type(work.seed) is not int or not 0 <= work.seed < 2**63:
            raise InputError(f"The seed of {work.method}.", str(work.seed)[:80], "a whole number from 0")
        chosen = inputs.arguments(method, work.arguments)
        last = [float("-inf")]

        def told(label: str, amount: float, total: float) -> None:
            stop.check()
            now = time.monotonic()
            if now - last[0] > _OFTEN or amount >= total:
                last[0] = now
                on_event(job, "progress", {"label": label, "done": amount, "total": total})

        with confining.confined(), reporting(told):
            return bytes(method(self._model, inputs.task(work.task, self._model), seed=work.seed, **chosen).to_bytes())


def _differentiates(graph: Graph) -> bool:
    """Whether gradients have to be kept; where not, the forward needs less memory."""
    return any(node.op in _GRADIENTS for node in graph.nodes)
