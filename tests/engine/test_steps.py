"""A forward that calls the model several times: what is read in a step is that step's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cutaway.engine import detour, site
from cutaway.engine.interleave import Trace
from cutaway.errors import InputError, OutOfOrderError, TraceError
from cutaway.models.any_module import AnyModule

Open = Callable[[nn.Module], AnyModule]
N = 5


class Cell(nn.Module):
    """`late` runs from the third call on."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.late, self.calls = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.b(torch.tanh(self.a(x)))
        return x if self.calls % N in (1, 2) else self.late(x)


@pytest.fixture
def cell(opened: Open) -> AnyModule:
    return opened(Cell())


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert not site._TAPS and not detour._CROSSINGS


def looping(cell: AnyModule, x: Tensor, before: Callable[[], None] | None = None) -> Trace:
    def loop(value: Tensor) -> list[Tensor]:
        cell.module.calls = 0
        found = []
        for _ in range(N):
            if before is not None:
                before()
            value = cell.module(value)
            found.append(value)
        return found

    return cell.trace(x, fn=loop)


def by_hand(cell: AnyModule, x: Tensor, change: Callable[[int, Tensor], Tensor] = lambda step, out: out) -> list[Tensor]:
    """The loop with a hook on `a` that counts."""
    step = -1

    def hook(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        nonlocal step
        step += 1
        return change(step, out)

    handle = cell.module.a.register_forward_hook(hook)
    try:
        with looping(cell, x) as run:
            pass
        return run.output
    finally:
        handle.remove()


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_reads_every_step(cell: AnyModule, x: Tensor) -> None:
    inputs, middles, outputs, numbers = [], [], [], []
    with looping(cell, x) as run:
        for step in run.steps:
            numbers.append(step)
            inputs.append(cell.input)
            middles.append(cell.a.output)
            outputs.append(cell.output)
    assert numbers == list(range(N)) and same(outputs, run.output) and same(inputs, [x, *run.output[:-1]])
    assert same(middles, [cell.module.a(value) for value in inputs])


@pytest.mark.parametrize("touched", [slice(None, 1), slice(1, None), slice(1, 4), slice(0, None, 2), slice(2, 3)])
def test_writes_in_some_steps(cell: AnyModule, x: Tensor, touched: slice) -> None:
    chosen = range(N)[touched]
    with looping(cell, x) as run:
        seen = []
        for step in run.steps[touched]:
            seen.append(step)
            cell.a.output *= 0.5
    assert seen == list(chosen)
    assert same(run.output, by_hand(cell, x, lambda step, out: out * 0.5 if step in chosen else out))
    assert not same(run.output, by_hand(cell, x))


def test_two_loops_one_after_the_other(cell: AnyModule, x: Tensor) -> None:
    with looping(cell, x) as run:
        for _ in run.steps[:2]:
            cell.a.output = cell.a.output + 1
        after = 7  # statements between and after the loops run
        for step in run.steps[3:]:
            cell.a.output = cell.a.output - step
        after += 1
    assert after == 8
    assert same(run.output, by_hand(cell, x, lambda step, out: out + 1 if step < 2 else out if step == 2 else out - step))


def test_one_step_by_number(cell: AnyModule, x: Tensor) -> None:
    with looping(cell, x) as run:
        for step in run.steps[3]:
            assert step == 3
            kept = cell.output
    assert torch.equal(kept, run.output[3])


def test_steps_of_steps(cell: AnyModule, x: Tensor) -> None:
    for steps in (lambda run: run.steps[1:][1:3], lambda run: run.steps[2:][:2], lambda run: run.steps[:4][2:]):
        with looping(cell, x) as run:
            assert list(steps(run)) == [2, 3]
    with looping(cell, x) as run:
        assert list(run.steps[::2][1:]) == [2, 4]
    with looping(cell, x) as run:
        assert list(run.steps[1:3][:100]) == [1, 2]


@pytest.mark.parametrize("which", [-1, slice(-2, None), slice(None, -1), slice(None, None, -1), slice(3, 1)])
def test_steps_counted_from_the_end(cell: AnyModule, x: Tensor, which: Any) -> None:
    with looping(cell, x) as run, pytest.raises(InputError, match="numbers from the start"):
        run.steps[which]
    assert run.finished


def test_no_steps_sees_the_first(cell: AnyModule, x: Tensor) -> None:
    with looping(cell, x) as run:
        cell.a.output = cell.a.output * 2
        first = cell.output
        with pytest.raises(OutOfOrderError, match=r"(?s)late\.output.*step ended without reaching"):
            cell.late.output  # noqa: B018
    assert torch.equal(first, run.output[0])
    assert same(run.output, by_hand(cell, x, lambda step, out: out * 2 if step == 0 else out))


def test_plain_reads_then_steps(cell: AnyModule, x: Tensor) -> None:
    with looping(cell, x) as run:
        first = cell.output
        rest = [cell.output for _ in run.steps[1:]]
    assert same([first, *rest], run.output)


def test_a_step_that_passed_the_site_does_not_read_the_next(cell: AnyModule, x: Tensor) -> None:
    outs = []
    with looping(cell, x) as run:
        for step in run.steps:
            out = cell.output
            with pytest.raises(OutOfOrderError, match="step ended without" if step == 0 else "already run past"):
                cell.a.output  # noqa: B018  # first touched here, so that only the end of the step can tell; in later ones it is hooked
            if step == 0:
                with pytest.raises(OutOfOrderError, match="this step has ended"):
                    cell.input  # noqa: B018  # the next step's is at hand, and is not this one's
            if step == 2:
                break
            outs.append(out)
    assert same(run.output, by_hand(cell, x)) and same(outs, run.output[:2])


def test_module_that_runs_in_later_steps(cell: AnyModule, x: Tensor) -> None:
    found = []
    with looping(cell, x) as run:
        for step in run.steps:
            try:
                found.append((step, cell.late.output))
            except OutOfOrderError:
                found.append((step, None))
    assert [step for step, value in found if value is None] == [0, 1]
    assert same([value for _, value in found if value is not None], run.output[2:])


def test_hooked_late(cell: AnyModule, x: Tensor) -> None:
    """A module first touched in step 3."""
    with looping(cell, x) as run:
        for step in run.steps:
            cell.input  # noqa: B018
            if step == 3:
                seen = cell.a.output
                cell.b.output = cell.b.output * 0
    assert torch.equal(seen, cell.module.a(run.output[2]))
    assert torch.equal(run.output[3], cell.module.late(torch.zeros_like(x)))


def test_loop_longer_than_the_run(cell: AnyModule, x: Tensor) -> None:
    seen = []
    with looping(cell, x) as run:
        try:
            for step in run.steps[: N + 2]:
                seen.append(step)
                cell.a.output  # noqa: B018
        except OutOfOrderError as error:
            message = str(error)
        after = run.output
    assert seen == list(range(N)) and f"step {N}" in message and same(after, by_hand(cell, x))
    with pytest.raises(OutOfOrderError), looping(cell, x) as run:
        for _ in run.steps[N]:
            pass


def test_break(cell: AnyModule, x: Tensor) -> None:
    with looping(cell, x) as run:
        for step in run.steps:
            cell.a.output = cell.a.output + 1
            if step == 1:
                break
        seen = cell.output  # the step that was left goes on
    assert torch.equal(seen, run.output[1])
    assert same(run.output, by_hand(cell, x, lambda step, out: out + 1 if step < 2 else out))


def test_going_back(cell: AnyModule, x: Tensor) -> None:
    with looping(cell, x) as run:
        for step in run.steps:
            if step == 2:
                break
        with pytest.raises(OutOfOrderError, match="step 2 has begun"):
            next(iter(run.steps))
        assert next(iter(run.steps[2:])) == 2
        assert torch.equal(cell.output, cell.output)


@pytest.mark.parametrize("bounded", [False, True])
def test_stop_in_a_step(cell: AnyModule, x: Tensor, bounded: bool) -> None:
    with looping(cell, x) as run:
        seen = []
        for step in run.steps[:N] if bounded else run.steps:
            seen.append(cell.output)
            if step == 2:
                run.stop()
        after = len(seen)
    assert after == 3 and same(seen, by_hand(cell, x)[:3])
    with pytest.raises(TraceError, match="stopped"):
        run.output  # noqa: B018


def test_failure_in_a_step(cell: AnyModule, x: Tensor) -> None:
    with looping(cell, x) as run:
        for _ in run.steps[:N]:
            cell.a.output = torch.zeros(3, 9)
            with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
                cell.output  # noqa: B018
    assert not run.finished


def test_output_inside_a_step_ends_the_loop(cell: AnyModule, x: Tensor) -> None:
    with looping(cell, x) as run:
        count = 0
        for _ in run.steps:
            count += len(run.output)
    assert count == N


def test_a_forward_of_one_call_is_one_step(cell: AnyModule, x: Tensor) -> None:
    with cell.trace(x) as run:
        assert [(step, cell.a.output.shape) for step in run.steps] == [(0, (3, 8))]
    assert run.finished


def test_no_call_at_all(cell: AnyModule, x: Tensor) -> None:
    with cell.trace(x, fn=lambda value: value + 1) as run:
        for _ in run.steps:
            with pytest.raises(OutOfOrderError, match="without reaching it"):
                cell.a.output  # noqa: B018
    assert torch.equal(run.output, x + 1)


def test_what_the_driver_does_between_calls_is_not_a_step(cell: AnyModule, x: Tensor) -> None:
    """Calls of a part alone are no calls of the model; in the step in which they come they count."""
    with looping(cell, x, before=lambda: cell.module.late(x)) as run:
        ins = [cell.input for _ in run.steps]
    assert same(ins, [x, *run.output[:-1]])


# Going around a module


def test_skip_in_some_steps(cell: AnyModule, x: Tensor) -> None:
    with looping(cell, x) as run:
        for step in run.steps[1:]:
            given = cell.b.input
            if step % 2:
                cell.b.skip(given)
    ran: list[int] = []

    def around(module: nn.Module, args: Any, out: Tensor) -> Tensor | None:
        ran.append(1)
        return args[0] if (len(ran) - 1) % 2 else None

    handle = cell.module.b.register_forward_hook(around)
    expected = by_hand(cell, x)
    handle.remove()
    assert same(run.output, expected)


def test_source_in_some_steps(cell: AnyModule, x: Tensor) -> None:
    nested = AnyModule(nn.Sequential(cell.module), "nested")
    cell.module.calls = 0

    def loop(value: Tensor) -> Tensor:
        for _ in range(N):
            value = nested.module(value)
        return value

    seen = []
    with nested.trace(x, fn=loop) as run:
        for step in run.steps[1:]:
            seen.append(nested[0].source.self_a_0.output)
            if step == 2:
                nested[0].source.torch_tanh_0.output *= 0
    assert len(seen) == N - 1
    cell.module.calls = 0
    outs = by_hand(cell, x, lambda step, out: out * 0 if step == 2 else out)
    assert torch.equal(run.output, outs[-1]) and torch.equal(seen[0], cell.module.a(outs[0]))
