"""Part of the tensor at a site: chosen rows, positions, heads and units of it.

Positions differ between rows (a role stands elsewhere in every prompt), so a place holds one index per row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from cutaway.address import Address
from cutaway.engine.site import Site
from cutaway.errors import AddressError

Edit = Callable[[Tensor], Tensor]
"""What is done at a place: takes the selected values and returns new ones of the same shape."""

Intervention = tuple[Address | str, Edit]
"""Where, and what is done there."""

POSITION_AXES = ("pos", "query")
HEAD_AXES = ("head", "kv_head")
IMAGE = ("batch", "channel", "y", "x")
"""Axes of a map of features. A site whose axes are not known for sure, but which lies in a model of images, has these where a value has four."""


@final
@dataclass(frozen=True)
class Place:
    """`positions` (rows, k): k token positions for each row of the batch, None for all tokens. `rows`: rows of the batch concerned, None for all."""

    address: Address
    site: Site
    positions: Tensor | None = None
    rows: Tensor | None = None

    def index(self, value: Tensor) -> tuple[Tensor | slice | int, ...]:
        """The index that selects this place from the value at its site. Raises AddressError for a selector that has no axis."""
        dims = self.site.dims
        if not dims or (dims == IMAGE and value.ndim != len(IMAGE)):
            second = "axis_1" if ":" in self.site.event else "pos"  # inside a forward a tensor may be laid out in any way
            dims = ("batch", second, *(f"axis_{i}" for i in range(2, value.ndim)))[: value.ndim]
        index: list[Tensor | slice | int] = [slice(None)] * value.ndim
        if self.rows is not None:
            index[0] = self.rows
        if self.address.head is not None:
            index[self._axis(dims, HEAD_AXES, "head", value)] = self.address.head
        if self.address.unit is not None:
            axis = dims.index("channel") if "channel" in dims else value.ndim - 1
            if not self.address.unit < value.shape[axis]:
                raise AddressError(f"{self.address}", f"{value.shape[axis]} units there", f"unit=0 to unit={value.shape[axis] - 1}")
            index[axis] = self.address.unit
        if self.positions is not None:
            axis = self._axis(dims, POSITION_AXES, "pos", value)
            length = value.shape[axis]
            if not (-length <= int(self.positions.min()) and int(self.positions.max()) < length):
                raise AddressError(f"{self.address}", f"{length} positions there", f"pos={-length} to pos={length - 1}")
            rows = torch.arange(value.shape[0]) if self.rows is None else self.rows
            one = self.positions.shape[1] == 1  # a single position drops its axis, as an int index would
            index[0] = rows.to(value.device) if one else rows[:, None].to(value.device)
            index[axis] = (self.positions[:, 0] if one else self.positions).to(value.device)
        return tuple(index)

    def read(self, value: Any) -> Tensor:
        """The selected part of the value at the site."""
        return self.checked(value)[self.index(value)]

    def checked(self, value: Any) -> Tensor:
        """The value at the site, as it is. Raises AddressError if it is not a tensor, of which nothing can be selected."""
        if not isinstance(value, Tensor):
            works = "a point that is a tensor, such as a standard name or `input`"
            raise AddressError(f"Select or edit {self.address}.", f"a {type(value).__name__} there", works)
        return value

    def edit(self, value: Any, edit: Edit) -> Tensor:
        """A copy of `value` in which the selected part is edited. Raises AddressError if there is no tensor or the edit does not fit."""
        out = self.checked(value).clone()
        self.edit_into(out, edit)
        return out

    def edit_into(self, value: Tensor, edit: Edit) -> None:
        """Edit the selected part of `value` in place. Raises AddressError if the edit does not fit."""
        index = self.index(value)
        old = value[index]
        new = edit(old)
        if not isinstance(new, Tensor):
            raise AddressError(f"Edit {self.address}.", f"an edit that returned a {type(new).__name__}", "an edit that returns a tensor")
        try:
            value[index] = new.to(value.dtype)
        except RuntimeError as error:
            raise AddressError(
                f"Put a value of shape {tuple(new.shape)} at {self.address}.", f"{tuple(old.shape)} there", "a value of that shape"
            ) from error

    def shifted(self, start: int, rows: Tensor) -> Place:
        """The same place in a batch that holds tokens from `start` on, where this place's rows are `rows`."""
        positions = None if self.positions is None else self.positions - start
        return replace(self, positions=positions, rows=rows)

    def _axis(self, dims: tuple[str, ...], wanted: tuple[str, ...], selector: str, value: Tensor) -> int:
        for axis, name in enumerate(dims):
            if name in wanted:
                if selector == "head" and not (self.address.head or 0) < value.shape[axis]:
                    raise AddressError(f"{self.address}", f"{value.shape[axis]} heads there", f"head=0 to head={value.shape[axis] - 1}")
                return axis
        raise AddressError(
            f"{self.address}: selector {selector!r}.", f"axes {', '.join(dims)}", "a point with that axis, or no such selector"
        )


def parsed(edits: Sequence[Intervention]) -> list[tuple[Address, Edit]]:
    """Interventions with their addresses parsed. Raises AddressError for what is not a pair of an address and an edit."""
    for item in edits:
        if not (isinstance(item, tuple) and len(item) == 2 and callable(item[1])):
            raise AddressError(f"An edit {item!r}.", "not a pair of an address and an edit", "('layers[3].output[pos=-1]', ablate())")
    return [(Address.parse(where), what) for where, what in edits]
