"""The body is ordinary Python in the caller's own frame: whatever may stand in a `with` block may stand in it, and a debugger stops in it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import doctest
import io
import pdb
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cutaway.errors import TraceError
from cutaway.models.any_module import AnyModule

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="default")


def expected(model: AnyModule, x: Tensor, by: float) -> Tensor:
    handle = model.module.first.register_forward_hook(lambda module, args, out: out * by)
    try:
        out: Tensor = model.module(x)
    finally:
        handle.remove()
    return out


# Forms of a block


def test_block_on_the_line_of_its_with(model: AnyModule, x: Tensor) -> None:
    with model.trace(x) as run: model.first.output *= 2; kept = model.right.output  # fmt: skip  # noqa: E701, E702
    assert torch.equal(run.output, expected(model, x, 2)) and kept.shape == (3, 8)


def test_other_contexts_of_the_same_with(model: AnyModule, x: Tensor) -> None:
    left: list[str] = []

    @contextlib.contextmanager
    def note(name: str) -> Iterator[str]:
        try:
            yield name
        finally:
            left.append(name)

    with note("before") as a, model.trace(x) as run, torch.no_grad(), note("after") as b:
        hidden = model.first.output
        assert (a, b) == ("before", "after") and not (hidden * 2).requires_grad
    assert left == ["after", "before"] and run.output.requires_grad
    with pytest.raises(ZeroDivisionError):
        with model.trace(x) as run, note("inner"):
            raise ZeroDivisionError
    assert left[2:] == ["inner"] and not run.finished
    with model.trace(x) as run, contextlib.suppress(ZeroDivisionError):
        model.first.output *= 3
        raise ZeroDivisionError
    assert torch.equal(run.output, expected(model, x, 3))  # the body ended well, as far as the trace can tell


def test_exit_stack_and_bare_calls(model: AnyModule, x: Tensor) -> None:
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(model.trace(x))
        model.first.output *= 2
    assert torch.equal(run.output, expected(model, x, 2))
    run = model.trace(x)
    run.__enter__()
    model.first.output *= 2
    run.__exit__(None, None, None)
    assert torch.equal(run.output, expected(model, x, 2))


def test_every_sort_of_statement(model: AnyModule, x: Tensor) -> None:
    found: dict[str, Any] = {}
    with model.trace(x) as run:
        """A text of its own."""
        first, *rest = model.first.output
        del rest[0]
        while (n := len(found)) < 2:
            found[str(n)] = n
        else:
            found["else"] = True
        match model.stages[0].output:
            case (Tensor() as hidden, str(name)):
                found[name] = hidden
        assert all(row.shape == (8,) for row in [first, *rest]) and [r.ndim for r in rest] == [1]

        def scaled(value: Tensor, by: float = 2) -> Tensor:
            return value * by

        class Kept:
            value = model.stages[1].output[0]

        model.right.output = (lambda v: scaled(v))(model.right.output)
        try:
            raise ValueError
        except ValueError as error:
            found["error"] = error.args
        else:
            raise AssertionError
        finally:
            found["finally"] = run
    assert set(found) == {"0", "1", "else", "weights", "error", "finally"} and Kept.value.shape == (3, 8)
    assert found["finally"] is run and torch.equal(scaled(first, 1), first)  # names live on after the block


def test_block_inside_a_comprehension_of_calls(model: AnyModule, x: Tensor) -> None:
    def one(by: float) -> Tensor:
        with model.trace(x) as run:
            model.first.output *= by
        return run.output

    assert all(torch.equal(one(by), expected(model, x, by)) for by in (0.0, 1.0, 2.0))


def test_reads_in_a_function_called_from_the_body(model: AnyModule, x: Tensor) -> None:
    """Which trace is open is known from anywhere; a function reads from the model it is given."""

    def normalised(of: AnyModule) -> float:
        of.first.output /= 2
        return float(of.first.output.detach().norm())

    with model.trace(x) as run:
        norm = normalised(model)
    assert norm == pytest.approx(float(model.module.first(x).detach().norm()) / 2) and torch.equal(run.output, expected(model, x, 0.5))


def test_recursion(model: AnyModule, chain: AnyModule, x: Tensor) -> None:
    """Traces inside traces, on other models, as deep as the calls go."""
    models = [AnyModule(chain.module, str(depth)) for depth in range(6)]

    def down(depth: int, value: Tensor) -> Tensor:
        if depth == len(models):
            return value
        with models[depth].trace(value) as run:
            hidden = models[depth][0].output
            models[depth][2].output = models[depth][2].output + down(depth + 1, hidden)
        return hidden + run.output.sum()

    found = down(0, x)
    before = contextvars.copy_context()
    assert found.shape == (3, 8) and torch.equal(found, down(0, x))
    assert list(before.items()) == list(contextvars.copy_context().items()) and all(one._open is None for one in models)


def test_code_from_texts(model: AnyModule, x: Tensor) -> None:
    """Where no file has the source: exec, eval, a doctest."""
    names: dict[str, Any] = {"model": model, "x": x}
    exec(compile("with model.trace(x) as run: model.first.output *= 2", "<none>", "exec"), names)
    assert torch.equal(names["run"].output, expected(model, x, 2))
    text = """
    >>> with model.trace(x) as run:
    ...     model.first.output *= 2
    ...     n = len(model.right.output)
    >>> n
    3
    """
    test = doctest.DocTestParser().get_doctest(textwrap.dedent(text), names, "one", None, None)
    assert doctest.DocTestRunner().run(test).failed == 0
    exec("def body():\n    with model.trace(x):\n        return eval('model.first.output')", names)
    assert torch.equal(names["body"](), model.module.first(x))


# Context variables


def test_context_variables_are_kept_apart(opened: Callable[[nn.Module], AnyModule], x: Tensor) -> None:
    seen: list[str] = []

    class Sets(nn.Module):
        def forward(self, value: Tensor) -> Tensor:
            seen.append(VARIABLE.get())
            VARIABLE.set(f"forward {len(seen)}")
            return value

    model = opened(nn.Sequential(Sets(), Sets(), Sets()))
    token = VARIABLE.set("before")
    try:
        with model.trace(x):
            model[0].output  # noqa: B018
            assert VARIABLE.get() == "before"  # what the forward has set is its own
            VARIABLE.set("body")
            model[1].output  # noqa: B018
            assert VARIABLE.get() == "body"
        assert VARIABLE.get() == "body" and seen == ["before", "forward 1", "forward 2"]
    finally:
        VARIABLE.reset(token)


def test_exceptions_are_kept_apart(opened: Callable[[nn.Module], AnyModule], x: Tensor) -> None:
    """What is being handled on one side is not what is handled on the other."""
    seen: list[Any] = []

    class Handles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, value: Tensor) -> Tensor:
            seen.append(sys.exc_info()[0])
            try:
                raise KeyError
            except KeyError:
                value = self.inner(value)
                seen.append(sys.exc_info()[0])
            return value

    model = opened(nn.Sequential(Handles(), Handles()))
    with model.trace(x):
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            model[0].inner.output  # noqa: B018
            seen.append(sys.exc_info()[0])
        model[1].inner.output  # noqa: B018
        seen.append(sys.exc_info()[0])
    assert seen == [None, ZeroDivisionError, KeyError, None, None, KeyError]


# Coroutines and generators


def test_async_body(model: AnyModule, x: Tensor) -> None:
    async def values() -> AsyncIterator[Tensor]:
        with model.trace(x):
            yield model.first.output
            await asyncio.sleep(0)
            yield model.right.output

    async def both() -> list[Tensor]:
        async with asyncio.timeout(5):
            return [value async for value in values()]

    first, right = asyncio.run(both())
    assert torch.equal(first, model.module.first(x)) and right.shape == (3, 8)


def test_cancelled_task(model: AnyModule, x: Tensor) -> None:
    async def waits() -> None:
        with model.trace(x):
            model.first.output  # noqa: B018
            await asyncio.sleep(60)

    async def cancels() -> None:
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancels())
    assert model._open is None and not any(m._forward_hooks for m in model.module.modules())


def test_generator_that_is_sent_values(model: AnyModule, x: Tensor) -> None:
    def body() -> Any:
        with model.trace(x) as run:
            by = yield model.first.output
            model.first.output = model.first.output * by
        yield run.output

    steps = body()
    next(steps)
    assert torch.equal(steps.send(3.0), expected(model, x, 3))
    with pytest.raises(StopIteration):
        next(steps)
    failing = body()
    next(failing)
    with pytest.raises(ZeroDivisionError):
        failing.throw(ZeroDivisionError())
    assert model._open is None


def test_abandoned_bodies_do_not_add_up(model: AnyModule, x: Tensor) -> None:
    """A generator that ends in another context leaves a closed trace there, which the next one drops."""
    from cutaway.engine.interleave import _OPEN

    def body() -> Iterator[None]:
        with model.trace(x):
            yield

    def abandons() -> int:
        for _ in range(3):
            one = body()
            next(one)
            contextvars.Context().run(one.close)
        return len(_OPEN.get())

    assert contextvars.copy_context().run(abandons) == 1


# A debugger


def session(commands: list[str], function: Callable[[pdb.Pdb], None]) -> str:
    """What pdb prints to commands that are typed while it is stopped in `function`."""
    out = io.StringIO()
    debugger = pdb.Pdb(stdin=io.StringIO("\n".join(commands) + "\n"), stdout=out, nosigint=True, readrc=False)
    debugger.use_rawinput = False
    before = sys.gettrace()
    try:
        function(debugger)
    finally:
        sys.settrace(before)
    return out.getvalue()


def test_debugger_in_the_body(model: AnyModule, x: Tensor) -> None:
    ends: list[Tensor] = []

    def body(debugger: pdb.Pdb) -> None:
        with model.trace(x) as run:
            value = model.first.output
            debugger.set_trace()
            value = model.right.output
            model.right.output = value * 0
        ends.append(run.output)

    shown = session(
        [
            "p 'shape', tuple(value.shape)",
            "n",
            "n",
            "p 'sum', float(value.detach().sum())",
            "p 'now', float(model.right.output.detach().norm())",
            "c",
        ],
        body,
    )
    with model.trace(x):
        right = model.right.output
    assert "('shape', (3, 8))" in shown and f"('sum', {float(right.detach().sum())})" in shown and "('now', 0.0)" in shown
    assert torch.equal(ends[0], model.module.last(model.module.twice(model.module.left(_left_input(model, x)))))


def _left_input(model: AnyModule, x: Tensor) -> Tensor:
    with model.trace(x):
        value: Tensor = model.left.input
    return value


def test_debugger_reads_points_itself(model: AnyModule, x: Tensor) -> None:
    def body(debugger: pdb.Pdb) -> None:
        with model.trace(x):
            debugger.set_trace()
            pass

    shown = session(
        ["p tuple(model.first.output.shape)", "p tuple(model['last'].input.shape)", "model['last'].output *= 0", "where", "c"], body
    )
    assert shown.count("(3, 8)") == 2 and "test_body.py" in shown


def test_debugger_in_the_forward(model: AnyModule, x: Tensor) -> None:
    def body(debugger: pdb.Pdb) -> None:
        def stops(module: nn.Module, args: Any, out: Tensor) -> None:
            debugger.set_trace()
            return None

        handle = model.module.right.register_forward_hook(stops)
        with model.trace(x):
            model.first.output  # noqa: B018
            model["last"].input  # noqa: B018
        handle.remove()

    shown = session(["p 'in', type(module).__name__, tuple(out.shape)", "n", "n", "c"], body)
    assert "('in', 'Linear', (3, 8))" in shown


def test_breakpoint_and_quit(model: AnyModule, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    def body(debugger: pdb.Pdb) -> None:
        monkeypatch.setattr(sys, "breakpointhook", lambda: debugger.set_trace(sys._getframe(1)))
        with model.trace(x):
            value = model.first.output
            breakpoint()
            value = model.right.output  # noqa: F841

    with pytest.raises(pdb.bdb.BdbQuit):
        session(["p value.shape", "q"], body)
    assert model._open is None and not any(m._forward_hooks for m in model.module.modules())


def test_tracing_goes_on_in_the_body(model: AnyModule, x: Tensor) -> None:
    """As a coverage tool sees it: every line of the body, before and after a switch."""
    lines: list[int] = []
    code = test_tracing_goes_on_in_the_body.__code__

    def watch(frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code is code and event == "line":
            lines.append(frame.f_lineno)
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    sys._getframe().f_trace = watch
    try:
        with model.trace(x):
            model.first.output  # noqa: B018
            model.right.output  # noqa: B018
        after = sys._getframe().f_lineno
    finally:
        sys.settrace(before)
    assert set(range(after - 3, after + 1)) <= set(lines)


# Outside


def test_run_is_bound_after_the_block(model: AnyModule, x: Tensor) -> None:
    with model.trace(x) as run:
        value = model.first.output
    assert value.sum() == model.module.first(x).sum() and run.finished
    with pytest.raises(TraceError, match="no trace is open"):
        model.first.output  # noqa: B018
