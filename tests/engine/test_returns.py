"""How many values a forward returns, from its text."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cutaway.engine.returns import padded

X = torch.ones(2)


class Forwards:
    def one(self, x: Tensor) -> Tensor:
        return x

    def two(self, x: Tensor) -> Any:
        return x, None

    def early(self, x: Tensor) -> Any:
        if x is None:
            return None

        def inner() -> Any:
            return 1, 2, 3

        try:
            return x, inner
        finally:
            pass

    def packed(self, x: Tensor) -> Any:
        out = (x, None)
        return out

    def nothing(self, x: Tensor) -> None:
        x.add_(0)

    @torch.no_grad()
    def decorated(self, x: Tensor) -> Any:
        return x, None, None


@pytest.mark.parametrize(("name", "width"), [("one", 0), ("two", 2), ("early", 2), ("packed", 0), ("nothing", 0), ("decorated", 3)])
def test_as_wide_as_the_last_return(name: str, width: int) -> None:
    value = padded(getattr(Forwards(), name), X)
    assert value is X if not width else value[0] is X and value[1:] == (None,) * (width - 1)


def test_what_is_no_tensor_is_left_alone() -> None:
    for value in (None, (X,), "text", {"a": X}):
        assert padded(Forwards().two, value) is value


def test_behind_partial_applications() -> None:
    bound = Forwards().two
    assert padded(functools.partial(bound), X) == (X, None)
    assert padded(functools.update_wrapper(functools.partial(lambda *_: None), bound), X) == (X, None)


def test_without_text() -> None:
    assert padded(torch.tanh, X) is X and padded(nn.Linear(2, 2), X) is X and padded(lambda v: (v, v), X) is X
