"""What a body was shown of the raw value at which its forward is parked, so that gradients there can be asked for and changed.

A point that is a part of a raw value (heads of a projection, a third of it) is a tensor of its own, which the forward would go on without. So where
gradients are kept, the forward goes on with the raw value made anew from the parts that were shown: the same numbers, with those parts on the way
from input to output. A part that was changed in place is left alone, for the raw value has changed with it.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from cutaway.engine.site import Site, View


@final
class Shown:
    """Values by the name of their point, the same object each time as long as the forward is parked and nothing was assigned."""

    def __init__(self) -> None:
        self.parts: dict[str, tuple[View, Tensor, int]] = {}
        """The point's view of the raw value, what it showed, and torch's count of changes in place at that time."""

    def read(self, site: Site, raw: Any) -> Any:
        """What a site shows of the raw value."""
        if site.name in self.parts:
            return self.parts[site.name][1]
        value = site.view.read(raw)
        if isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled() and site.view.read(raw) is not value:
            self.parts[site.name] = site.view, value, value._version
        return value

    def joined(self, raw: Any) -> Any:
        """The raw value with what was shown of it in its graph. The next read shows anew."""
        parts, self.parts = self.parts, {}
        with torch.enable_grad():
            for view, value, version in parts.values():
                if value._version == version:
                    raw = view.write(raw, value)
        return raw

    def forget(self) -> None:
        """Let go of what was shown."""
        self.parts = {}
