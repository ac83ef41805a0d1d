"""Going on from the middle of a run is the whole run, in values and in gradients, and costs what lies after the edit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import cutaway as cut
from cutaway.engine.model import Model
from cutaway.engine.place import Edit
from cutaway.errors import InputError
from cutaway.models.any_module import AnyModule

TEXTS = ["cat river cat dog hill dog", "red blue cat red", "dog hill fox dog hill", "fox red river"]


def shift(by: Tensor) -> Edit:
    """An edit whose backward needs what was there before it."""
    return lambda value: value * (1 + by) + value.pow(2) * by


def whole(model: Model, inputs: object, address: str, edit: Edit) -> Tensor:
    """By hand: one hooked forward, with gradients."""
    place = model.place(address, model.prepare((inputs,)))
    view, (args, kwargs) = place.site.view, model.arguments(model.prepare((inputs,)), {})

    def change(raw: object) -> object:
        value = view.read(raw)
        out = value.clone()
        out[place.index(value)] = edit(value[place.index(value)])
        return view.write(raw, out)

    def after(module: nn.Module, args: object, out: object) -> object:
        return change(out)

    def before(module: nn.Module, args: object, kwargs: object) -> object:
        return change((args, kwargs))

    module = place.site.module
    hook = (
        module.register_forward_hook(after) if place.site.event == "output" else module.register_forward_pre_hook(before, with_kwargs=True)
    )
    with hook:
        return model.last(model.module(*args, **kwargs))


POINTS = [
    "layers[0].output[pos=-1]",
    "layers[0].output",
    "layers[1].input[pos=-2]",
    "layers[1].output[pos=-1]",
    "layers[1].attn.z[head=4, pos=-1]",
    "layers[0].attn.output[pos=1]",
    "embed",
    "norm[pos=-1]",
]


@pytest.mark.parametrize("address", POINTS)
@pytest.mark.parametrize("rows", [None, [2, 0, 0]])
def test_values_and_gradients_of_a_padded_batch(address: str, rows: list[int] | None) -> None:
    lm = cut.open("induction_lm")
    suffix = lm.suffix(TEXTS, at=[address])
    by = torch.tensor(0.3, requires_grad=True)
    ours = suffix([(address, shift(by))], None if rows is None else torch.tensor(rows))
    hand = whole(lm, TEXTS, address, shift(by))[rows or slice(None)]
    torch.testing.assert_close(ours, hand, rtol=0, atol=1e-4)
    slopes = [torch.autograd.grad(out.log_softmax(-1)[:, 5].sum(), by)[0] for out in (ours, hand)]
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-4)
    assert slopes[0].abs() > 1e-6


def test_several_points_at_once_and_none() -> None:
    lm = cut.open("induction_lm")
    at = ["layers[0].output[pos=-1]", "layers[1].attn.z[head=4, pos=-1]", "layers[1].output[pos=-1]"]
    suffix, by = lm.suffix(TEXTS, at=at), torch.tensor(0.2)
    with torch.no_grad():
        torch.testing.assert_close(suffix(), lm.next_logits(TEXTS), rtol=0, atol=1e-4)
        ours = suffix([(address, shift(by)) for address in at])
    hand = lm.last(lm.run(TEXTS, edits=[(address, shift(by)) for address in at]).output)
    torch.testing.assert_close(ours, hand, rtol=0, atol=1e-4)


@pytest.mark.parametrize("address", ["[0].output", "[2].0.output[unit=1]", "[2].input", "output"])
def test_a_sequence_without_tokens(chain: AnyModule, x: Tensor, address: str) -> None:
    by = torch.tensor(0.3, requires_grad=True)
    ours, hand = chain.suffix(x, at=[address])([(address, shift(by))]), whole(chain, x, address, shift(by))
    torch.testing.assert_close(ours, hand)
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), by)[0], torch.autograd.grad(hand.sum(), by)[0])


def test_a_module_that_is_no_stack_runs_whole(model: AnyModule, x: Tensor) -> None:
    ours = model.suffix(x, at=["stages[1].inner.output"])([("stages[1].inner.output", shift(torch.tensor(0.3)))], torch.tensor([1, 1]))
    torch.testing.assert_close(ours, whole(model, x, "stages[1].inner.output", shift(torch.tensor(0.3)))[[1, 1]])


def test_a_model_with_edits_of_its_own_keeps_them() -> None:
    lm = cut.open("induction_lm")
    with lm.edit("cat river cat") as edited:
        lm.layers[1].attn.z[:, :, 4] *= 0
    text, at = "cat river dog cat", "layers[0].output[pos=-1]"
    ours = edited.suffix(text, at=[at])([(at, shift(torch.tensor(0.2)))])
    torch.testing.assert_close(ours, edited.run(text, edits=[(at, shift(torch.tensor(0.2)))]).output[:, -1], rtol=0, atol=1e-4)


def test_it_costs_what_lies_after_the_edit(counted: Callable[[Callable[[], object]], int]) -> None:
    lm = cut.open("induction_lm")
    text, at = " ".join(["cat river dog hill"] * 8), "layers[0].output[pos=-1]"
    suffix = lm.suffix(text, at=[at])
    with torch.no_grad():
        last, once = counted(lambda: suffix([(at, shift(torch.tensor(0.2)))])), counted(lambda: lm.run(text))
    assert last < 0.04 * once, "one layer of two, one token of 32"


def test_other_addresses_are_refused() -> None:
    lm = cut.open("induction_lm")
    suffix = lm.suffix(TEXTS, at=["layers[0].output"])
    with pytest.raises(InputError, match=r"layers\[0\]\.output"):
        suffix([("layers[1].output", shift(torch.tensor(0.2)))])


@pytest.fixture
def counted() -> Callable[[Callable[[], object]], int]:
    """Floating-point operations of a call."""

    def count(call: Callable[[], object]) -> int:
        with FlopCounterMode(display=False) as counter:
            call()
        return int(counter.get_total_flops())

    return count
