"""A model that runs elsewhere, used like one that runs here.

    lm = cut.connect("http://127.0.0.1:8000").open("induction_lm")
    with lm.trace("red blue gold red") as run:          # the body is recorded on shapes
        lm.layers[0].output = lm.layers[0].output * 2
        run.save(logits=lm.logits[0, -1])
    run.saved["logits"]                                 # and was run, at the block's end, where the weights are

Only what a body saves travels. `cut.locate.causal_trace(lm, "facts")` runs there as a whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, final

import torch
from torch import Tensor

from cutaway.address import Address
from cutaway.engine import fake
from cutaway.engine.graph import Graph
from cutaway.engine.interleave import Trace
from cutaway.engine.model import Model
from cutaway.engine.node import Node
from cutaway.engine.passes import Readings
from cutaway.engine.place import Intervention
from cutaway.engine.plan import refuse_mixed_rows
from cutaway.engine.replaying import Replayed
from cutaway.engine.stack import batch_size
from cutaway.engine.steps import Steps
from cutaway.engine.streaming import Stream
from cutaway.errors import InputError, TraceError
from cutaway.models.language import LanguageModel, Text
from cutaway.remote import bodies, inputs
from cutaway.remote.connection import Connection
from cutaway.remote.job import SOON, RemoteJob, finished, submitted
from cutaway.remote.session import Session
from cutaway.remote.work import Work
from cutaway.tasks.base import Task

_OUTPUT = "_returned"
"""The name under which what the forward returned travels."""
_LOCAL: Mapping[str, str] = {
    **dict.fromkeys(("cache", "suffix"), "lm.run(..., read=[...]), lm.sweep or a method"),
    **dict.fromkeys(("batch", "replay_together"), "several runs with wait=False: the server packs them"),
    **dict.fromkeys(("edit", "edited", "edits", "acting"), "the same lines in the body of each run"),
    **dict.fromkeys(("head_writes", "word_directions"), "the weights inside a body: lm.layers[0].attn.o_proj.weight"),
}
"""What needs weights at hand -> what works instead."""
_BATCH = 32
_TOKENS, _TOGETHER = 1_024, 64
"""Tokens, and interventions, in one forward of a sweep at most."""
_UNDER_WAY = 8
"""Jobs of a sweep that are under way at once."""


class _Left(Exception):
    """Leaves a recording's forward where it is: what runs after the body changes nothing that is sent."""


@final
class RemoteTrace:
    """`with lm.trace(x) as run:`; `run.saved` holds what the body saved, after the block. `job`: the run's, once the block has been left."""

    def __init__(self, trace: Trace, submit: Callable[[Graph], RemoteJob], driven: bool, wait: bool) -> None:
        self._trace, self._submit, self._driven, self._wait = trace, submit, driven, wait
        self._stopped = False
        self.job: RemoteJob | None = None

    def __enter__(self) -> RemoteTrace:
        self._trace.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._trace.__exit__(kind, error, trace)
            return
        self._trace.__exit__(_Left, _Left(), None)
        graph = self._trace.graph
        if self._driven and not self._stopped:
            last = len(graph.nodes)
            save = Node("save", (), {_OUTPUT: {"ref": [last]}})
            graph = Graph((*graph.nodes, Node("output"), save), graph.constants, graph.model)
        self.job = self._submit(graph)
        if self._wait:
            self._settle(finished(self.job))

    @property
    def saved(self) -> dict[str, Any]:
        """What the body saved, by name. Waits for the run to end. Raises the error that ended it."""
        if self.job is not None and not self._settled:
            self._settle(self.job.result())
        return self._trace.saved

    @property
    def output(self) -> Any:
        """What the forward returned: inside the block, to go on with; after it the value, of a run that `fn` drove. Raises TraceError."""
        if self.job is None:
            return self._trace.output
        _ = self.saved
        if self._value is None:
            works = "run.save(logits=lm.logits) in the body, and run.saved['logits']"
            raise TraceError("Read the output of this run.", "one that stayed where the weights are", works)
        return self._value

    @property
    def graph(self) -> Graph:
        """The body as an intervention graph."""
        return self._trace.graph

    @property
    def steps(self) -> Steps:
        """The calls of the model, one after the other."""
        return self._trace.steps

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each value that is saved; known before it travels."""
        return self._trace.sizes

    def save(self, **values: Any) -> None:
        """Keep values by name: they travel."""
        self._trace.save(**values)

    def stop(self) -> None:
        """End the forward here. The body goes on; nothing more can be read."""
        self._stopped = True
        self._trace.stop()

    _settled = False
    _value: Any = None

    def _settle(self, saved: dict[str, Any]) -> None:
        self._value = saved.pop(_OUTPUT, None)
        self._trace.settle(saved)
        self._settled = True


@final
class RemoteModel:
    """Names, sizes and tokens are those of a model without weights; what runs, runs on the server. Attributes not listed here are that model's."""

    def __init__(self, connection: Connection, thin: Model) -> None:
        self._connection, self._thin = connection, thin
        self._order = bodies.Order(thin)

    # Reading and changing

    def trace(self, *given: Any, fn: Callable[..., Any] | None = None, wait: bool = True, seed: int = 0, **options: Any) -> RemoteTrace:
        """Open one forward, as `Model.trace`. Its body is recorded: see `docs/usage/record.md` for what it may do, and `stream` for the rest.

        wait: for the run, at the block's end; else `run.job` is there at once, and `run.saved` waits. seed: of operations in the body that draw.
        """
        sent = inputs.sent(self._thin, given, options, fn)
        trace = self._thin.record(*given, fn=fn, seed=seed, **options)
        return RemoteTrace(trace, lambda graph: self._submitted(graph, sent, SOON if wait else 0.0), fn is not None, wait)

    def generate(self, text: Text, *, new_tokens: int = 20, temperature: float = 0.0, seed: int = 0, wait: bool = True) -> RemoteTrace:
        """Open a generation, as `LanguageModel.generate`: `run.output` is ids (rows, prompt and new tokens), after the block."""
        self._language.refuse_longer(self._language.tokens(text), new_tokens)
        fn = self._language.generation(new_tokens=new_tokens, temperature=temperature, seed=seed)
        return self.trace(text, fn=fn, wait=wait, seed=seed)

    def run(self, *given: Any, edits: Sequence[Intervention] = (), read: Sequence[Address | str] = (), **options: Any) -> Readings:
        """One forward with `edits` made and `read` kept, as `Model.run`; edits are functions of recorded tensors here. Raises RecordError."""
        sent, thin = inputs.sent(self._thin, given, options), self._thin
        prepared = thin.prepare(given)
        named = bodies.sites(thin, [*(address for address, _ in edits), *read])
        order = self._order.of(named, prepared, options)
        with torch.no_grad(), thin.record(*given, **options) as trace:
            addresses = bodies.run(thin, trace, prepared, edits, read, order)
            if not addresses:
                like = trace.output
                trace.save(**{_OUTPUT: like})
        saved = finished(self._submitted(trace.graph, sent))
        if not addresses:
            return Readings({}, _rebuilt(like, saved[_OUTPUT]))
        return Readings({address: saved[f"read{n}"] for n, address in enumerate(addresses)})

    def gradients(
        self,
        *given: Any,
        of: Callable[[Any], Tensor],
        at: Sequence[Address | str],
        edits: Sequence[Intervention] = (),
        **options: Any,
    ) -> tuple[Readings, Readings]:
        """Values at addresses, and the gradient of `of(output).sum()` with respect to each, as `Model.gradients`. Raises RecordError."""
        sent, thin = inputs.sent(self._thin, given, options), self._thin
        prepared = thin.prepare(given)
        order = self._order.of(bodies.sites(thin, [*(address for address, _ in edits), *at]), prepared, options)
        with torch.enable_grad(), thin.record(*given, **options) as trace:
            addresses = bodies.gradients(thin, trace, prepared, of, at, edits, order)
        saved = finished(self._submitted(trace.graph, sent))
        values, slopes = ({a: saved[f"{kind}{n}"] for n, a in enumerate(addresses)} for kind in ("value", "slope"))
        return Readings(values), Readings(slopes)

    def sweep(
        self,
        *given: Any,
        edits: Sequence[Sequence[Intervention]],
        metric: Callable[[Tensor], Tensor],
        base: Sequence[Intervention] = (),
        progress: Callable[[float], None] | None = None,
        **options: Any,
    ) -> Tensor:
        """Many interventions on the same inputs, as `Model.sweep`; only the metric's numbers travel.

        metric and edits are functions of recorded tensors here. Interventions are rows of whole forwards: their numbers are those of a local
        sweep up to the order of floating-point sums. Returns (interventions, rows, ...). Raises InputError, RecordError.
        """
        thin = self._thin
        refuse_mixed_rows(thin)
        if not edits:
            raise InputError(
                f"Sweep {self.name}.", "no interventions", "a list of them, each a list of edits; an empty one changes nothing"
            )
        prepared = thin.prepare(given)
        batch = batch_size(thin.arguments(prepared, dict(options)))
        whole = [[*base, *one] for one in edits]
        named = bodies.sites(thin, dict.fromkeys(str(address) for one in whole for address, _ in one))
        order = self._order.of(named, prepared, options)
        tokens = prepared[0].ids.numel() if isinstance(thin, LanguageModel) else batch
        size = max(1, min(_TOGETHER, _TOKENS // tokens))
        values: list[Tensor] = []
        waiting = deque[tuple[int, RemoteJob]]()

        def take() -> None:
            n, job = waiting.popleft()
            values.append(finished(job)["values"])
            if progress is not None:
                progress(n / len(whole))

        for first in range(0, len(whole), size):
            some = whole[first : first + size]
            repeated, more = inputs.times(thin, given, options, len(some))
            with torch.no_grad(), thin.record(*repeated, **more) as trace:
                bodies.sweep(thin, trace, prepared, batch, some, metric, order)
            waiting.append((len(some), self._submitted(trace.graph, inputs.sent(thin, repeated, more), 0.0)))
            if len(waiting) == _UNDER_WAY:
                take()
        while waiting:
            take()
        return torch.cat(values)

    def replay(self, graph: Graph, *given: Any, fn: Callable[..., Any] | None = None, **options: Any) -> Replayed:
        """Run a recorded body there: `.saved` holds what it saved."""
        return Replayed(finished(self._submitted(graph, inputs.sent(self._thin, given, options, fn))))

    def stream(self, *given: Any, fn: Any = None, **options: Any) -> Stream:
        """As `trace`, for a body whose Python needs values: the forward is parked on the server while it runs here."""
        return self._thin.stream(*given, to=Session(self._connection, self.name), fn=fn, **options)

    def scan(self, *given: Any, **options: Any) -> Trace:
        """A body on shapes alone, here."""
        return self._thin.scan(*given, **options)

    def record(self, *given: Any, **options: Any) -> Trace:
        """A body written down, here: `run.graph` can be replayed on any inputs."""
        return self._thin.record(*given, **options)

    def next_logits(self, text: Text) -> Tensor:
        """Logits (batch, vocab) after the last token of each prompt, for any number of prompts of any lengths."""
        lm = self._language
        listed: Any = inputs.listed(lm, text)
        if len(listed) > _BATCH:
            return torch.cat([self.next_logits(listed[i : i + _BATCH]) for i in range(0, len(listed), _BATCH)])
        with torch.no_grad(), self.trace(listed) as run:
            run.save(logits=lm.unembed(lm.layers[lm.sizes.n_layers - 1].output[:, -1]))
        logits: Tensor = run.saved["logits"]
        return logits

    # Methods

    def submit(self, method: str, task: str | Task, *, seed: int = 0, **arguments: Any) -> RemoteJob:
        """Have a method run there: `lm.submit("locate.causal_trace", "facts:n=20", window=4)`. Returns at once."""
        work = Work("method", self.name, method=method, task=inputs.task(task), arguments=arguments, seed=seed)
        return submitted(self._connection, work)

    def call_method(self, method: str, task: str | Task, **arguments: Any) -> Any:
        """What `cut.locate.causal_trace(lm, task)` does with a model that runs elsewhere: the method runs there, and its result comes back."""
        return finished(self.submit(method, task, **arguments))

    # Names

    @property
    def name(self) -> str:
        """The model's name on its server."""
        return self._thin.name

    @property
    def _language(self) -> LanguageModel:
        if not isinstance(self._thin, LanguageModel):
            raise InputError(f"Use {self.name} on texts.", f"a {type(self._thin).__name__}", "a language model")
        return self._thin

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in _LOCAL:
            raise InputError(f"{name} of {self.name}.", "a model whose weights are elsewhere", _LOCAL[name])
        return getattr(self._thin, name)

    def __getitem__(self, index: int | str) -> Any:
        return self._thin[index]

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        elif name in _LOCAL:
            raise InputError(f"{name} of {self.name}.", "a model whose weights are elsewhere", _LOCAL[name])
        else:
            setattr(self._thin, name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._thin)} - set(_LOCAL))

    def __repr__(self) -> str:
        return f"<RemoteModel {self.name} at {self._connection.url}: {type(self._thin.module).__name__}>"

    def _submitted(self, graph: Graph, sent: bytes, wait: float = SOON) -> RemoteJob:
        return submitted(self._connection, Work("graph", self.name, graph=graph.to_bytes(), inputs=sent), wait)


def _rebuilt(like: Any, value: Any) -> Any:
    """A value that travelled as plain mappings, in the classes that it had."""
    left = iter(fake.tensors(value))
    return fake.mapped(like, lambda tensor: next(left))
