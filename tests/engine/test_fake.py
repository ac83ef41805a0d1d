"""Tensors with shapes alone, and the watch over what is done with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cutaway.engine import fake
from cutaway.errors import GraphError


def test_containers_keep_their_kinds() -> None:
    value = {"a": (torch.ones(2), [torch.ones(3)]), "b": torch.ones(4).topk(2), "c": "text", "d": torch.Size([1])}
    double: Any = fake.mapped(value, lambda t: t * 2)
    assert double["c"] == "text" and type(double["b"]) is type(value["b"]) and torch.equal(double["b"].values, torch.full((2,), 2.0))
    assert isinstance(double["a"], tuple) and torch.equal(double["a"][1][0], torch.full((3,), 2.0))
    assert len(fake.tensors(value)) == 4 and fake.size(value) == 4 * (2 + 3 + 2) + 8 * 2


def test_views_share_memory_on_shapes_too() -> None:
    within, weight = fake.mode(), nn.Parameter(torch.ones(4, 4))
    shapes = [fake.shape(t, within) for t in (weight, weight.T, weight.detach()[1], weight.view(16))]
    assert len({t.untyped_storage()._cdata for t in shapes}) == 1
    assert fake.shape(weight * 1, within).untyped_storage()._cdata != shapes[0].untyped_storage()._cdata


def test_the_watch_counts_memory_and_not_views() -> None:
    within, watch = fake.mode(), fake.Watch()
    x = fake.shape(torch.ones(10, 10), within)
    with within, watch:
        assert x.view(100)[3:].shape == (97,)
        assert watch.made == 0
        assert (x + 1).shape == x.shape
    assert watch.made == 400


def test_the_watch_sees_what_operations_do_inside() -> None:
    within, watch = fake.mode(), fake.Watch(1000)
    kept, x = fake.shape(torch.ones(10, 10), within), fake.shape(torch.ones(10, 10), within)
    watch.keep(kept)
    with within, watch, torch.no_grad():
        x.mul_(2)
        for change in (
            lambda: kept.T.mul_(2),
            lambda: nn.functional.relu(kept, inplace=True),
            lambda: torch.norm(x, "fro", None, False, kept),
        ):
            with pytest.raises(GraphError, match="own"):
                change()
        for large in (
            lambda: x.repeat(10, 1),
            lambda: torch.cat([x, x, x]),
            lambda: nn.functional.cosine_similarity(x[:, None], x[None], dim=-1),
        ):
            with pytest.raises(GraphError, match="bytes"):
                large()
        assert watch.keeps([kept.view(100)]) and not watch.keeps({"a": x})


def test_a_forward_leaves_no_fakes() -> None:
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("last", torch.zeros(2))
            self.note = torch.zeros(2)

        def forward(self, x: Tensor) -> Tensor:
            self.last, self.note = x, x + 1
            return x

    keeping, within = Keeping(), fake.mode()
    before = keeping.last, keeping.note
    with fake.forward(keeping, within):
        keeping(torch.ones(2))
    assert keeping.last is before[0] and keeping.note is before[1]
