"""Any PyTorch module, by its own module paths."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, final

from torch import Tensor, nn

from cutaway.address import Address
from cutaway.engine.model import Model
from cutaway.engine.place import IMAGE
from cutaway.engine.site import FIRST, Site
from cutaway.engine.stack import SequentialStack, Stack
from cutaway.errors import AddressError, LayoutError
from cutaway.models.points import standard

_INDEX = re.compile(r"\[(\d+)\]")


def dotted(path: str) -> str:
    """`layers[3].mlp` -> `layers.3.mlp`, as torch writes module paths."""
    return _INDEX.sub(r".\1", path).lstrip(".")


@final
class AnyModule(Model):
    """An opened module without standard names: points are its modules' paths followed by `input`, `output` or `inputs`.

    A value of four axes is taken for a map of features (batch, channel, y, x): `unit` selects a channel of it.
    why: the reason that it has no standard names, for messages.
    """

    def __init__(self, module: nn.Module, name: str, why: str = "no family describes it") -> None:
        super().__init__(module, name)
        self._why = why

    def site(self, point: str) -> Site:
        found = self.find(point)
        if found is None and standard(point):
            raise LayoutError(f"{point} in {self.name}.", f"no standard names: {self._why}", self._own())
        return super().site(point)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if not name.startswith("_") and standard(name):
                raise AttributeError(str(LayoutError(f"{name} in {self.name}.", f"no standard names: {self._why}", self._own()))) from None
            raise

    def _native_site(self, point: str) -> Site | None:
        site = super()._native_site(point)
        return None if site is None else replace(site, dims=IMAGE)

    def _own(self) -> str:
        return "native paths, such as " + ", ".join(f"{name}.output" for name in self._children("")[:4])

    def arguments(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return inputs, options

    def locate(self, point: str) -> Site | None:
        return None

    def below(self, path: str) -> Iterable[str]:
        return ()

    def native(self, path: str) -> str:
        return dotted(path)

    def positions(self, address: Address, inputs: tuple[Any, ...]) -> Tensor | None:
        if address.pos is None:
            return None
        first = next((x for x in inputs if isinstance(x, Tensor) and x.ndim > 0), None)
        if isinstance(address.pos, str) or first is None:
            raise AddressError(f"{address}", "a module without prompts", "a whole number for pos: an index along the second axis")
        return first.new_full((first.shape[0], 1), address.pos).long()

    def last(self, output: Any) -> Tensor:
        tensor = FIRST.read(output)
        assert isinstance(tensor, Tensor)
        return tensor

    @property
    def stack(self) -> Stack | None:
        module = self.module
        if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward:
            return None
        return SequentialStack(module) if 0 < len(set(module)) == len(module) else None
