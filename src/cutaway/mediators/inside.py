"""Do something in one region of an image only."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import interpolate

from cutaway.engine.place import Edit
from cutaway.errors import AddressError


def inside(mask: Bool[Tensor, "y x"], edit: Edit) -> Edit:
    """Apply `edit` where `mask` is True, and leave the rest; the last two axes of the place are y and x.

    A mask of another size is brought to that of the map: a cell is inside if at least half of its area is. Raises AddressError for a place
    without two axes that could be y and x.
    """

    def masked(value: Tensor) -> Tensor:
        if value.ndim < 3:
            raise AddressError(
                f"A region of a place of shape {tuple(value.shape)}.", "no y and x", "a map of features (batch, channel, y, x)"
            )
        area = mask.to(value.device, torch.float32)
        if area.shape != value.shape[-2:]:
            area = interpolate(area[None, None], size=tuple(value.shape[-2:]), mode="area")[0, 0]
        return torch.where(area >= 0.5, edit(value), value)

    return masked
