"""Where an image lies in a prompt: from a cell of its grid to the tokens that stand for it.

    vlm = cut.open(module)
    vlm.run(inputs, edits=[(f"layers[4].output[pos={vlm.patch(2, 5)}]", ablate())])
    vlm.image_positions(inputs)     # (row, y, x): which token of the prompt stands for which cell

An image is cut into square patches, each one position of the vision tower. One image token of the prompt stands for one cell: a patch, or a square
of patches. Both lie row by row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from cutaway.address import Address
from cutaway.engine.model import Model
from cutaway.engine.site import Site
from cutaway.engine.stack import Stack
from cutaway.errors import AddressError, InputError, LayoutError
from cutaway.models.named_module import NamedModule

_PATCH = re.compile(r"patch_(\d+)_(\d+)")


@final
@dataclass(frozen=True)
class Grid:
    """side: cells of an image along y and along x. square: patches of a cell along each. lead: positions of the vision tower before the first patch.

    kept: how many of these the language model is given as well, before the cells.
    """

    side: int
    square: int
    lead: int
    kept: int


def _llava(config: Any) -> Grid:
    side = config.vision_config.image_size // config.vision_config.patch_size
    return Grid(side, 1, 1, 0 if config.vision_feature_select_strategy == "default" else 1)


def _idefics3(config: Any) -> Grid:
    patches = config.vision_config.image_size // config.vision_config.patch_size
    return Grid(patches // config.scale_factor, config.scale_factor, 0, 0)


def _gemma3(config: Any) -> Grid:
    side = math.isqrt(config.mm_tokens_per_image)
    return Grid(side, config.vision_config.image_size // config.vision_config.patch_size // side, 0, 0)


_GRIDS: Mapping[str, Callable[[Any], Grid]] = {"gemma3_vl": _gemma3, "idefics3": _idefics3, "llava": _llava}
"""Name of a layout -> the grid of an image."""


@final
class VisionLanguageModel(Model):
    """A vision-language model with standard names. Inputs: one mapping, as its processor returns.

    `pos` of an address: an index; `image`, all cells of the first image of a row; or `patch_<y>_<x>`, one cell of it, counted from the top left. They
    find the prompt's tokens in the language model, and what becomes of the cell in the vision tower, where a row is an image.
    named: the same with its standard names alone. Raises LayoutError for one whose grid is not known.
    """

    def __init__(self, named: NamedModule) -> None:
        if named.layout.name not in _GRIDS:
            works = f"{', '.join(_GRIDS)}; or the module with its names alone"
            raise LayoutError(f"Open {named.name} as a vision-language model.", "no family that knows its grid", works)
        self._named, self.grid = named, _GRIDS[named.layout.name](getattr(named.module, "config", None))
        super().__init__(named.module, named.name)

    def patch(self, y: int, x: int) -> str:
        """The position, for an address, of the cell in row y and column x of the first image. Raises AddressError for a cell outside the grid."""
        side = self.grid.side
        if not (0 <= y < side and 0 <= x < side):
            raise AddressError(f"Cell ({y}, {x}) of an image in {self.name}.", f"{side} x {side} cells", f"0 to {side - 1}")
        return f"patch_{y}_{x}"

    def image_positions(self, inputs: Mapping[str, Any], image: int = 0) -> Tensor:
        """Which token of the prompt stands for which cell of the image of that number in its row: (row, y, x). Raises InputError if there is none."""
        ids, each = inputs.get("input_ids"), self.grid.side**2 + self.grid.kept
        if not isinstance(ids, Tensor) or ids.ndim != 2:
            raise InputError(
                "Find the image in a prompt.", f"input_ids: {type(ids).__name__}", "input_ids (row, token), as a processor returns"
            )
        rows = []
        for row in ids == getattr(self.module, "config").image_token_id:  # noqa: B009  # a module's attributes are tensors to mypy
            found = row.nonzero()[:, 0]
            if len(found) % each or not 0 <= image < len(found) // each:
                works = f"{each} tokens for an image of {self.grid.side} x {self.grid.side} cells, and the number of one of the images"
                raise InputError(f"Find image {image} in a prompt.", f"a row with {len(found)} image tokens", works)
            rows.append(found[image * each + self.grid.kept : (image + 1) * each])
        return torch.stack(rows).unflatten(1, (self.grid.side, self.grid.side))

    # What a kind of model has to say

    def prepare(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return self._named.prepare(inputs)

    def arguments(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self._named.arguments(inputs, options)

    def locate(self, point: str) -> Site | None:
        return self._named.locate(point)

    def below(self, path: str) -> Iterable[str]:
        return self._named.below(path)

    def native(self, path: str) -> str:
        return self._named.native(path)

    def positions(self, address: Address, inputs: tuple[Any, ...]) -> Tensor | None:
        if not isinstance(address.pos, str):
            return self._named.positions(address, inputs)
        cells = self._cells(address)
        if address.point == "projected":
            return self.grid.kept + cells[None]
        if address.point.startswith("vision."):
            return self._patches(cells)[None]
        if len(inputs) != 1 or not isinstance(inputs[0], Mapping):
            raise AddressError(f"{address}", "inputs that are no mapping", "model.run({'input_ids': ..., 'pixel_values': ...})")
        return self.image_positions(inputs[0]).flatten(1)[:, cells.to(inputs[0]["input_ids"].device)]

    def last(self, output: Any) -> Tensor:
        logits = self._named.last(output)
        return logits[:, -1]

    def points(self) -> tuple[str, ...]:
        """Every standard point this model has."""
        return self._named.points()

    @property
    def stack(self) -> Stack | None:
        return None

    def _cells(self, address: Address) -> Tensor:
        """Numbers of the cells a role selects, row by row."""
        if address.pos == "image":
            return torch.arange(self.grid.side**2)
        found = _PATCH.fullmatch(str(address.pos))
        if found is None:
            raise AddressError(f"{address}", f"{self.name}, whose roles are the cells of an image", "pos=image, pos=patch_0_3, pos=-1")
        y, x = int(found[1]), int(found[2])
        self.patch(y, x)
        return torch.tensor([y * self.grid.side + x])

    def _patches(self, cells: Tensor) -> Tensor:
        """Positions in the vision tower of all patches of some cells."""
        side, square = self.grid.side, self.grid.square
        y, x = cells // side * square, cells % side * square
        inner = torch.arange(square)
        patches = (y[:, None, None] + inner[:, None]) * side * square + x[:, None, None] + inner
        return self.grid.lead + patches.flatten()
