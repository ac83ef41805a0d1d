from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cutaway.engine.shown import Shown
from cutaway.engine.site import FIRST, WHOLE, Site, View, heads, part


def site(name: str, view: View) -> Site:
    return Site(name, torch.nn.Identity(), "", "output", view)


Q, K, ALL = site("q", part(0, 4).then(heads(2))), site("k", part(4, 8).then(heads(2))), site("all", WHOLE)


@pytest.fixture
def raw() -> Tensor:
    return torch.arange(12.0).reshape(1, 12).requires_grad_() * 1.0


def test_parts_lie_in_the_graph_of_what_is_joined(raw: Tensor) -> None:
    shown = Shown()
    q, k = shown.read(Q, raw), shown.read(K, raw)
    assert shown.read(Q, raw) is q and torch.equal(q, raw[:, :4].unflatten(-1, (2, 2)))
    joined = shown.joined(raw)
    assert torch.equal(joined, raw) and joined is not raw
    slopes = torch.autograd.grad((joined * torch.arange(12.0)).sum(), [q, k, raw])
    assert [slope.flatten().tolist() for slope in slopes] == [[0, 1, 2, 3], [4, 5, 6, 7], list(range(12))]
    assert shown.joined(raw) is raw  # the next starts anew


def test_change_in_place_is_in_the_raw_value(raw: Tensor) -> None:
    shown = Shown()
    q, k = shown.read(Q, raw), shown.read(K, raw)
    q *= 0
    joined = shown.joined(raw)
    assert joined is raw and (raw[:, :4] == 0).all() and torch.equal(k, raw[:, 4:8].unflatten(-1, (2, 2)))


def test_nothing_is_made_anew_without_need(raw: Tensor) -> None:
    shown = Shown()
    assert shown.read(ALL, raw) is raw and shown.read(site("first", FIRST), (raw, None)) is raw
    shown.read(Q, raw.detach())
    with torch.no_grad():  # where a view of what has a gradient is a leaf, which would cut the graph
        shown.read(Q, raw)
    assert not shown.parts and shown.joined(raw) is raw


def test_joined_keeps_gradients_whatever_the_caller_s_mode(raw: Tensor) -> None:
    shown = Shown()
    q = shown.read(Q, raw)
    with torch.no_grad():
        joined = shown.joined(raw)
    assert torch.autograd.grad(joined.sum(), q)[0].sum() == 4


def test_forget(raw: Tensor) -> None:
    shown = Shown()
    shown.read(Q, raw)
    shown.forget()
    assert shown.joined(raw) is raw
