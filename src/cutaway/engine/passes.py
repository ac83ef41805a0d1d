"""The fast path: a list of edits and reads compiled to plain hooks around one forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from cutaway.address import Address
from cutaway.engine.place import Edit, Intervention, Place, parsed
from cutaway.engine.site import WHOLE, Callback, Enough, Site, attached
from cutaway.engine.stack import batch_size
from cutaway.engine.state import refuse_checkpointed
from cutaway.errors import EngineError, OutOfOrderError

if TYPE_CHECKING:
    from cutaway.engine.model import Model

_UNREAD = object()


@final
class Readings(Mapping[Address | str, Any]):
    """What a run read: address -> tensor. Either form of an address finds its value. `output`: what the forward returned, if it ran to its end."""

    def __init__(self, values: dict[Address, Any], output: Any = _UNREAD) -> None:
        self._values, self._output = values, output

    @property
    def output(self) -> Any:
        """What the forward returned. Raises EngineError if it was stopped after the last read."""
        if self._output is _UNREAD:
            raise EngineError("The output of this run.", "a forward that stopped after the last value it had to read", "run without `read`")
        return self._output

    def __getitem__(self, address: Address | str) -> Any:
        return self._values[Address.parse(address)]

    def __iter__(self) -> Iterator[Address]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def run(
    model: Model, inputs: tuple[Any, ...], edits: Sequence[Intervention], read: Sequence[Address | str], options: dict[str, Any]
) -> Readings:
    """See `Model.run`."""
    arguments = model.arguments(inputs, options)
    model.ran(batch_size(arguments))
    places = [model.place(address, inputs) for address in read]
    values: dict[Address, Any] = {}
    made: set[Address] = set()
    callbacks = editing(model, inputs, edits, made)
    waiting = {place.site.key for place in places}

    for key, group in _grouped(places).items():

        def keep(raw: Any, group: list[Place] = group, key: tuple[int, str] = key) -> None:
            if key not in waiting:  # of a module that runs several times the first is read, as in a trace
                return
            for place in group:
                value = place.site.view.read(raw)
                whole = not isinstance(value, Tensor) and str(place.address) == place.address.point
                # a copy, because a later module may change the tensor in place
                values[place.address] = value if whole else place.read(value).clone()
            waiting.discard(key)
            if not waiting:
                raise Enough

        callbacks.append((group[0].site, keep))

    with torch.no_grad(), model.acting(), attached(callbacks):
        try:
            output = model.module(*arguments[0], **arguments[1])
        except Enough:
            return Readings({place.address: values[place.address] for place in places})
    _refuse_missing(model, [place.address for place in places if place.address not in values])
    _refuse_missing(model, [address for address, _ in parsed(edits) if address not in made])
    return Readings(values, output)


def gradients(
    model: Model,
    inputs: tuple[Any, ...],
    of: Callable[[Any], Tensor],
    at: Sequence[Address | str],
    edits: Sequence[Intervention],
    options: dict[str, Any],
) -> tuple[Readings, Readings]:
    """See `Model.gradients`."""
    arguments = model.arguments(inputs, options)
    model.ran(3 * batch_size(arguments))  # a backward costs about two forwards
    places = [model.place(address, inputs) for address in at]
    values: dict[tuple[int, str], Tensor] = {}
    raws: dict[tuple[int, str], Any] = {}
    edges: dict[tuple[int, str], GradientEdge] = {}
    made: set[Address] = set()
    callbacks = editing(model, inputs, edits, made, backward=True)

    for key, group in _grouped(places).items():

        def keep(raw: Any, site: Site = group[0].site, key: tuple[int, str] = key) -> Any:
            view = site.carrier if site.view is WHOLE else site.view
            value = _tensor(view.read(raw), site)
            if not value.requires_grad:  # the first point of the graph: everything before it is constant
                value = value.detach().requires_grad_()
            # a node of its own, which sees what an edit here would reach and no more: a module's input may be read by others too
            raw = view.write(raw, value.clone())
            tensor = _tensor(site.carrier.read(raw), site)
            values[key], raws[key] = tensor.detach().clone(), raw
            edges[key] = get_gradient_edge(tensor)  # of what is here now: a later module may change the tensor in place
            return raw

        callbacks.append((group[0].site, keep))

    with torch.enable_grad(), model.acting(), attached(callbacks):
        total = of(model.module(*arguments[0], **arguments[1])).sum()
    _refuse_missing(model, [place.address for place in places if place.site.key not in values])
    _refuse_missing(model, [address for address, _ in parsed(edits) if address not in made])
    keys = list(values)
    found = torch.autograd.grad(total, [edges[key] for key in keys], allow_unused=True)
    slopes = {key: torch.zeros_like(values[key]) if g is None else g for key, g in zip(keys, found, strict=True)}

    def selected(tensors: dict[tuple[int, str], Tensor]) -> Readings:
        return Readings({p.address: p.read(p.site.view.read(p.site.carrier.write(raws[p.site.key], tensors[p.site.key]))) for p in places})

    return selected(values), selected(slopes)


def editing(
    model: Model, inputs: tuple[Any, ...], edits: Sequence[Intervention], made: set[Address] | None = None, backward: bool = False
) -> list[tuple[Site, Callback]]:
    """One callback per event that makes all edits there, in the order given. `made` is told the addresses of edits that were made; `backward`:
    the forward is going to be differentiated."""
    callbacks: list[tuple[Site, Callback]] = []
    grouped: dict[tuple[int, str], list[tuple[Place, Edit]]] = {}
    for address, edit in parsed(edits):
        place = model.place(address, inputs)
        grouped.setdefault(place.site.key, []).append((place, edit))
    for group in grouped.values():

        def change(raw: Any, group: list[tuple[Place, Edit]] = group) -> Any:
            if backward:
                refuse_checkpointed(group[0][0].site.name)
            for place, edit in group:
                raw = place.site.view.write(raw, place.edit(place.site.view.read(raw), edit))
                if made is not None:
                    made.add(place.address)
            return raw

        callbacks.append((group[0][0].site, change))
    return callbacks


def _grouped(places: Sequence[Place]) -> dict[tuple[int, str], list[Place]]:
    groups: dict[tuple[int, str], list[Place]] = {}
    for place in places:
        groups.setdefault(place.site.key, []).append(place)
    return groups


def _tensor(value: Any, site: Site) -> Tensor:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        found = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise EngineError(f"A gradient at {site.name}.", f"{found} there", "a point inside the model")
    return value


def _refuse_missing(model: Model, missing: Sequence[Address]) -> None:
    if missing:
        names = ", ".join(map(str, missing))
        found = "its module did not run in this forward"
        raise OutOfOrderError(f"Read or edit {names} in a run of {model.name}.", found, "a point this forward reaches")
