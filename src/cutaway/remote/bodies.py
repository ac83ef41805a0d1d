"""The bodies that `run`, `gradients` and `sweep` come to: recorded here, they make the same edits and reads where the weights are.

A graph has its reads and writes in the order of the forward, and addresses come in any; which of their modules runs first is found out on shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, final

import torch
from torch import Tensor

from cutaway.address import Address
from cutaway.engine import fake
from cutaway.engine.interleave import Trace
from cutaway.engine.model import Model
from cutaway.engine.place import Edit, Intervention, Place, parsed
from cutaway.engine.site import Site, attached
from cutaway.errors import OutOfOrderError
from cutaway.models.language import LanguageModel

Key = tuple[int, str]


@final
class Order:
    """In which order a model's sites occur in a forward. Found out once for the same sites; a site that does not occur is not in it."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._known: dict[frozenset[Key], tuple[Key, ...]] = {}

    def of(self, sites: Iterable[Site], inputs: tuple[Any, ...], options: Mapping[str, Any]) -> tuple[Key, ...]:
        """Keys of the sites, each once. inputs: prepared."""
        wanted = {site.key: site for site in sites}
        keys = frozenset(wanted)
        if keys not in self._known:
            self._known[keys] = tuple(wanted) if len(wanted) < 2 else self._seen(wanted, inputs, options)
        return self._known[keys]

    def _seen(self, wanted: Mapping[Key, Site], inputs: tuple[Any, ...], options: Mapping[str, Any]) -> tuple[Key, ...]:
        seen: dict[Key, None] = {}
        module, within = self._model.module, fake.mode()
        moved = fake.mapped(self._model.arguments(inputs, dict(options)), lambda tensor: tensor.to("meta"))
        args, kwargs = fake.faked(moved, within)
        callbacks = [(site, partial(_note, seen, key)) for key, site in wanted.items()]
        with torch.no_grad(), attached(callbacks), fake.forward(module, within):
            module(*args, **kwargs)
        return tuple(seen)


def _note(seen: dict[Key, None], key: Key, raw: Any) -> None:
    seen.setdefault(key)


def run(
    model: Model,
    trace: Trace,
    inputs: tuple[Any, ...],
    edits: Sequence[Intervention],
    read: Sequence[Address | str],
    order: tuple[Key, ...],
) -> list[Address]:
    """The body of `Model.run`, up to the last value read; what the n-th address reads is saved as `read<n>`. Returns the addresses.

    Raises OutOfOrderError for an address that the forward does not reach.
    """
    reads = [model.place(address, inputs) for address in read]
    changes = _places(model, inputs, edits)
    _refuse_missing(model, [place for place, _ in changes] if not reads else [], order)
    _refuse_missing(model, reads, order)
    left = {place.site.key for place in reads}
    for key in order:
        _change(trace, changes, key)
        for number, place in enumerate(reads):
            if place.site.key == key:
                value = trace.read(place.site)
                whole = not isinstance(value, Tensor) and str(place.address) == place.address.point
                trace.save(**{f"read{number}": value if whole else place.read(value).clone()})
        left.discard(key)
        if reads and not left:
            trace.stop()
            break
    return [place.address for place in reads]


def gradients(
    model: Model,
    trace: Trace,
    inputs: tuple[Any, ...],
    of: Callable[[Any], Tensor],
    at: Sequence[Address | str],
    edits: Sequence[Intervention],
    order: tuple[Key, ...],
) -> list[Address]:
    """The body of `Model.gradients`: saves `value<n>` and `slope<n>` for the n-th address. Returns the addresses. Raises OutOfOrderError."""
    reads, changes = [model.place(address, inputs) for address in at], _places(model, inputs, edits)
    _refuse_missing(model, [*reads, *(place for place, _ in changes)], order)
    values: dict[int, Tensor] = {}
    for key in order:
        _change(trace, changes, key)
        for number, place in enumerate(reads):
            if place.site.key == key:
                value = trace.read(place.site)
                constant = not getattr(value, "fake", value).requires_grad  # the first point of the graph: all before it is constant
                # a node of its own, which sees what an edit here would reach and no more
                values[number] = (value.detach().requires_grad_() if constant else value).clone()
                trace.write(place.site, values[number])
    total = of(trace.output).sum()
    found = torch.autograd.grad(total, [values[n] for n in range(len(reads))], materialize_grads=True)
    for number, (place, slope) in enumerate(zip(reads, found, strict=True)):
        trace.save(**{f"value{number}": place.read(values[number].detach()), f"slope{number}": place.read(slope)})
    return [place.address for place in reads]


def sweep(
    model: Model,
    trace: Trace,
    inputs: tuple[Any, ...],
    batch: int,
    edits: Sequence[Sequence[Intervention]],
    metric: Callable[[Tensor], Tensor],
    order: tuple[Key, ...],
) -> None:
    """The body of a sweep whose inputs are the `batch` rows of `inputs` once for each of `edits`: saves `values` (interventions, rows, ...).

    Where nothing after the blocks of a language model is edited, its head is applied at the last position alone.
    """
    every = torch.arange(batch)
    changes = [
        (number, model.place(address, inputs).shifted(0, every + number * batch), edit)
        for number, one in enumerate(edits)
        for address, edit in parsed(one)
    ]
    _refuse_missing(model, [place for _, place, _ in changes], order)
    for key in order:
        here = [change for change in changes if change[1].site.key == key]
        for _, group in groupby(here, key=lambda change: change[1].site.name):
            together = list(group)
            site = together[0][1].site
            value = together[0][1].checked(trace.read(site)).clone()
            for _, place, edit in together:
                place.edit_into(value, edit)
            trace.write(site, value)
    inside = all(place.address.point.startswith(("layers[", "embed")) for _, place, _ in changes)
    if isinstance(model, LanguageModel) and inside:
        end = model.site(f"layers[{model.sizes.n_layers - 1}].output")
        last = model.unembed(trace.read(end)[:, -1])
        trace.stop()
    else:
        last = model.last(trace.output)
    trace.save(values=metric(last.unflatten(0, (len(edits), batch))))


def sites(model: Model, addresses: Iterable[Address | str]) -> list[Site]:
    """The sites that addresses name. Raises AddressError, UnknownNameError."""
    return [model.site(Address.parse(address).point) for address in addresses]


def _places(model: Model, inputs: tuple[Any, ...], edits: Sequence[Intervention]) -> list[tuple[Place, Edit]]:
    return [(model.place(address, inputs), edit) for address, edit in parsed(edits)]


def _change(trace: Trace, changes: Sequence[tuple[Place, Edit]], key: Key) -> None:
    for place, edit in changes:
        if place.site.key == key:
            trace.write(place.site, place.edit(trace.read(place.site), edit))


def _refuse_missing(model: Model, places: Sequence[Place], order: tuple[Key, ...]) -> None:
    missing = [str(place.address) for place in places if place.site.key not in order]
    if missing:
        found = "its module did not run in this forward"
        raise OutOfOrderError(f"Read or edit {', '.join(missing)} in a run of {model.name}.", found, "a point this forward reaches")
