"""A module and the names of its parts: what the engine runs.

`Model` is the interface; `models/` makes the two kinds there are (any module, a language model). A kind says how a name becomes a site and how
inputs become the arguments of the forward.
"""

from __future__ import annotations

import copy
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Self

import torch
from greenlet import greenlet
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cutaway.address import Address
from cutaway.engine import caching, fake, handle, packing, passes, persistent, replaying, source, sweeping
from cutaway.engine.graph import Graph
from cutaway.engine.interleave import Trace, open_on
from cutaway.engine.node import Limits
from cutaway.engine.place import Intervention, Place
from cutaway.engine.recording import Recorder
from cutaway.engine.replaying import Replayed
from cutaway.engine.resuming import Suffix
from cutaway.engine.site import EVENTS, LOCK, Site
from cutaway.engine.stack import Stack
from cutaway.engine.streaming import Driver, Stream, StreamRecorder, Transport
from cutaway.errors import InputError, TraceError, UnknownNameError


class Model(ABC):
    """Runs `module` while something watches or changes it. Attributes that are not listed here are parts of the module by name."""

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module = module
        self.name = name
        self.forwards = 0.0
        """Forward passes run so far by `run`, `gradients` and `sweep`, counted in rows of a batch; a part of a pass counts as that part."""
        self._sites: dict[str, Site | None] = {}
        self._edits: tuple[Graph, ...] = ()

    # What a kind of model has to say

    def prepare(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Inputs in the form the other methods take them, such as texts made tokens."""
        return inputs

    @abstractmethod
    def arguments(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of the module's forward for what the user passed."""

    @abstractmethod
    def locate(self, point: str) -> Site | None:
        """The site of a standard name; None where this model has no such name."""

    @abstractmethod
    def below(self, path: str) -> Iterable[str]:
        """Standard names one step below a path, for completion and error messages."""

    @abstractmethod
    def native(self, path: str) -> str:
        """A path with its standard module names replaced by the module's own."""

    @abstractmethod
    def positions(self, address: Address, inputs: tuple[Any, ...]) -> Tensor | None:
        """Token positions (rows, k) an address selects in these inputs; None for all. Raises AddressError for an unknown role."""

    def together(self, inputs: Sequence[tuple[Any, ...]]) -> tuple[tuple[Any, ...], list[packing.Rows]]:
        """Prepared inputs of several runs as those of one, and where each lies in it. Raises InputError."""
        return packing.together(inputs)

    @abstractmethod
    def last(self, output: Any) -> Tensor:
        """What a metric sees of the forward's output: the output at the last position (rows, ...)."""

    @property
    @abstractmethod
    def stack(self) -> Stack | None:
        """The model's blocks, where they run one after the other and can be resumed."""

    # Reading and changing

    def trace(self, *inputs: Any, fn: Callable[..., Any] | None = None, **options: Any) -> Trace:
        """Open one forward: `with model.trace(x) as run:`, then read and assign `model.layers[3].output` and the like.

        fn: what drives the forward, instead of the module itself (such as a method that calls it). See `interleave` for what a body may do.
        """
        args, kwargs = self.arguments(self.prepare(inputs), options)
        return Trace(self, partial(fn or self.module, *args, **kwargs), driven=fn is not None)

    def ran(self, rows: float) -> None:
        """Count forwards that were not run by this class: one a row of the batch, parts of one where only some blocks ran."""
        with LOCK:  # threads may run one model at once
            self.forwards += rows

    @property
    def _open(self) -> Any:
        return open_on(self)

    @property
    def recorder(self) -> Recorder | None:
        """What writes down the body of the open trace; None where none is open, or it is not recorded."""
        trace = open_on(self)
        return None if trace is None else trace.recorder

    def opened(self, full: str) -> Any:
        """The trace in which `full` is to be read or written. Raises TraceError where none is open."""
        trace = open_on(self)
        if trace is None:
            raise TraceError(
                f"Read or write {full}.", "no trace is open", "inside `with model.trace(inputs):`, or model.run(inputs, read=[...])"
            )
        return trace

    def scan(self, *inputs: Any, fn: Callable[..., Any] | None = None, **options: Any) -> Trace:
        """As `trace`, on tensors that have shapes and no values: mistakes show, and `run.sizes`, before anything is computed.

        Weights may be on "meta".
        """
        return self._faked(inputs, fn, options, None)

    def record(self, *inputs: Any, fn: Callable[..., Any] | None = None, seed: int = 0, **options: Any) -> Trace:
        """As `scan`, and writes the body down: `run.graph` is an intervention graph, to be replayed on these or other inputs.

        seed: of operations in the body that draw. See `recording` for what can be recorded; `docs/usage/record.md` has the table.
        """
        return self._faked(inputs, fn, options, seed)

    def stream(self, *inputs: Any, to: Transport, fn: Driver | None = None, **options: Any) -> Stream:
        """As `trace`, with the forward elsewhere: this model needs no weights. `run.saved` holds what the body saved, after the block.

        to: where the forward is, such as `streaming.Hosted(model)` in this process. fn: what drives it, such as `lm.generation(new_tokens=5)`.
        Raises StreamError.
        """
        within = fake.mode()
        args, kwargs = self.arguments(self.prepare(inputs), options)
        opening = {"args": list(args), "kwargs": kwargs, "grad": torch.is_grad_enabled()} | ({} if fn is None else {"driver": fn.data()})
        recorder = StreamRecorder(self.module, self.name, within, to, opening)
        a, k = self.shapes((args, kwargs), within)
        forward = partial(fn or self.module, *a, **k)
        return Stream(Trace(self, forward, fn is not None, partial(fake.forward, self.module, within), recorder), recorder, to)

    def driver(self, told: Any) -> Callable[..., Any]:
        """What drives the forward of a stream, from what its `data` told. Raises InputError: only some kinds of model have any."""
        raise InputError(f"Drive {self.name}'s forward by {str(told)[:80]}.", f"a {type(self).__name__}", "model.stream without fn")

    def refuse(self, args: Sequence[Any], kwargs: Mapping[str, Any], driver: Any, tokens: int) -> None:
        """Raise InputError for arguments of the forward which a stranger sends, and which would bring down more than this one run.

        driver: what its `data` told, or None. tokens: rows x width that inputs may have.
        """
        return None

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for a model without them."""
        found = next((p.device for p in self.module.parameters()), torch.device("cpu"))
        return torch.device("cpu") if found.type == "meta" else found

    def shapes(self, arguments: Any, within: FakeTensorMode) -> Any:
        """Arguments as fake tensors, where the weights are."""
        return fake.faked(fake.mapped(arguments, lambda t: t.to("meta")) if fake.weightless(self.module) else arguments, within)

    def _faked(self, inputs: tuple[Any, ...], fn: Callable[..., Any] | None, options: dict[str, Any], seed: int | None) -> Trace:
        within = fake.mode()
        args, kwargs = self.shapes(self.arguments(self.prepare(inputs), options), within)
        recorder = None if seed is None else Recorder(self.module, self.name, within, seed)
        return Trace(
            self, partial(fn or self.module, *args, **kwargs), fn is not None, partial(fake.forward, self.module, within), recorder
        )

    def replay(
        self, graph: Graph, *inputs: Any, fn: Callable[..., Any] | None = None, limits: Limits | None = None, **options: Any
    ) -> Replayed:
        """Run a recorded body on real weights: bit-identical to the body itself. `.saved` holds what it saved, `.output` what the forward returned.

        limits: for a graph from elsewhere, what it may use; it is checked on shapes alone before anything is computed. Raises GraphError.
        """
        return replaying.replay(self, graph, self.prepare(inputs), fn, limits, options)

    def replay_together(self, jobs: Sequence[tuple[Graph, Any]], limits: Limits | None = None) -> list[Replayed]:
        """Several graphs, each on inputs of its own, in one forward. No graph sees another's rows. See `packing` for how exact it is."""
        return packing.replay_together(self, jobs, limits)

    def edit(self, *inputs: Any, **options: Any) -> persistent.Editing:
        """Record a body on the shapes of `inputs`, to act in every run: `with model.edit(x) as edited:`. See `persistent`.

        `edited` is a model of its own on the same weights; `model.edits = edited.edits` edits this one in place, and `model.edits = ()` undoes it.
        """
        return persistent.Editing(self, self.record(*inputs, **options))

    def edited(self, *graphs: Graph) -> Self:
        """A model on the same weights in whose runs the graphs act, after the edits this one has."""
        other = copy.copy(self)
        other.edits = (*self.edits, *graphs)
        return other

    def acting(self, owner: greenlet | None = None) -> AbstractContextManager[None]:
        """Hold this model's edits in forwards that `owner` runs (the calling greenlet, if not given)."""
        return persistent.acting(self, owner)

    @property
    def edits(self) -> tuple[Graph, ...]:
        """Graphs that act in every run of this model."""
        return self._edits

    @edits.setter
    def edits(self, graphs: Sequence[Graph]) -> None:
        self._edits = persistent.checked(graphs)

    def cache(
        self,
        inputs: Sequence[Any],
        read: Sequence[Address | str],
        *,
        batch: int = 8,
        device: str = "cpu",
        dtype: str | None = None,
        to: str | os.PathLike[str] | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> caching.Cached:
        """Values at many addresses over many inputs, `batch` of them in a forward. `layers[*].output` stands for every layer.

        device, dtype: where and as what values are kept. to: a folder that holds them instead of memory; a call that was interrupted goes on there.
        Raises InputError, UnknownNameError, StorageError.
        """
        return caching.cache(self, inputs, read, batch=batch, device=device, dtype=dtype, to=to, progress=progress)

    def points(self) -> tuple[str, ...]:
        """Every standard point this model has; for a module without standard names, the output of each of its parts."""
        return tuple(re.sub(r"(?<=[^\d.])\.(\d+)(?=\.)", r"[\1]", f"{name}.output") for name, _ in self.module.named_modules() if name)

    def batch(self) -> packing.Batch:
        """Several bodies in one forward: `with model.batch() as b:`, then `with b.invoke(inputs) as run:` for each.

        Values come when the batch ends.
        """
        return packing.Batch(self)

    def run(
        self,
        *inputs: Any,
        edits: Sequence[Intervention] = (),
        read: Sequence[Address | str] = (),
        **options: Any,
    ) -> passes.Readings:
        """One forward with `edits` made and `read` kept, stopped after the last of them, without gradients.

        Returns a mapping from address to tensor; with nothing to read the forward runs to its end and `.output` holds what it returned.
        Edits at one point are made in the order given, and reads see what the edits left.
        """
        return passes.run(self, self.prepare(inputs), edits, read, options)

    def gradients(
        self,
        *inputs: Any,
        of: Callable[[Any], Tensor],
        at: Sequence[Address | str],
        edits: Sequence[Intervention] = (),
        **options: Any,
    ) -> tuple[passes.Readings, passes.Readings]:
        """Values at addresses, and the gradient of `of(output).sum()` with respect to each, from one forward and one backward."""
        return passes.gradients(self, self.prepare(inputs), of, at, edits, options)

    def sweep(
        self,
        *inputs: Any,
        edits: Sequence[Sequence[Intervention]],
        metric: Callable[[Tensor], Tensor],
        base: Sequence[Intervention] = (),
        budget: int = sweeping.BUDGET,
        progress: Callable[[float], None] | None = None,
        **options: Any,
    ) -> Tensor:
        """Many interventions on the same inputs: as `run`, once per element of `edits`, but sharing all that they share.

        metric: takes outputs at the last position (interventions, rows, ...) to numbers (interventions, rows, ...).
        base: edits made in every one of them. budget: bytes that may be held at once. progress: told what part of all was done since.
        Returns (interventions, rows, ...), in the order given. See `sweeping` for what is shared.
        """
        return sweeping.sweep(self, self.prepare(inputs), edits, metric, base, budget=budget, progress=progress, options=options)

    def suffix(self, *inputs: Any, at: Sequence[Address | str], **options: Any) -> Suffix:
        """The rest of a run after some addresses, to be gone through any number of times with edits at them, with gradients. See `resuming`."""
        return Suffix(self, *inputs, at=at, **options)

    # Names

    def find(self, point: str) -> Site | None:
        """The site a point names, standard or native; None if it is not a point."""
        if point not in self._sites:
            self._sites[point] = self.locate(point) or self._source_site(point) or self._native_site(point)
        return self._sites[point]

    def site(self, point: str) -> Site:
        """The site a point names. Raises UnknownNameError."""
        found = self.find(point)
        if found is None:
            parent, _, _ = point.rpartition(".")
            near = {*self.below(parent), *self._children(parent), *EVENTS}
            raise UnknownNameError("point", point, (f"{parent}.{n}" if parent else n for n in near))
        return found

    def place(self, address: Address | str, inputs: tuple[Any, ...]) -> Place:
        """Where an address lies in these inputs. Raises AddressError or UnknownNameError."""
        address = Address.parse(address)
        return Place(address, self.site(address.point), self.positions(address, inputs))

    def module_at(self, path: str) -> nn.Module | None:
        """The module at a path of standard or native names; None if there is none."""
        try:
            return self.module.get_submodule(self.native(path))
        except AttributeError:
            return None

    def _native_site(self, point: str) -> Site | None:
        path, _, event = point.rpartition(".")
        module = self.module_at(path) if event in EVENTS else None
        return None if module is None else Site(point, module, self.native(path), event)

    def _source_site(self, point: str) -> Site | None:
        path, inside, below = point.partition(".source.")
        module = self.module_at(path) if inside else None
        return None if module is None else source.site(point, module, self.native(path), below)

    def _children(self, path: str) -> list[str]:
        module = self.module_at(path)
        return [] if module is None else [name for name, _ in module.named_children()]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "module" not in self.__dict__:
            raise AttributeError(name)
        return handle.step(self, "", self.module, name)

    def __getitem__(self, index: int | str) -> handle.Handle:
        """A part by number, or by path: `model["last"]` is the part that `model.last` would be if this class had no `last` of its own."""
        if not isinstance(index, str):
            return handle.Handle(self, "", self.module)[index]
        found = self.module_at(index)
        if found is None:
            parent, _, _ = index.rpartition(".")
            raise UnknownNameError(
                "part", index, (f"{parent}.{n}" if parent else n for n in (*self.below(parent), *self._children(parent)))
            )
        return handle.Handle(self, index, found)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") or name in self.__dict__ or name == "edits" or "_sites" not in self.__dict__ or self.find(name) is None:
            object.__setattr__(self, name, value)
        else:
            handle.write(self, name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.below(""), *self._children("")})

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.module.parameters())
        return f"<{type(self).__name__} {self.name}: {type(self.module).__name__}, {parameters:,} parameters>"
