"""Several intervention graphs, each on inputs of its own, in one forward.

The inputs are rows of one batch, shorter ones padded on the left. At each point a graph is given a copy of its own rows, without the padding,
and what it writes goes back to those rows alone: nothing it holds shares memory with another's. Its shapes are those it would have alone.

Results equal those of separate runs up to the order of floating-point sums in larger batches: 1e-4 of the largest value in float32. A graph runs by
itself, as exactly as `replay`, if it takes gradients, steps through several calls of the model, or uses a value that is not laid out by rows.
One that fails runs again by itself, and does not disturb the others.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from cutaway.engine.fake import mapped, tensors
from cutaway.engine.graph import Graph
from cutaway.engine.interleave import Trace
from cutaway.engine.interpreter import Interpreter, Request, Weights, spent
from cutaway.engine.node import Limits
from cutaway.engine.operations import IN_PLACE
from cutaway.engine.plan import refuse_mixed_rows
from cutaway.engine.replaying import Replayed, refuse_other, rehearse, replaced, replay
from cutaway.engine.rows import Layout, layouts, width
from cutaway.engine.site import Site, attached
from cutaway.errors import CutawayError, EngineError, GraphError, InputError

if TYPE_CHECKING:
    from cutaway.engine.model import Model

_ALONE = ("begin", "torch.autograd.grad", "Tensor.requires_grad_")
"""Words and operations of graphs that run by themselves."""
_OUTPUT = "output"


@final
@dataclass(frozen=True)
class Rows:
    """Where one job's inputs lie in a packed batch: its rows, and the tokens of padding that stand before all of them."""

    start: int
    stop: int
    padding: int = 0


@final
@dataclass
class _Job:
    graph: Graph
    rows: Rows
    requests: Generator[Request, Any, None]
    done: Replayed = field(default_factory=Replayed)
    word: str = ""
    args: tuple[Any, ...] = ()
    site: Site | None = None
    left: list[tuple[Tensor, int]] = field(default_factory=list)
    stopped: bool = False
    failed: bool = False

    def __post_init__(self) -> None:
        self.changing = any(node.op in IN_PLACE or node.op.startswith("functional.") for node in self.graph.nodes)


def replay_together(model: Model, jobs: Sequence[tuple[Graph, Any]], limits: Limits | None) -> list[Replayed]:
    """See `Model.replay_together`."""
    results: list[Replayed | None] = [None] * len(jobs)
    prepared: dict[int, tuple[Any, ...]] = {}
    sites: dict[int, dict[str, Site]] = {}
    for number, (graph, inputs) in enumerate(jobs):
        try:
            graph.check(limits)
            prepared[number] = model.prepare(inputs if isinstance(inputs, tuple) else (inputs,))
            sites[number] = _sites(model, graph)
            if not any(node.op in _ALONE for node in graph.nodes) and limits is not None:
                rehearse(model, graph, prepared[number], None, limits, {})
        except CutawayError as error:
            results[number] = Replayed(error=error)
    waiting = [number for number, result in enumerate(results) if result is None]
    fit = [number for number in waiting if not any(node.op in _ALONE for node in jobs[number][0].nodes)]
    try:
        refuse_mixed_rows(model)
        laid = layouts(model, [prepared[n] for n in fit], {k: v for n in fit for k, v in sites[n].items()}) if len(fit) > 1 else {}
        fit = [n for n in fit if all(laid.get(name) is not None for name in sites[n])]
        if len(fit) > 1:
            done = _Packed(
                model, [jobs[n][0] for n in fit], [prepared[n] for n in fit], {k: v for k, v in laid.items() if v is not None}
            ).run()
            results = [dict(zip(fit, done, strict=True)).get(n, result) for n, result in enumerate(results)]
    except (InputError, EngineError):  # inputs or a model that cannot be packed
        pass
    return [_alone(model, jobs[n][0], prepared[n], limits) if result is None else result for n, result in enumerate(results)]


def _alone(model: Model, graph: Graph, inputs: tuple[Any, ...], limits: Limits | None) -> Replayed:
    try:
        return replay(model, graph, inputs, None, limits, {})
    except CutawayError as error:
        return Replayed(error=error)


def _sites(model: Model, graph: Graph) -> dict[str, Site]:
    """Every site that a graph will ask for, by the name it has here. Raises UnknownNameError, AddressError."""
    found = {_OUTPUT: Site(_OUTPUT, model.module, "", "output")}
    for node in graph.nodes:
        if node.op in ("read", "write", "skip"):
            found[_name(node.op, node.args[0])] = _site(model, node.op, node.args[0])
    return found


def _name(word: str, path: str) -> str:
    return f"{path} skipped" if word == "skip" else path


def _site(model: Model, word: str, path: str) -> Site:
    # a module cannot be skipped for some rows: it runs for all, and what it returns is replaced
    return replaced(model, path) if word == "skip" else model.site(path)


@final
class _Packed:
    """One forward and the jobs that take part in it."""

    def __init__(self, model: Model, graphs: Sequence[Graph], inputs: Sequence[tuple[Any, ...]], laid: Mapping[str, Layout]) -> None:
        self._model, self._laid = model, laid
        together, rows = model.together(inputs)
        self._arguments = model.arguments(together, {})
        self._total, self._width = rows[-1].stop, width(together)
        weights = Weights(model)
        made = [Interpreter(model, graph.constants, weights=weights) for graph in graphs]
        self._jobs = [_Job(g, r, i.execute(g.nodes, spent(g.nodes))) for g, r, i in zip(graphs, rows, made, strict=True)]
        self._busy = False
        self._copied: set[int] = set()

    def run(self) -> list[Replayed | None]:
        """What each job comes to; None for one that failed."""
        sites = {site.key: site for job in self._jobs for site in _sites(self._model, job.graph).values()}
        with torch.no_grad():
            for job in self._jobs:
                self._go_on(job, None)
            with attached([(site, partial(self._event, key)) for key, site in sites.items()]):
                args, kwargs = self._arguments
                output = self._model.module(*args, **kwargs)
            for job in self._jobs:
                self._finish(job, output)
        return [None if job.failed else job.done for job in self._jobs]

    def _event(self, key: tuple[int, str], raw: Any) -> Any:
        """In the forward: serve every job that waits for this event."""
        if self._busy:  # a module that a graph calls by itself
            return None
        self._busy, self._copied = True, set()
        try:
            for job in self._jobs:
                while job.site is not None and job.site.key == key:
                    raw = self._serve(job, job.site, raw)
        finally:
            self._busy = False
        return raw

    def _serve(self, job: _Job, site: Site, raw: Any) -> Any:
        """Let a job go on at a site until it wants another; returns the event's value with what it wrote."""
        try:
            name = _name(job.word, site.name)
            value = mapped(self._own(site.view.read(raw), name, job.rows), Tensor.clone)
            versions, changed = _versions(value), False
            while job.site is not None and (job.site.name, job.site.key) == (site.name, site.key):
                if job.word == "read":
                    self._go_on(job, value)
                else:
                    value, changed = job.args[1], True
                    self._go_on(job, None)
            if (changed or _versions(value) != versions) and not job.failed:
                raw = self._put(raw, value, site, name, job.rows)
            if job.changing:
                job.left += [(tensor, tensor._version) for tensor in tensors(value)]
        except (CutawayError, RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError):
            self._fail(job)
        return raw

    def _go_on(self, job: _Job, reply: Any) -> None:
        """Compute a job's nodes to the next word that the forward has to answer."""
        job.site = None
        try:
            word, args, kwargs = job.requests.send(reply)
            while word == "save":
                job.done.saved.update(kwargs)
                word, args, kwargs = job.requests.send(None)
            job.word, job.args = word, args
            if word in ("read", "write", "skip"):
                job.site = _site(self._model, word, args[0])
        except StopIteration:
            job.word = ""
        except CutawayError:
            self._fail(job)
        if any(tensor._version != version for tensor, version in job.left):  # its copy: the forward's value has gone on without the change
            self._fail(job)
        if job.word == "stop":
            job.stopped = True
            self._go_on(job, None)
            if job.site is not None or job.word == "output":
                self._fail(job)

    def _finish(self, job: _Job, output: Any) -> None:
        """After the forward: what waits for its output, and what never came."""
        if job.failed:
            return
        own = mapped(self._own(output, _OUTPUT, job.rows), Tensor.clone)
        while job.word == "output":
            self._go_on(job, own)
        if job.site is not None:
            self._fail(job)
        elif not job.stopped:
            job.done.finish(own)

    def _fail(self, job: _Job) -> None:
        job.failed, job.site, job.word = True, None, ""
        job.requests.close()

    def _own(self, value: Any, name: str, rows: Rows) -> Any:
        """A job's own part of a packed value, as views. Raises GraphError if it is not laid out as it was found to be."""
        laid = self._laid[name]
        found = tensors(value)
        fits = len(found) == len(laid) and all(
            t.ndim > 0 and t.shape[0] == self._total and all(t.shape[axis] == self._width for axis in axes)
            for t, axes in zip(found, laid, strict=False)
        )
        if not fits:
            raise GraphError(f"Read {name} in a batch.", f"tensors of shapes {[tuple(t.shape) for t in found]}", "model.replay, by itself")
        axes = iter(laid)

        def own(tensor: Tensor) -> Tensor:
            part = tensor[rows.start : rows.stop]
            for axis in next(axes):
                part = part.narrow(axis, rows.padding, self._width - rows.padding)
            return part

        return mapped(value, own)

    def _put(self, raw: Any, value: Any, site: Site, name: str, rows: Rows) -> Any:
        """The event's value with one job's rows replaced. The forward's own tensor is copied once for all jobs, and not changed."""
        whole = site.view.read(raw)
        copied = _storages(whole) <= self._copied
        if not copied:
            whole = mapped(whole, Tensor.clone)
        own = self._own(whole, name, rows)
        refuse_other(own, value, site.name)
        for old, new in zip(tensors(own), tensors(value), strict=True):
            old.copy_(new)
        if not copied:
            raw = site.view.write(raw, whole)
            self._copied |= _storages(site.view.read(raw)) & _storages(raw)
        return raw


@final
class Batch:
    """Bodies that share one forward. Each is recorded, so its values have shapes and no numbers until the batch ends."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._bodies: list[tuple[Trace, tuple[Any, ...]]] = []

    def invoke(self, *inputs: Any) -> Trace:
        """One body: `with batch.invoke(inputs) as run:`; what it saves with `run.save(name=value)` is in `run.saved` after the batch."""
        trace = self._model.record(*inputs)
        self._bodies.append((trace, inputs))
        return trace

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            return
        if not self._bodies:
            raise InputError("Run a batch.", "no bodies", "with batch.invoke(inputs) as run: inside it")
        done = replay_together(self._model, [(run.graph, inputs) for run, inputs in self._bodies], None)
        for (run, _), result in zip(self._bodies, done, strict=True):
            if result.error is None:
                run.settle(result.saved, *([result.output] if result.finished else []))
        for result in done:
            if result.error is not None:
                raise result.error


def together(inputs: Sequence[tuple[Any, ...]]) -> tuple[tuple[Any, ...], list[Rows]]:
    """Inputs that are tensors of one shape per row, as one batch. Raises InputError."""
    first = inputs[0]
    for other in inputs:
        fits = len(other) == len(first) and all(
            isinstance(a, Tensor) and isinstance(b, Tensor) and a.ndim > 0 and a.shape[1:] == b.shape[1:] and len(a) == len(other[0])
            for a, b in zip(other, first, strict=True)
        )
        if not fits:
            raise InputError(
                "Pack inputs into one batch.", "inputs that are no tensors of one shape per row", "model.replay, one at a time"
            )
    starts = [0]
    for one in inputs:
        starts.append(starts[-1] + len(one[0]))
    rows = [Rows(a, b) for a, b in pairwise(starts)]
    return tuple(torch.cat(parts) for parts in zip(*inputs, strict=True)), rows


def _storages(value: Any) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in tensors(value)}


def _versions(value: Any) -> list[tuple[int, int]]:
    return [(id(tensor), tensor._version) for tensor in tensors(value)]
