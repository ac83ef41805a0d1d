"""Bytes that tensors take at once, where they can be counted by hand."""

from __future__ import annotations

import pytest
import torch

from cutaway.engine.memory import Peak

KB = 4 * 256
"""Bytes of 256 numbers."""


def test_tensors_that_live_at_once_are_counted_together() -> None:
    with Peak() as peak:
        one = torch.zeros(256)
        two = one + 1
        del one
        three = two + 1
    assert peak.bytes == 2 * KB
    assert three.sum() == 512 and two.sum() == 256


def test_what_was_there_before_is_not_counted() -> None:
    given = torch.zeros(256)
    with Peak() as peak:
        given.add_(1)
        view = given.view(16, 16).t()[:3]
    assert peak.bytes == 0 and view.shape == (3, 16)


def test_a_view_keeps_what_it_is_a_view_of() -> None:
    with Peak() as peak:
        small = torch.zeros(256)[:1]
        for _ in range(3):
            torch.zeros(256)
    assert peak.bytes == 2 * KB and small.item() == 0


@pytest.mark.parametrize("depth", [2, 20])
def test_a_chain_takes_as_much_however_long_it_is(depth: int) -> None:
    with torch.no_grad(), Peak() as peak:
        x = torch.zeros(256)
        for _ in range(depth):
            x = x.relu()
    assert peak.bytes == 2 * KB
