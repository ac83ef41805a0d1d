"""Gates: 1 keeps and 0 replaces in every parametrisation; penalties count; what is learned is what helps."""

from __future__ import annotations

import pytest
import torch

import cutaway as cut
from cutaway.errors import InputError
from cutaway.mediators.gate import Clamp, Gates, HardConcrete, Sigmoid, gate

MADE = {"clamp": lambda n: Clamp((n,), 0.5), "sigmoid": lambda n: Sigmoid((n,)), "hard_concrete": lambda n: HardConcrete((n,), 0.5)}


def test_one_keeps_and_zero_replaces() -> None:
    lm = cut.open("induction_lm")
    point = "layers[0].attn.z"
    here, there = (lm.run(text, read=[point])[point] for text in ("cat river", "dog stone"))
    open_ = torch.ones(lm.sizes.n_heads, 1)
    open_[3] = 0.0
    open_[5] = 0.25
    found = lm.run("cat river", edits=[(point, gate(open_, there))], read=[point])[point]
    torch.testing.assert_close(found[:, :, 3], there[:, :, 3])
    torch.testing.assert_close(found[:, :, 4], here[:, :, 4])
    torch.testing.assert_close(found[:, :, 5], 0.25 * here[:, :, 5] + 0.75 * there[:, :, 5])


@pytest.mark.parametrize("kind", list(MADE))
def test_learns_to_keep_what_helps_and_to_drop_what_costs(kind: str) -> None:
    """Each gate that is kept adds its worth, and costs one tenth."""
    gates: Gates = MADE[kind](4)
    worth, generator = torch.tensor([1.0, -1.0, 0.5, 0.0]), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([gates.parameters], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        (0.1 * gates.kept() - (gates.draw(generator) * worth).sum()).backward()
        optimizer.step()
        gates.settle()
    assert gates.rounded().tolist() == [True, False, True, False]
    assert gates.kept().item() == pytest.approx(2, abs=0.25) and gates.replaced().item() == pytest.approx(2, abs=0.25)
    assert ((gates.values() >= 0) & (gates.values() <= 1) & (gates.worth() >= 0) & (gates.worth() <= 1)).all()


def test_hard_concrete_gates_are_zero_and_one_as_often_as_they_say() -> None:
    """The chances of Louizos et al. 2018, equation 12, against draws."""
    gates = HardConcrete((20_000,), start=0.7)
    drawn = gates.draw(torch.Generator().manual_seed(1))
    assert float((drawn > 0).float().mean()) == pytest.approx(gates.kept().item() / 20_000, abs=0.01)
    assert float((drawn < 1).float().mean()) == pytest.approx(gates.replaced().item() / 20_000, abs=0.01)
    assert torch.equal(drawn, gates.draw(torch.Generator().manual_seed(1)))


def test_a_cooler_sigmoid_is_sharper() -> None:
    gates = Sigmoid((1,), start=0.6)
    warm = gates.values().item()
    gates.temperature = 0.1
    assert warm == pytest.approx(0.6) and gates.values().item() > 0.9


@pytest.mark.parametrize("start", [0.0, 1.0, -1.0])
def test_a_start_without_a_parameter_is_refused(start: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        Sigmoid((2,), start)
    with pytest.raises(InputError, match="between 0 and 1"):
        HardConcrete((2,), start)
