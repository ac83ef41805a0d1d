"""Which axes follow rows and tokens is found out, and not guessed from sizes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cutaway.engine.rows import layouts, width
from cutaway.models.any_module import AnyModule

Open = Callable[[nn.Module], AnyModule]


class Shapes(nn.Module):
    """Values of many layouts; of three rows, many axes are 3."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: nn.Identity() for name in ("rows", "flat", "fixed", "turned", "scalar", "pair", "square")})

    def forward(self, x: Tensor) -> Tensor:
        seen = self.parts
        seen["rows"](x)
        seen["flat"](x.flatten(0, 1))
        seen["fixed"](torch.zeros(3, 3))
        seen["turned"](x.transpose(0, 1))
        seen["scalar"](x.sum())
        seen["pair"]((x, {"a": x[:, 0]}))
        seen["square"](torch.zeros(len(x), len(x)))
        return x


def test_layouts(opened: Open) -> None:
    model = opened(Shapes())
    sites = {name: model.site(f"parts.{name}.output") for name in model.module.parts}
    found = layouts(model, [(torch.ones(3, 3, 3),), (torch.ones(1, 3, 3),)], sites)
    assert found == {"rows": ((),), "flat": None, "fixed": None, "turned": None, "scalar": None, "pair": ((), ()), "square": None}


def test_a_forward_that_depends_on_values_has_none(opened: Open) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            return h if h.sum() > 0 else -h

    model = opened(Branching())
    assert layouts(model, [(torch.ones(1, 8),)] * 2, {"a": model.site("output")}) == {"a": None}


def test_width() -> None:
    assert width((torch.ones(2, 5),)) == 5 and width((torch.ones(2),)) == 0 and width(()) == 0
