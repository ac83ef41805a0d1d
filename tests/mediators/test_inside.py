"""An edit inside a region leaves what is outside."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import cutaway as cut
from cutaway.errors import AddressError
from cutaway.mediators.ablate import ablate
from cutaway.mediators.inside import inside

MAP = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
MASK = torch.zeros(4, 6, dtype=torch.bool)
MASK[1:3, :2] = True


def test_changes_the_region_and_nothing_else() -> None:
    out = inside(MASK, ablate())(MAP)
    assert torch.equal(out, MAP * ~MASK)
    assert torch.equal(inside(MASK, ablate())(MAP[:, 1]), MAP[:, 1] * ~MASK)  # one unit of it


def test_mask_of_another_size() -> None:
    fine = MASK.repeat_interleave(8, 0).repeat_interleave(8, 1)
    assert torch.equal(inside(fine, ablate())(MAP), MAP * ~MASK)
    fine[:, ::3] = False  # two thirds of each cell are left
    assert torch.equal(inside(fine, ablate())(MAP), MAP * ~MASK)
    fine[:, 1::3] = False  # one third
    assert torch.equal(inside(fine, ablate())(MAP), MAP)
    coarse = torch.tensor([[True, False, False], [False, False, False]])
    assert torch.equal(inside(coarse, ablate())(MAP)[:, :, :2, :2], torch.zeros(2, 3, 2, 2))
    assert torch.equal(inside(coarse, ablate())(MAP)[:, :, 2:], MAP[:, :, 2:])


def test_place_without_a_region() -> None:
    with pytest.raises(AddressError, match="no y and x"):
        inside(MASK, ablate())(MAP[0, 0])


def test_unit_inside_a_region_of_a_generator() -> None:
    """In a generator without a family: the same as a hook of one's own, and pixels that see nothing of the region stay."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = nn.Sequential(
            nn.ConvTranspose2d(8, 6, 4),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 4, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 3, 4, 2, 1),
            nn.Tanh(),
        ).eval()
    z = torch.randn(2, 8, 1, 1, generator=torch.Generator().manual_seed(1))
    net = cut.open(generator)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 0] = True
    plain = net.run(z).output
    ours = net.run(z, edits=[("1.output[unit=2]", inside(mask, lambda x: x + 5))]).output

    def by_hand(module: nn.Module, args: object, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[:, 2, 0, 0] += 5
        return out

    hook = generator[1].register_forward_hook(by_hand)
    hand = generator(z)
    hook.remove()
    assert torch.equal(ours, hand)
    assert torch.equal(ours[:, :, 8:], plain[:, :, 8:]) and not torch.allclose(ours[:, :, :4, :4], plain[:, :, :4, :4])
    swept = net.sweep(z, edits=[[("1.output[unit=2]", inside(mask, lambda x: x + 5))], []], metric=lambda out: out.mean((-3, -2, -1)))
    torch.testing.assert_close(swept, torch.stack([hand, plain]).mean((-3, -2, -1)))
