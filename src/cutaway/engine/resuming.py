"""Go on from the middle of a run, any number of times, with gradients: what training at a point of a model costs no more than it must.

    suffix = lm.suffix(texts, at=["layers[12].output[pos=-1]"])
    logits = suffix([("layers[12].output[pos=-1]", edit)], rows)    # of these rows of the batch; differentiable in what `edit` holds

Where the model is a `Stack` the run is recorded once, up to its blocks' end; a call runs the blocks after the first edit, and, where tokens only look
back, the tokens from the first edited one on. Any other model, or a point outside the blocks, is run whole at every call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from cutaway.address import Address
from cutaway.engine.place import Edit, Intervention, Place, parsed
from cutaway.engine.plan import BEFORE, Row, planned, refuse_mixed_rows
from cutaway.engine.site import ARGUMENT, FIRST, Callback, Enough, Site, attached
from cutaway.engine.stack import Stack, batch_size, repeated, rows_of
from cutaway.errors import InputError

if TYPE_CHECKING:
    from cutaway.engine.model import Model

_BACKWARD = 2
"""What a backward costs, in forwards."""


@final
class Suffix:
    """What a forward does after the addresses `at`. `n`: rows of the batch."""

    def __init__(self, model: Model, *inputs: Any, at: Sequence[Address | str], **options: Any) -> None:
        """Record the run, without gradients. Raises AddressError, UnknownNameError; EngineError for a model in a mode that mixes rows."""
        refuse_mixed_rows(model)
        self._model, self._stack = model, model.stack
        prepared = model.prepare(inputs)
        self._arguments = model.arguments(prepared, options)
        self.n = batch_size(self._arguments)
        self._places: dict[Address, tuple[Place, Row | None]] = {}
        for address in map(Address.parse, at):
            rows = planned(model, prepared, [[(address, _kept)]], ()).rows
            row = rows[0] if rows and rows[0].join != BEFORE else None
            self._places[address] = model.place(address, prepared), row
        resumed = [row for _, row in self._places.values() if row is not None]
        self._start = min((row.start for row in resumed), default=0)
        if self._stack is not None and resumed:
            with self._stack.opening(), torch.no_grad():
                self._record(self._stack, {row.join for row in resumed})

    def __call__(self, edits: Sequence[Intervention] = (), rows: Tensor | None = None) -> Tensor:
        """Output at the last position (rows, ...) with `edits` made at addresses of `at`; rows (k,): which of the batch, None for all.

        An edit is given the selected values of these rows. Raises InputError for an address that is not among those of `at`.
        """
        rows = torch.arange(self.n) if rows is None else rows.cpu()
        made: list[tuple[Place, Row | None, Edit]] = []
        for address, edit in parsed(edits):
            if address not in self._places:
                raise InputError(f"Resume a run at {address}.", works=", ".join(map(str, self._places)))
            made.append((*self._places[address], edit))
        resumed = [row for _, row, _ in made if row is not None]
        if self._stack is None or not made or len(resumed) < len(made):
            return self._whole([(self._chosen(place, rows, 0), edit) for place, _, edit in made], rows)
        join = min(row.join for row in resumed)
        here = [(self._chosen(place, rows, self._start), row.join == join and bool(row.entering), edit) for place, row, edit in made if row]
        with self._stack.opening():
            return self._resumed(self._stack, join, here, rows)

    def _resumed(self, stack: Stack, join: int, made: Sequence[tuple[Place, bool, Edit]], rows: Tensor) -> Tensor:
        last = len(stack.blocks) - 1
        inside = {id(part) for part in stack.blocks[last].modules()} if join <= last else set()
        hidden = self._hidden[join].index_select(0, rows.to(self._hidden[join].device))
        for place, entering, edit in made:
            hidden = _edited(place, hidden, edit) if entering else hidden
        later = [(place, edit) for place, entering, edit in made if not entering]
        self._count(len(rows) * (last + 1 - join) / (last + 1) * self._share)
        with attached(_changing(later)):
            for block in range(join, last + 1):
                call = self._calls[block]
                if block == last and not any(id(place.site.module) in inside for place, _ in later):
                    return stack.head(stack.finish(hidden, call, self._memory, rows.to(hidden.device), self._start))
                hidden = stack.resume(block, hidden, call, self._memory, rows.to(hidden.device), self._start)
        return stack.head(stack.tail(hidden))

    def _whole(self, made: Sequence[tuple[Place, Edit]], rows: Tensor) -> Tensor:
        args, kwargs = self._arguments
        if self.n == 1:
            args, kwargs = repeated((args, kwargs), len(rows), 1)
        else:
            args, kwargs = rows_of(args, rows, self.n), {name: rows_of(value, rows, self.n) for name, value in kwargs.items()}
        self._count(len(rows))
        with self._model.acting(), attached(_changing(made)):
            return self._model.last(self._model.module(*args, **kwargs))

    def _record(self, stack: Stack, joins: set[int]) -> None:
        """Keep the states with which blocks are joined, what else the blocks were called with, and the stack's own memory."""
        extra, memory = stack.begin()
        first = min(joins)
        self._calls: dict[int, Any] = {}
        self._hidden: dict[int, Tensor] = {}

        def keep(raw: Any, block: int) -> None:
            hidden: Tensor = ARGUMENT.read(raw)
            if block in joins:
                self._hidden[block] = self._cut(stack, hidden)
            # only the number of rows is read off the state that a call was recorded with
            self._calls[block] = ARGUMENT.write(raw, hidden.new_empty(hidden.shape[0], 0))
            self._share = stack.share(hidden, self._start)

        def leave(raw: Any) -> None:
            if len(stack.blocks) in joins:
                hidden: Tensor = FIRST.read(raw)
                self._hidden[len(stack.blocks)] = self._cut(stack, hidden)
            raise Enough

        self._share = 1.0
        watching: list[tuple[Site, Callback]] = [
            (Site(f"block {i}", block, "", "inputs"), partial(keep, block=i)) for i, block in enumerate(stack.blocks) if i >= first
        ]
        self._model.ran(self.n)
        with attached([*watching, (Site("last block", stack.blocks[-1], "", "output"), leave)]), contextlib.suppress(Enough):
            self._model.module(*self._arguments[0], **(self._arguments[1] | extra))
        self._memory = memory if self._start else None

    def _cut(self, stack: Stack, hidden: Tensor) -> Tensor:
        return (hidden[:, self._start :] if stack.causal else hidden).clone()

    def _chosen(self, place: Place, rows: Tensor, start: int) -> Place:
        """The place in a batch of these rows of the recorded one that holds tokens from `start` on."""
        positions = None if place.positions is None else place.positions.index_select(0, rows) - start
        return replace(place, positions=positions, rows=torch.arange(len(rows)))

    def _count(self, rows: float) -> None:
        self._model.ran(rows * (1 + _BACKWARD * torch.is_grad_enabled()))


def _kept(value: Tensor) -> Tensor:
    return value


def _edited(place: Place, value: Tensor, edit: Edit) -> Tensor:
    """A copy of `value` with the edit made in it; the edit is given values of the original, which a backward may still need as they are."""
    out = place.checked(value).clone()
    place.edit_into(out, lambda _: edit(place.read(value)))
    return out


def _changing(made: Sequence[tuple[Place, Edit]]) -> list[tuple[Site, Callback]]:
    def change(raw: Any, place: Place, edit: Edit) -> Any:
        view = place.site.view
        return view.write(raw, _edited(place, view.read(raw), edit))

    return [(place.site, partial(change, place=place, edit=edit)) for place, edit in made]
