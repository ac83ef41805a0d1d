"""Another forward for one greenlet: others run the module's own, and its own is put back."""

from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from cutaway.engine import detour as detours
from cutaway.engine.detour import detour, own
from cutaway.errors import OutOfOrderError, TraceError
from cutaway.models.any_module import AnyModule

Open = Callable[[nn.Module], AnyModule]
X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert not detours._CROSSINGS


def test_only_its_owner_takes_it() -> None:
    module = nn.Linear(8, 8)
    owner = greenlet(lambda: module(X))
    undo = detour(module, lambda onward, args, kwargs: onward(*args, **kwargs) * 2, owner)
    assert torch.equal(module(X), X @ module.weight.T + module.bias) or torch.allclose(module(X), owner.switch() / 2)
    undo()
    assert "forward" not in module.__dict__


def test_the_last_put_acts_first_unless_one_is_first() -> None:
    module, seen = nn.Identity(), list[str]()

    def way(name: str) -> detours.Detour:
        return lambda onward, args, kwargs: (seen.append(name), onward(*args, **kwargs))[1]

    undo = [detour(module, way(name), getcurrent(), first=name == "first") for name in ("first", "a", "b")]
    module(X)
    assert seen == ["first", "b", "a"]
    undo[1]()
    module(X)
    assert seen[3:] == ["first", "b"]
    undo[0](), undo[2]()
    module(X)
    assert len(seen) == 5


def test_a_forward_of_the_instance_is_kept() -> None:
    module = nn.Identity()
    module.forward = mine = lambda value: value + 1
    undo = detour(module, lambda onward, args, kwargs: onward(*args) * 2, getcurrent())
    assert own(module) is mine and torch.equal(module(X), (X + 1) * 2)
    undo()
    assert module.forward is mine and own(module) is mine


def test_signature_is_the_forward_s() -> None:
    module = nn.Bilinear(2, 3, 4)
    before = inspect.signature(module.forward)
    for instance in (None, lambda one, /, two=2: one):
        if instance is not None:
            module.forward = instance
            before = inspect.signature(instance)
        undo = detour(module, lambda onward, args, kwargs: X, getcurrent())
        assert inspect.signature(module.forward) == before and "args" not in before.parameters
        undo()


def test_own() -> None:
    module = nn.Linear(8, 8)
    assert own(module).__func__ is nn.Linear.forward and own(module).__self__ is module
    undo = detour(module, lambda onward, args, kwargs: X, getcurrent())
    assert own(module).__func__ is nn.Linear.forward and module(X) is X
    undo()


def test_a_detour_does_not_keep_the_module() -> None:
    gc.disable()
    try:
        module = nn.Linear(8, 8)
        detour(module, lambda onward, args, kwargs: X, getcurrent())
        gone = weakref.ref(module)
        del module
        assert gone() is None
    finally:
        gc.enable()


# `skip`


class Attends(nn.Module):
    """Returns a tuple, as attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = nn.Linear(8, 8), 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        self.calls += 1
        return self.inner(x), None


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn, self.mlp = Attends(), nn.Sequential(nn.Linear(8, 8), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)[0]
        return x + self.mlp(x)


@pytest.fixture
def blocks(opened: Open) -> AnyModule:
    return opened(nn.Sequential(Block(), Block(), nn.Linear(8, 5)))


def test_skip(blocks: AnyModule) -> None:
    first, second, head = blocks.module
    with blocks.trace(X) as run:
        blocks[1].skip(blocks[0].output)
        assert torch.equal(blocks[1].output, first(X))  # what stands for it is what it returned
    assert torch.equal(run.output, head(first(X)))
    with blocks.trace(X) as run:
        assert torch.equal(blocks[1].mlp.input, second.attn(first(X))[0] + first(X))
        blocks[1].mlp.skip(torch.zeros(3, 8))  # its input was read already
    assert torch.equal(run.output, head(first(X) + second.attn(first(X))[0]))
    assert torch.equal(blocks.module(X), head(second(first(X))))


def test_skip_does_not_run_the_module(blocks: AnyModule) -> None:
    with blocks.trace(X):
        blocks[0].attn.skip(X)
    assert [block.attn.calls for block in blocks.module[:2]] == [0, 1]


def test_skip_of_what_returns_a_tuple(blocks: AnyModule) -> None:
    with blocks.trace(X) as run:
        blocks[0].attn.skip(X * 2)
        pair = blocks[0].attn.output
        blocks[1].attn.skip((X, "given"))
        given = blocks[1].attn.output
    assert torch.equal(pair[0], X * 2) and pair[1] is None and given[1] == "given" and given[0] is X
    assert run.output.shape == (3, 5)


def test_gradients_go_through_what_was_put_in(blocks: AnyModule) -> None:
    vector = torch.ones(8, requires_grad=True)
    with blocks.trace(X) as run:
        blocks[1].skip(blocks[1].input * vector)
    run.output.sum().backward()
    hidden = blocks.module[0](X).detach()
    (expected,) = torch.autograd.grad(blocks.module[2](hidden * vector).sum(), vector)
    torch.testing.assert_close(vector.grad, expected)
    assert blocks.module[1].attn.inner.weight.grad is None and blocks.module[0].attn.inner.weight.grad is not None


def test_skip_of_a_module_that_runs_twice(opened: Open) -> None:
    """The first time alone, as with what is read and written."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.inner(x))

    model = opened(Twice())
    with model.trace(X) as run:
        model.inner.skip(X)
    assert torch.equal(run.output, model.module.inner(X))


def test_skip_too_late_or_nowhere(blocks: AnyModule) -> None:
    with blocks.trace(X):
        blocks[1].attn.output  # noqa: B018
        with pytest.raises(OutOfOrderError, match=r"(?s)\[0\].*after \[1\]\.attn\.output"):
            blocks[0].skip(X)
    with blocks.trace(X):
        blocks[1].attn.inner.output  # noqa: B018
        with pytest.raises(OutOfOrderError, match=r"(?s)\[1\]\.attn.*after \[1\]\.attn\.inner\.output"):
            blocks[1].attn.skip(X)
    with pytest.raises(TraceError, match="no trace is open"):
        blocks[0].skip(X)


def test_skip_and_source(blocks: AnyModule) -> None:
    """A module that is gone around has no inside."""
    with blocks.trace(X) as run:
        blocks[1].mlp.skip(X)
        with pytest.raises(OutOfOrderError, match="without reaching it"):
            blocks[1].mlp[0].output  # noqa: B018
    assert run.finished
    with blocks.trace(X):
        seen = blocks[0].source.self_attn_0.output
        blocks[1].skip(seen[0])
        assert torch.equal(blocks[2].input, seen[0])


def test_hooks_of_others_see_what_stands_for_it(blocks: AnyModule) -> None:
    seen: list[Any] = []
    handle = blocks.module[1].register_forward_hook(lambda module, args, out: seen.append(out))
    with blocks.trace(X):
        blocks[1].skip(X)
    handle.remove()
    assert seen[0] is X
