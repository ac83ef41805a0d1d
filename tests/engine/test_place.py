"""Which part of a tensor an address selects, and what an edit there may do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cutaway.address import Address
from cutaway.engine.place import IMAGE, Place, parsed
from cutaway.engine.site import Site
from cutaway.errors import AddressError

HEADS = ("batch", "pos", "head", "d_head")
MAP = ("batch", "head", "query", "key")
RESIDUAL = ("batch", "pos", "d_model")
VALUES = {
    HEADS: torch.arange(240.0).reshape(2, 5, 4, 6),
    MAP: torch.arange(200.0).reshape(2, 4, 5, 5),
    RESIDUAL: torch.arange(60.0).reshape(2, 5, 6),
    IMAGE: torch.arange(120.0).reshape(2, 3, 4, 5),
}


def place(dims: tuple[str, ...], pos: list[list[int]] | None = None, rows: list[int] | None = None, **selectors: int) -> Place:
    site = Site("p", nn.Identity(), "", "output", dims=dims)
    positions = None if pos is None else torch.tensor(pos)
    return Place(Address("p", **selectors), site, positions, None if rows is None else torch.tensor(rows))


H, M, R, F = VALUES[HEADS], VALUES[MAP], VALUES[RESIDUAL], VALUES[IMAGE]
CASES: list[tuple[Place, Tensor, Tensor]] = [
    (place(HEADS), H, H),
    (place(HEADS, head=2), H, H[:, :, 2]),
    (place(HEADS, head=2, unit=3), H, H[:, :, 2, 3]),
    (place(HEADS, unit=3), H, H[..., 3]),
    (place(HEADS, [[1], [4]]), H, torch.stack([H[0, 1], H[1, 4]])),
    (place(HEADS, [[1], [4]], head=2), H, torch.stack([H[0, 1, 2], H[1, 4, 2]])),
    (place(HEADS, [[1], [4]], head=2, unit=5), H, torch.stack([H[0, 1, 2, 5], H[1, 4, 2, 5]])),
    (place(HEADS, [[1, 2], [3, 4]], head=2), H, torch.stack([H[0, 1:3, 2], H[1, 3:5, 2]])),
    (place(MAP), M, M),
    (place(MAP, head=1), M, M[:, 1]),
    (place(MAP, [[1], [4]]), M, torch.stack([M[0, :, 1], M[1, :, 4]])),
    (place(MAP, [[1], [4]], head=3), M, torch.stack([M[0, 3, 1], M[1, 3, 4]])),
    (place(MAP, [[1], [4]], head=3, unit=2), M, torch.stack([M[0, 3, 1, 2], M[1, 3, 4, 2]])),
    (place(MAP, unit=2), M, M[..., 2]),
    (place(RESIDUAL, [[0], [1]]), R, torch.stack([R[0, 0], R[1, 1]])),
    (place(RESIDUAL, [[0, 1], [1, 2]]), R, torch.stack([R[0, :2], R[1, 1:3]])),
    (place(RESIDUAL, [[-1], [-2]], unit=0), R, torch.stack([R[0, 4, 0], R[1, 3, 0]])),
    (place((), [[0], [1]]), R, torch.stack([R[0, 0], R[1, 1]])),
    (place(HEADS, rows=[1]), H, H[1:]),
    (place(HEADS, rows=[1], head=2), H, H[1:, :, 2]),
    (place(MAP, [[2]], rows=[1], head=3), M, M[1:, 3, 2]),
    (place(MAP, rows=[1], head=3), M, M[1:, 3]),
    (place(HEADS, [[2, 3]], rows=[1]), H, H[1:, 2:4]),
    (place(IMAGE, unit=2), F, F[:, 2]),
    (place(IMAGE, rows=[1], unit=2), F, F[1:, 2]),
    (place(IMAGE, [[1], [4]], unit=5), R, torch.stack([R[0, 1, 5], R[1, 4, 5]])),  # three axes, so no map of features
    (place((), unit=4), F, F[..., 4]),
]


@pytest.mark.parametrize(("where", "value", "expected"), CASES)
def test_selects(where: Place, value: Tensor, expected: Tensor) -> None:
    assert torch.equal(where.read(value), expected)


@pytest.mark.parametrize(("where", "value", "expected"), CASES)
def test_edit_changes_that_and_nothing_else(where: Place, value: Tensor, expected: Tensor) -> None:
    seen: list[Tensor] = []

    def edit(old: Tensor) -> Tensor:
        seen.append(old.clone())
        return -1 - old

    before = value.clone()
    new = where.edit(value, edit)
    assert torch.equal(seen[0], expected) and torch.equal(value, before)
    assert torch.equal(where.read(new), -1 - expected)
    assert int((new != value).sum()) == expected.numel()


def test_several_positions_of_a_map_come_first() -> None:
    found = place(MAP, [[1, 2], [3, 4]]).read(M)
    assert torch.equal(found, torch.stack([M[0, :, 1:3].transpose(0, 1), M[1, :, 3:5].transpose(0, 1)]))


BAD: list[tuple[Place, Any, str]] = [
    (place(HEADS, head=4), H, "4 heads there.*head=0 to head=3"),
    (place(MAP, head=7), M, "4 heads there"),
    (place(RESIDUAL, head=0), R, r"selector 'head'.*axes batch, pos, d_model"),
    (place(RESIDUAL, unit=6), R, "6 units there.*unit=0 to unit=5"),
    (place(RESIDUAL, [[5], [0]]), R, "5 positions there"),
    (place(IMAGE, unit=3), F, "3 units there"),
    (place(IMAGE, [[0]]), F, "selector 'pos'.*axes batch, channel, y, x"),
    (place(RESIDUAL, [[-6], [0]]), R, "5 positions there"),
    (place((), [[0]], head=1), R, r"selector 'head'.*axis_2"),
    (place((), [[0]]), torch.zeros(2), "selector 'pos'"),
    (place(("a", "b"), [[0]]), R[0], "selector 'pos'"),
    (place(RESIDUAL), (R, None), "a tuple there"),
    (place(RESIDUAL, unit=1), None, "a NoneType there"),
]


@pytest.mark.parametrize(("where", "value", "message"), BAD)
def test_selector_that_does_not_fit(where: Place, value: Any, message: str) -> None:
    with pytest.raises(AddressError, match=f"(?s){message}"):
        where.read(value)
    with pytest.raises(AddressError, match=f"(?s){message}"):
        where.edit(value, lambda v: v)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: torch.zeros(7), r"shape \(7,\)"),
        (lambda v: v.unflatten(-1, (2, 3)), "shape"),
        (lambda v: None, "returned a NoneType"),
        (lambda v: 3.0, "returned a float"),
    ],
)
def test_edit_that_does_not_fit(edit: Any, message: str) -> None:
    with pytest.raises(AddressError, match=message):
        place(RESIDUAL, [[0], [1]]).edit(R, edit)


def test_edit_of_another_dtype_is_cast() -> None:
    assert place(RESIDUAL).edit(R, lambda v: v.double() * 2).dtype == torch.float32


def test_error_of_the_edit_itself_is_its_own() -> None:
    def edit(value: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        place(RESIDUAL).edit(R, edit)


def test_shifted() -> None:
    """The same tokens in a batch packed three times over that begins at token 1."""
    where = place(RESIDUAL, [[1], [4]]).shifted(1, torch.tensor([2, 3]))
    packed = R.repeat(3, 1, 1)[:, 1:]
    assert torch.equal(where.read(packed), torch.stack([R[0, 1], R[1, 4]]))


@pytest.mark.parametrize("bad", ["layers[0].output", ("layers[0].output",), ("layers[0].output", 3), ["layers[0].output", abs]])
def test_what_is_no_edit(bad: Any) -> None:
    with pytest.raises(AddressError, match="not a pair"):
        parsed([bad])


def test_parsed() -> None:
    assert parsed([("embed[pos=1]", abs), (Address("norm"), abs)]) == [(Address("embed", pos=1), abs), (Address("norm"), abs)]
