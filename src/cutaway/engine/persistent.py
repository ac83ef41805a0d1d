"""Edits that stay: graphs that act in every forward an edited model runs.

    with model.edit("any prompt") as edited:        # the body is recorded on the prompt's shapes
        model.layers[5].mlp.output *= 0
    edited.run("another prompt")                    # a model of its own, on the same weights
    edited.edits[0].save("no-mlp-5.graph")          # and model.edited(Graph.load(...)) has it again
    model.edits = edited.edits                      # in place; model.edits = () undoes it, and nothing is left to undo

Nothing is written into the module: hooks are held while an edited model runs. So the unedited model, and other edited ones, may run at the same time.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, final

from greenlet import getcurrent, greenlet

from cutaway.engine.graph import Graph
from cutaway.engine.interleave import Trace
from cutaway.engine.interpreter import Interpreter, Request, Weights
from cutaway.engine.replaying import replaced
from cutaway.engine.site import Site, attach
from cutaway.errors import InputError

if TYPE_CHECKING:
    from cutaway.engine.model import Model

_REFUSED = ("begin", "stop", "output")


@final
@dataclass
class _Body:
    """One graph in one forward: what it waits for."""

    requests: Generator[Request, Any, None]
    word: str = ""
    args: tuple[Any, ...] = ()
    site: Site | None = None


@final
class _Acting:
    """The graphs of one run. Every call of the model starts them anew."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._bodies: list[_Body] = []
        self._weights = Weights(model)
        self._busy = False

    def sites(self) -> list[Site]:
        """Every event that the graphs wait for."""
        nodes = (node for graph in self._model.edits for node in graph.nodes if node.op in ("read", "write", "skip"))
        return list({site.key: site for site in (self._site(node.op, node.args[0]) for node in nodes)}.values())

    def start(self) -> None:
        """A forward begins."""
        if self._busy:  # a call of the model by a body
            return
        made = [Interpreter(self._model, graph.constants, weights=self._weights) for graph in self._model.edits]
        self._bodies = [_Body(one.execute(graph.nodes)) for one, graph in zip(made, self._model.edits, strict=True)]
        for body in self._bodies:
            self._go_on(body, None)

    def event(self, site: Site, raw: Any) -> Any:
        """In the forward: let every body that waits here read and write; returns what the forward goes on with."""
        if self._busy:
            return raw
        for body in self._bodies:
            while body.site is not None and body.site.key == site.key:
                if body.word == "read":
                    self._go_on(body, body.site.view.read(raw))
                else:
                    raw = body.site.view.write(raw, body.args[1])
                    self._go_on(body, None)
        return raw

    def _go_on(self, body: _Body, reply: Any) -> None:
        self._busy = True
        body.site = None
        try:
            word, args, _ = body.requests.send(reply)
            while word == "save":  # there is nobody to save for
                word, args, _ = body.requests.send(None)
            body.word, body.args, body.site = word, args, self._site(word, args[0])
        except StopIteration:
            pass
        finally:
            self._busy = False

    def _site(self, word: str, name: str) -> Site:
        # of a module that is skipped, what it would return is replaced after it has run
        return replaced(self._model, name) if word == "skip" else self._model.site(name)


@contextlib.contextmanager
def acting(model: Model, owner: greenlet | None = None) -> Iterator[None]:
    """Hold a model's edits in forwards that `owner` runs (the calling greenlet, if not given). They act before any other edit of the same event."""
    if not model.edits:
        yield
        return
    runner, acts = getcurrent() if owner is None else owner, _Acting(model)
    sites = acts.sites()
    with contextlib.ExitStack() as held:
        for opening in {site.opening for site in sites if site.opening is not None}:
            held.enter_context(opening(runner))
        held.callback(attach(model.module, "inputs", lambda raw: acts.start(), runner))
        for site in sites:
            held.callback(attach(site.module, site.event, lambda raw, site=site: acts.event(site, raw), runner))  # type: ignore[misc]
        yield


@final
class Editing:
    """`with model.edit(inputs) as edited:`: records the body; `edited` has it as one more edit when the block ends."""

    def __init__(self, model: Model, recording: Trace) -> None:
        self._edited, self._recording = copy.copy(model), recording

    def __enter__(self) -> Model:
        self._recording.__enter__()
        return self._edited

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._recording.__exit__(kind, error, trace)
        if kind is None:
            self._edited.edits = (*self._edited.edits, self._recording.graph)


def checked(graphs: Sequence[Graph]) -> tuple[Graph, ...]:
    """Graphs that can act in every run. Raises InputError for words that end or leave a forward, GraphError for a malformed graph."""
    for graph in graphs:
        if not isinstance(graph, Graph):
            raise InputError(
                f"Edit a model with a {type(graph).__name__}.", works="an intervention graph, as model.record and Graph.load make them"
            )
        graph.check()
        found = next((node for node in graph.nodes if node.op in _REFUSED), None)
        if found is not None:
            raise InputError(
                f"Let a graph act in every run: {found.op} at {found.line or '?'}.",
                "a body that ends or leaves its forward",
                "reads and writes",
            )
    return tuple(graphs)
