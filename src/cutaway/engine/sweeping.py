"""Many interventions on the same inputs, sharing all that they share.

Interventions are rows of one batch. Where the model is a `Stack`, an intervention costs only its cone, what lies after its first edit:

* its rows join the batch at the first block it touches, with the hidden state the base run had there; an edit of what runs before the blocks
  (embeddings) is made in a forward that ends where the blocks begin;
* if tokens only look back, interventions are grouped by the first token they touch, and earlier tokens come from the base run's keys and
  values;
* the head is applied at the last position alone, to many rows at once; so is the last block, as far as it takes tokens one by one.

An intervention that touches something else, and any intervention on a model that is not a stack, runs as a row of a packed whole forward, and a
`SlowSweepWarning` says so. A sweep splits itself so that, beside the base run's states, it holds no more than `budget` bytes, or one intervention.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from cutaway.engine.memory import Peak
from cutaway.engine.passes import editing
from cutaway.engine.place import Edit, Intervention, Place, parsed
from cutaway.engine.plan import BEFORE, Row, planned, refuse_mixed_rows
from cutaway.engine.site import FIRST, Callback, Enough, Site, attached
from cutaway.engine.stack import Stack, batch_size, repeated
from cutaway.errors import InputError

if TYPE_CHECKING:
    from cutaway.engine.model import Model

BUDGET = 256 * 2**20
"""Bytes of activations a sweep may hold at once, unless told otherwise. Larger batches gain nothing on a CPU."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Change = tuple[int, Place, Edit]
"""The number of an intervention among those that run together, where it changes something, and how."""

_PACKED = 16
"""Interventions in one packed whole forward, at most."""


@final
@dataclass
class _Base:
    """The base run: each block's arguments, the hidden state before each block and after the last, and the stack's own memory.

    arguments: of the forward. before: edits made before the blocks.
    """

    calls: list[Arguments]
    hidden: list[Tensor]
    memory: Any
    batch: int
    arguments: Arguments
    before: list[tuple[Place, Edit]]


def sweep(
    model: Model,
    inputs: tuple[Any, ...],
    edits: Sequence[Sequence[Intervention]],
    metric: Callable[[Tensor], Tensor],
    base: Sequence[Intervention],
    *,
    budget: int,
    progress: Callable[[float], None] | None,
    options: dict[str, Any],
) -> Tensor:
    """See `Model.sweep`."""
    refuse_mixed_rows(model)
    if not edits:
        raise InputError(f"Sweep {model.name}.", "no interventions", "a list of them, each a list of edits; an empty one changes nothing")
    arguments = model.arguments(inputs, options)
    batch = batch_size(arguments)
    plan, stack = planned(model, inputs, edits, base), model.stack
    results: dict[int, Tensor] = {}

    def packed(rows: Sequence[int]) -> Tensor:
        return _packed(model, inputs, arguments, batch, [[*base, *edits[i]] for i in rows])

    def keep(rows: Sequence[int], output: Tensor) -> None:
        values = metric(output.unflatten(0, (len(rows), batch)))
        results.update(zip(rows, values.clone(), strict=True))  # a copy: what is kept must not hold on to the whole output
        if progress is not None:
            progress(len(rows) / len(edits))

    with torch.no_grad():
        whole = plan.whole
        if whole:
            with Peak() as peak:  # the first by itself, to see how many there is room for
                keep(whole[:1], packed(whole[:1]))
            size = 1 if model.edits else max(1, min(_PACKED, budget // max(1, peak.bytes)))
            for first in range(1, len(whole), size):
                keep(whole[first : first + size], packed(whole[first : first + size]))
        if plan.rows and stack is not None:
            with stack.opening():
                run = _record(model, arguments, stack, editing(model, inputs, base), plan.before)
                rows, tails, room = [], [], 0
                for chunk in _chunks(plan.rows, run, stack, budget):
                    rows += [row.index for row in chunk]
                    tails.append(_resume(model, stack, run, chunk))
                    if len(rows) >= room:
                        room = max(1, budget // (4 * _finish(stack, rows, tails, keep)))
                if rows:
                    _finish(stack, rows, tails, keep)
    return torch.stack([results[i] for i in range(len(edits))])


def _chunks(rows: Sequence[Row], run: _Base, stack: Stack, budget: int) -> Iterator[list[Row]]:
    """Rows that run together: of one first token, in the order in which they join, as many as there is room for."""
    widest = max(run.hidden, key=Tensor.numel)
    for start in sorted({row.start for row in rows}):
        group = sorted((row for row in rows if row.start == start), key=lambda row: row.join)
        size = max(1, budget // (run.batch * stack.bytes(widest, start)))
        yield from (group[first : first + size] for first in range(0, len(group), size))


def _finish(stack: Stack, rows: list[int], tails: list[Tensor], keep: Callable[[Sequence[int], Tensor], None]) -> int:
    """Apply the head to all that waits for it; returns the bytes of one intervention's output."""
    output = stack.head(torch.cat(tails))
    keep(rows, output)
    size = output.numel() * output.element_size() // len(rows)
    rows.clear()
    tails.clear()
    return max(1, size)


def _record(
    model: Model, arguments: Arguments, stack: Stack, editing: Sequence[tuple[Site, Callback]], before: list[tuple[Place, Edit]]
) -> _Base:
    extra, memory = stack.begin()
    calls: list[Arguments] = []
    hidden: list[Tensor] = []

    def entering(raw: Arguments) -> None:
        calls.append(raw)
        hidden.append(next(iter((*raw[0], *raw[1].values()))))

    def leaving(raw: Any) -> None:
        hidden.append(FIRST.read(raw))
        raise Enough

    watching = [(Site(f"block {i}", block, "", "inputs"), entering) for i, block in enumerate(stack.blocks)]
    batch = batch_size(arguments)
    model.ran(batch)
    # a block's state is recorded after edits of the output before it and before edits of its own input, which resuming makes anew
    with attached([*watching, *editing, (Site("last block", stack.blocks[-1], "", "output"), leaving)]), contextlib.suppress(Enough):
        model.module(*arguments[0], **(arguments[1] | extra))
    return _Base(calls, hidden, memory, batch, arguments, before)


def _enter(model: Model, stack: Stack, run: _Base, rows: Sequence[Row]) -> Tensor:
    """The states (rows, tokens, ...) with which rows enter the first block that edit something before it."""
    found: list[Tensor] = []
    edits = [(n, place, edit) for n, row in enumerate(rows) for place, edit in (*run.before, *row.entering)]

    def entering(raw: Arguments) -> None:
        found.append(next(iter((*raw[0], *raw[1].values()))))
        raise Enough

    args, kwargs = repeated(run.arguments, len(rows), run.batch)
    callbacks = [*_changing(edits, run.batch), (Site("first block", stack.blocks[0], "", "inputs"), entering)]
    with attached(callbacks), contextlib.suppress(Enough):
        model.module(*args, **kwargs)
    return found[0]


def _resume(model: Model, stack: Stack, run: _Base, chunk: Sequence[Row]) -> Tensor:
    """Run the rows of a chunk, sorted by the block they join before, to what the head needs of them."""
    every, start, last = torch.arange(run.batch), chunk[0].start, len(stack.blocks) - 1
    active = 0
    hidden: Tensor | None = None

    def join(before: int) -> None:
        nonlocal active, hidden
        new = [row for row in chunk[active:] if row.join == before]
        if not new:
            return
        joined = _from(_enter(model, stack, run, new), stack, start) if before == BEFORE else _entering(run, stack, new)
        hidden = joined if hidden is None else torch.cat([hidden, joined])
        active += len(new)

    edits = [(number, place, edit) for number, row in enumerate(chunk) for place, edit in row.inside]
    parts = {id(part) for part in stack.blocks[last].modules()}
    edited = any(id(place.site.module) in parts and place.site.key != (id(stack.blocks[last]), "inputs") for _, place, _ in edits)
    with attached(_changing(edits, run.batch, start, lambda: active)):
        join(BEFORE)
        for block in range(max(0, chunk[0].join), len(stack.blocks)):
            join(block)
            assert hidden is not None
            model.ran(hidden.shape[0] / len(stack.blocks) * stack.share(run.hidden[0], start))
            rows = every.repeat(active).to(hidden.device)
            if block == last and not edited:
                hidden = stack.finish(hidden, run.calls[block], run.memory, rows, start)
                continue
            hidden = stack.resume(block, hidden, run.calls[block], run.memory, rows, start)
            hidden = stack.tail(hidden) if block == last else hidden
    late = [stack.tail(_entering(run, stack, chunk[active:]))] if active < len(chunk) else []  # they edit the last block's output
    return torch.cat(late if hidden is None else [hidden, *late])


def _entering(run: _Base, stack: Stack, rows: Sequence[Row]) -> Tensor:
    """The base run's states before a block for rows that join there, with the edits made on joining."""
    entering = _from(run.hidden[rows[0].join], stack, rows[0].start)
    joined = entering.repeat(len(rows), *([1] * (entering.ndim - 1)))
    every = torch.arange(run.batch)
    for number, row in enumerate(rows):
        for place, edit in row.entering:
            place.shifted(row.start, every + number * run.batch).edit_into(joined, edit)
    return joined


def _packed(model: Model, inputs: tuple[Any, ...], arguments: Arguments, batch: int, edits: Sequence[Sequence[Intervention]]) -> Tensor:
    """Whole forwards, the batch repeated once per intervention, to the output at the last position."""
    changes = [(number, model.place(address, inputs), edit) for number, one in enumerate(edits) for address, edit in parsed(one)]
    model.ran(batch * len(edits))
    args, kwargs = repeated(arguments, len(edits), batch)
    with model.acting(), attached(_changing(changes, batch)):
        return model.last(model.module(*args, **kwargs))


def _changing(
    changes: Iterable[Change], batch: int, start: int = 0, active: Callable[[], int] | None = None
) -> list[tuple[Site, Callback]]:
    """Callbacks that make changes of interventions that run together, each `batch` rows of tokens from `start` on; only the first `active` of them.

    An event that one intervention changes under several names is changed in the order given, for each intervention by itself.
    """
    every = torch.arange(batch)
    last: dict[tuple[int, tuple[int, str]], tuple[int, str]] = {}
    groups: dict[tuple[int, str], list[Change]] = {}
    for number, place, edit in changes:
        turn, name = last.get((number, place.site.key), (0, place.site.name))
        turn += name != place.site.name
        last[number, place.site.key] = turn, place.site.name
        groups.setdefault((turn, place.site.name), []).append((number, place.shifted(start, every + number * batch), edit))

    def change(raw: Any, group: list[Change]) -> Any:
        site = group[0][1].site
        value = group[0][1].checked(site.view.read(raw)).clone()
        for number, place, edit in group:
            if active is None or number < active():
                place.edit_into(value, edit)
        return site.view.write(raw, value)

    return [(group[0][1].site, partial(change, group=group)) for _, group in sorted(groups.items(), key=lambda item: item[0][0])]


def _from(hidden: Tensor, stack: Stack, start: int) -> Tensor:
    return hidden[:, start:] if stack.causal else hidden
