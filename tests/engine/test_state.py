"""The state that torch keeps per thread: what the body sets does not reach the forward, and the other way round."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from cutaway.engine.state import State, Swap, current
from cutaway.models.any_module import AnyModule

Open = Callable[[nn.Module], AnyModule]


class Seen(nn.Module):
    """Notes the state it runs under, and computes under a context of its own if it has one."""

    def __init__(self, inside: Callable[[], AbstractContextManager[Any]] | None = None) -> None:
        super().__init__()
        self.inner, self.inside, self.states = nn.Linear(8, 8), inside, list[State]()

    def forward(self, x: Tensor) -> Tensor:
        self.states.append(current())
        with ExitStack() as stack:
            if self.inside is not None:
                stack.enter_context(self.inside())
            inner = self.inner(x)
        return x + inner.float().clone()  # fit for the next module, whatever the context made of it


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast, other settings": lambda: torch.autocast("cpu", torch.float16, cache_enabled=False),
    "no inference": lambda: torch.inference_mode(False),
    "no autocast": lambda: torch.autocast("cpu", enabled=False),
    "enable_grad": torch.enable_grad,
    "device": lambda: torch.device("meta"),
}
COMPUTING = [name for name in CONTEXTS if name != "device"]
"""Those under which a module still computes."""


@pytest.fixture(autouse=True)
def state_is_put_back() -> Any:
    before = current()
    yield
    assert current() == before


@pytest.fixture
def three(opened: Open) -> Callable[..., AnyModule]:
    return lambda inside=None: opened(nn.Sequential(Seen(), Seen(inside), Seen()))


@pytest.mark.parametrize("name", CONTEXTS)
def test_context_in_the_body_spanning_reads(three: Callable[..., AnyModule], x: Tensor, name: str) -> None:
    model, plain = three(), current()
    with model.trace(x) as run:
        with CONTEXTS[name]():
            within = current()
            model[0].inner.output  # noqa: B018
            assert current() == within
            model[1].inner.output  # noqa: B018
            assert current() == within
        assert current() == plain
        model[2].input  # noqa: B018
    assert [s.states for s in model.module] == [[plain]] * 3
    assert (
        run.output.requires_grad and run.output.dtype == torch.float32 and not run.output.is_inference() and run.output.device.type == "cpu"
    )
    assert torch.equal(run.output, model.module(x))


@pytest.mark.parametrize("name", COMPUTING)
def test_context_in_the_forward_does_not_reach_the_body(three: Callable[..., AnyModule], x: Tensor, name: str) -> None:
    model, plain = three(CONTEXTS[name]), current()
    with model.trace(x) as run:
        value = model[1].inner.output  # the forward is parked inside its context now
        assert current() == plain
        assert torch.zeros(1).device.type == "cpu" and not torch.zeros(1).is_inference()
        with torch.no_grad():  # and the body may enter and leave its own
            model[2].input  # noqa: B018
            assert not torch.is_grad_enabled()
        assert current() == plain
    assert value.shape == (3, 8)
    assert [m.states for m in model.module] == [[plain]] * 3
    assert run.output.requires_grad


@pytest.mark.parametrize("body", CONTEXTS)
@pytest.mark.parametrize("forward", ["no_grad", "inference", "autocast"])
def test_both_sides_at_once(three: Callable[..., AnyModule], x: Tensor, body: str, forward: str) -> None:
    """Entered in one order and left in another, as no stack of contexts would be."""
    model, plain = three(CONTEXTS[forward]), current()
    with model.trace(x):
        with CONTEXTS[body]():
            within = current()
            model[1].inner.output  # noqa: B018  # the forward enters its context
            assert current() == within
            model[2].input  # noqa: B018  # and leaves it
            assert current() == within
        assert current() == plain
    with model.trace(x):
        model[1].inner.output  # noqa: B018
        with CONTEXTS[body]():
            model[2].input  # noqa: B018
        assert current() == plain
    assert [m.states for m in model.module] == [[plain] * 2] * 3


@pytest.mark.parametrize("name", COMPUTING)
def test_context_around_the_trace_holds_for_both(three: Callable[..., AnyModule], x: Tensor, name: str) -> None:
    model = three()
    with CONTEXTS[name]():
        within = current()
        with model.trace(x):
            model[1].inner.output  # noqa: B018
            assert current() == within
    assert [m.states for m in model.module] == [[within]] * 3


def test_second_context_of_the_same_with_is_the_body_s(three: Callable[..., AnyModule], x: Tensor) -> None:
    model = three()
    with model.trace(x) as run, torch.no_grad():
        assert not torch.is_grad_enabled()
        doubled = model[1].output * 2
    assert not doubled.requires_grad and run.output.requires_grad


@pytest.mark.parametrize("name", CONTEXTS)
def test_stop_and_failure_inside_a_context(three: Callable[..., AnyModule], x: Tensor, name: str) -> None:
    model, plain = three(CONTEXTS["inference"]), current()
    with model.trace(x) as run:
        with CONTEXTS[name]():
            within = current()
            model[1].inner.output  # noqa: B018
            run.stop()
            assert current() == within
        assert current() == plain
    with pytest.raises(ZeroDivisionError), model.trace(x):
        with CONTEXTS[name]():
            model[1].inner.output  # noqa: B018
            raise ZeroDivisionError
    assert current() == plain


def test_autocast_in_the_body_is_cast_in_the_body_alone(three: Callable[..., AnyModule], x: Tensor) -> None:
    model = three()
    with model.trace(x) as run:
        with torch.autocast("cpu", torch.bfloat16):
            early = model[0].output
            ours = model.module[0].inner(x)
            model[1].output = model[1].output + 1
    assert early.dtype == torch.float32 and ours.dtype == torch.bfloat16
    assert torch.equal(run.output, model.module[2](model.module[1](early) + 1))


class Calls(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


class Dispatches(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("mode", "seen"), [(Calls, "mul"), (Dispatches, "aten.mul.Tensor")])
def test_mode_in_the_body_sees_the_body_alone(three: Callable[..., AnyModule], x: Tensor, mode: Any, seen: str) -> None:
    model = three()
    with model.trace(x):
        model[0].output  # noqa: B018
        with mode() as watched:
            hidden = model[1].output
            with torch.no_grad():
                hidden.mul(2)
                model[2].input  # noqa: B018
            hidden.mul(3)
    assert watched.names.count(seen) == 2 and not [n for n in watched.names if "linear" in n or "addmm" in n]


@pytest.mark.parametrize(("mode", "seen"), [(Calls, "linear"), (Dispatches, "aten.addmm.default")])
def test_mode_in_the_forward_sees_the_forward_alone(three: Callable[..., AnyModule], x: Tensor, mode: Any, seen: str) -> None:
    watched = mode()
    model = three(lambda: watched)
    with model.trace(x):
        model[1].inner.output.mul(2)
        torch.ones(2).mul(2)
    assert watched.names.count(seen) == 1 and not [n for n in watched.names if "mul." in n or n == "mul" or "ones" in n]


def test_swap_keeps_what_a_turn_leaves() -> None:
    """A side's state lasts from turn to turn, also when the turn raises."""
    swap, states = Swap(), list[bool]()

    def turn() -> None:
        states.append(torch.is_grad_enabled())
        torch.set_grad_enabled(False)
        raise ValueError

    for _ in range(2):
        with pytest.raises(ValueError):
            swap.run(turn)
        assert torch.is_grad_enabled()
    swap.close()
    assert states == [True, False]
