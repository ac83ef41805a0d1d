"""Body and forward in turn: what is read is what runs, what is written is what it goes on with, and nothing is left behind."""

from __future__ import annotations

import contextvars
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cutaway.engine import site
from cutaway.errors import EngineError, OutOfOrderError, TraceError
from cutaway.models.any_module import AnyModule

OUTER = 0


def hooks(model: AnyModule) -> int:
    """Hooks on the model, of any kind."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.module.modules()) + len(site._TAPS)


@pytest.fixture(autouse=True)
def nothing_is_left(model: AnyModule, x: Tensor) -> Iterator[None]:
    """After every test: no hooks, no open trace, and the model computes what it did."""
    before = model.module(x)
    yield
    assert hooks(model) == 0
    assert model._open is None
    assert torch.equal(model.module(x), before)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled() and not torch.is_autocast_enabled("cpu")


# Reading


def test_reads_in_the_order_of_the_forward(model: AnyModule, x: Tensor) -> None:
    m = model.module
    with model.trace(x) as run:
        args, kwargs = model.first.inputs
        first_in = model.first.input
        first = model.first.output
        pair = model.stages[0].output
        right_in = model.right.input
        result = run.output
    assert args == (x,) and kwargs == {} and first_in is x
    assert torch.equal(first, m.first(x))
    assert torch.equal(pair[0], m.stages[0].inner(first) * 0.5) and pair[1] == "weights"
    assert torch.equal(right_in, torch.tanh(first + pair[0] + m.stages[1](first + pair[0], 0.5)[0]))  # called by keyword
    assert torch.equal(result, m(x)) and result is run.output


def test_inputs_show_keywords(model: AnyModule, x: Tensor) -> None:
    with model.trace(x):
        (value,), kwargs = model.stages[1].inputs
        assert kwargs == {"scale": 0.5} and value.shape == x.shape


def test_values_are_ordinary_tensors(model: AnyModule, x: Tensor) -> None:
    found = []
    with torch.no_grad(), model.trace(x):
        hidden = model.first.output
        for row in hidden:
            if row.sum() > 0:
                found.append(float(row.max()))
    assert found == [float(row.max()) for row in model.module.first(x).detach() if row.sum() > 0]


def test_parent_after_child(model: AnyModule, x: Tensor) -> None:
    with model.trace(x):
        inner = model.stages[0].inner.output
        outer = model.stages[0].output
        last = model.left[2].output
        parent = model.left.output
    assert torch.equal(outer[0], inner * 0.5)
    assert torch.equal(parent, last)


def test_every_parent_of_a_deep_child(opened: Callable[[nn.Module], AnyModule], x: Tensor) -> None:
    deep = opened(nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(8, 8)), nn.Tanh()), nn.Tanh()))
    with deep.trace(x):
        values = [deep[0][0][0].output, deep[0][0].output, deep[0].output, deep.output]
    assert torch.equal(values[0], values[1]) and torch.equal(values[2], values[1].tanh()) and torch.equal(values[3], deep.module(x))


def test_reading_twice_gives_the_value_as_it_is_now(model: AnyModule, x: Tensor) -> None:
    with model.trace(x):
        assert model.first.output is model.first.output
        model.first.output = torch.zeros(3, 8)
        assert (model.first.output == 0).all()


def test_native_names_and_indices(model: AnyModule, x: Tensor) -> None:
    with model.trace(x):
        assert torch.equal(model.stages[-2].inner.output, model.module.stages[0].inner(model.module.first(x)))
        assert model.stages[1].inner.weight is model.module.stages[1].inner.weight
    assert len(model.stages) == 2 and [repr(s)[:11] for s in model.stages] == ["<stages[0]:", "<stages[1]:"]


def test_calling_a_module_inside_the_body(model: AnyModule, x: Tensor) -> None:
    """As a logit lens does: the call is the body's own and does not disturb the forward, even of a module that is hooked."""
    with model.trace(x) as run:
        early = model["last"](model.first.output)
        assert torch.equal(model.first(x), model.first.output)
        middle = model.right.output
    assert torch.equal(early, model.module.last(model.module.first(x)))
    assert middle.shape == (3, 8) and torch.equal(run.output, model.module(x))


def test_output_is_there_after_the_block(model: AnyModule, x: Tensor) -> None:
    with model.trace(x) as run:
        pass
    assert torch.equal(run.output, model.module(x))


def test_a_function_drives_the_forward(model: AnyModule, x: Tensor) -> None:
    with model.trace(x, fn=lambda value: model.module(value) + model.module.last(value)) as run:
        seen = model.first.output
    assert torch.equal(seen, model.module.first(x))
    assert torch.equal(run.output, model.module(x) + model.module.last(x))


# Writing


def by_hand(model: AnyModule, x: Tensor, module: nn.Module, change: Callable[..., Any], before: bool = False) -> Tensor:
    handle = (module.register_forward_pre_hook if before else module.register_forward_hook)(change)
    try:
        return model.module(x)
    finally:
        handle.remove()


def test_assignment_replaces(model: AnyModule, x: Tensor) -> None:
    expected = by_hand(model, x, model.module.first, lambda m, a, out: out.flip(0) * 2)
    with model.trace(x) as run:
        model.first.output = model.first.output.flip(0) * 2
    assert torch.equal(run.output, expected) and not torch.equal(expected, model.module(x))


def test_in_place_change(model: AnyModule, x: Tensor) -> None:
    def change(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        out = out.clone()
        out[1, 2:] = 7
        return out * 3

    expected = by_hand(model, x, model.module.right, change)
    with model.trace(x) as run:
        model.right.output[1, 2:] = 7
        model.right.output *= 3
    assert torch.equal(run.output, expected)


def test_assignment_without_reading(model: AnyModule, x: Tensor) -> None:
    with model.trace(x) as run:
        model["last"].output = torch.ones(3, 5)
    assert torch.equal(run.output, torch.ones(3, 5))


def test_write_to_an_input(model: AnyModule, x: Tensor) -> None:
    expected = by_hand(model, x, model.module.last, lambda m, args: (args[0] + 1,), before=True)
    with model.trace(x) as run:
        model["last"].input += 1
        seen = model["last"].input
    assert torch.equal(run.output, expected)
    assert torch.equal(model.module.last(seen), expected)


def test_write_to_an_input_given_by_keyword(model: AnyModule, x: Tensor) -> None:
    with model.trace(x) as run:
        model.right.input = torch.zeros(3, 8)
        right = model.right.output
    assert torch.equal(right, model.module.right(torch.zeros(3, 8)))
    assert not torch.equal(run.output, model.module(x))


def test_write_to_all_inputs(model: AnyModule, x: Tensor) -> None:
    with model.trace(x):
        args, kwargs = model.stages[0].inputs
        model.stages[0].inputs = (args, kwargs | {"scale": 2.0})
        doubled = model.stages[0].output[0]
    assert torch.equal(doubled, model.module.stages[0].inner(model.module.first(x)) * 2.0)


def test_write_to_a_tuple(model: AnyModule, x: Tensor) -> None:
    expected = by_hand(model, x, model.module.stages[0], lambda m, a, out: (out[0] * 0, out[1]))
    with model.trace(x) as run:
        model.stages[0].output = (model.stages[0].output[0] * 0, "other")
    assert torch.equal(run.output, expected)


def test_write_to_the_model_itself(model: AnyModule, x: Tensor) -> None:
    with model.trace(x) as run:
        model.input = x * 0
        model.output = model.output + 1
    assert torch.equal(run.output, model.module(x * 0) + 1)


def test_only_points_can_be_assigned(model: AnyModule, x: Tensor) -> None:
    with model.trace(x):
        with pytest.raises(AttributeError, match=r"first\.weight is not a point"):
            model.first.weight = torch.zeros(8, 8)


# Order


def test_out_of_order_names_both_points(model: AnyModule, x: Tensor) -> None:
    with pytest.raises(OutOfOrderError, match=r"(?s)first\.output after left\[0\]\.output.*first\.output first, then left\[0\]\.output"):
        with model.trace(x):
            model.left[0].output  # noqa: B018
            model.first.output  # noqa: B018


def test_out_of_order_of_a_module_seen_before(model: AnyModule, x: Tensor) -> None:
    with model.trace(x) as run:
        model.first.output  # noqa: B018
        model.right.output  # noqa: B018
        with pytest.raises(OutOfOrderError, match="already run past"):
            model.first.output  # noqa: B018
        last = model["last"].output  # the mistake is caught before anything ran on, so the rest can be read
    assert torch.equal(last, run.output)


def test_module_that_never_runs(model: AnyModule, x: Tensor) -> None:
    with pytest.raises(OutOfOrderError, match=r"(?s)never\.output.*without reaching it"), model.trace(x):
        model.never.output  # noqa: B018


def test_a_module_that_runs_twice_is_seen_the_first_time(model: AnyModule, x: Tensor) -> None:
    with model.trace(x):
        first = model.twice.output
        left = model.left[0].input
    assert torch.equal(first, left)


def test_reading_outside_a_trace(model: AnyModule) -> None:
    with pytest.raises(TraceError, match="no trace is open"):
        model.first.output  # noqa: B018
    with pytest.raises(TraceError, match="no trace is open"):
        model.first.output = torch.zeros(1)


def test_unknown_part_names_the_nearest(model: AnyModule) -> None:
    with pytest.raises(AttributeError, match="first"):
        model.frist  # noqa: B018
    with pytest.raises(AttributeError, match=r"stages\[0\]\.inner"):
        model.stages[0].iner  # noqa: B018
    with pytest.raises(IndexError, match="2 items"):
        model.stages[2]
    assert not hasattr(model, "nothing")


# Stopping


def test_stop(model: AnyModule, x: Tensor) -> None:
    ran: list[int] = []
    handle = model.module.left.register_forward_hook(lambda *_: ran.append(1))
    with model.trace(x) as run:
        kept = model.stages[1].output[0]
        run.stop()
        after = kept.sum()  # the body goes on
        with pytest.raises(OutOfOrderError, match="ended"):
            model.right.output  # noqa: B018
        with pytest.raises(TraceError, match="stopped"):
            run.output  # noqa: B018
    handle.remove()
    assert ran == [] and after == kept.sum()
    with pytest.raises(TraceError, match="stopped"):
        run.output  # noqa: B018
    with pytest.raises(TraceError, match="left"):
        run.stop()


def test_stop_before_anything_ran(model: AnyModule, x: Tensor) -> None:
    calls = model.module.calls
    with model.trace(x) as run:
        run.stop()
    assert model.module.calls == calls


def test_output_inside_the_body_ends_the_forward(model: AnyModule, x: Tensor) -> None:
    with model.trace(x) as run:
        assert torch.equal(run.output, model.module(x))
        with pytest.raises(OutOfOrderError, match="ended"):
            model.first.output  # noqa: B018


# Errors


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_exception_in_the_body(model: AnyModule, x: Tensor, error: type[BaseException]) -> None:
    left: list[str] = []

    class Guarded(nn.Module):
        def forward(self, value: Tensor) -> Tensor:
            try:
                return model.module.left(value)
            finally:
                left.append("cleaned")

    wrapped = AnyModule(nn.Sequential(Guarded()), "guarded")
    wrapped.module[0].inner = model.module.left
    with pytest.raises(error):
        with wrapped.trace(x):
            wrapped[0].inner[0].output  # noqa: B018
            raise error
    assert left == ["cleaned"] and hooks(wrapped) == 0  # the forward's own clean-up ran


def test_exception_in_the_forward_is_raised_where_it_was_driven(model: AnyModule, x: Tensor) -> None:
    with model.trace(x) as run:
        model.first.output = torch.zeros(3, 9)  # does not fit what follows
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            model.right.output  # noqa: B018
        with pytest.raises(OutOfOrderError, match="ended"):
            model.right.output  # noqa: B018
    with pytest.raises(TraceError, match="failed"):
        run.output  # noqa: B018


def test_exception_in_the_forward_after_the_body(model: AnyModule, x: Tensor) -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), model.trace(x):
        model.first.output = torch.zeros(3, 9)


def test_exception_before_the_forward_runs(model: AnyModule, x: Tensor) -> None:
    with pytest.raises(TypeError, match="unexpected keyword"), model.trace(x, strange=1):
        model.first.output  # noqa: B018


def test_interrupt_in_the_forward(model: AnyModule, x: Tensor) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = model.module.right.register_forward_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), model.trace(x):
            model["last"].output  # noqa: B018
    finally:
        handle.remove()


def abandoned(model: AnyModule, x: Tensor) -> Iterator[Tensor]:
    with model.trace(x):
        yield model.first.output
        raise AssertionError("the rest of the body must not run")


def test_abandoned_generator(model: AnyModule, x: Tensor) -> None:
    body = abandoned(model, x)
    assert next(body).shape == (3, 8)
    with pytest.raises(TraceError, match="still open"), model.trace(x):
        pass
    del body
    assert model._open is None


def test_many_failures_do_not_add_up(model: AnyModule, x: Tensor) -> None:
    for i in range(60):
        with pytest.raises((ZeroDivisionError, RuntimeError)):
            with model.trace(x):
                model.first.output = torch.zeros(3, 8 + i % 2)
                if i % 2:
                    model.right.output  # noqa: B018
                raise ZeroDivisionError


# Nothing outlives the block


@pytest.mark.slow
@pytest.mark.parametrize("how", ["plain", "body fails", "forward fails", "stopped", "generator"])
def test_model_is_freed_by_reference_counts_alone(opened: Callable[[nn.Module], AnyModule], x: Tensor, how: str) -> None:
    model = opened(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
    gc.collect()
    gc.disable()
    try:
        if how == "generator":
            body = (value for value in abandoned_on(model, x))
            next(body)
            del body
        else:
            with_failure(model, x, how)
        gone = weakref.ref(model.module), weakref.ref(model.module[0].weight)
        del model
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


def abandoned_on(model: AnyModule, x: Tensor) -> Iterator[Tensor]:
    with model.trace(x):
        yield model[0].output


def with_failure(model: AnyModule, x: Tensor, how: str) -> None:
    try:
        with model.trace(x) as run:
            value = model[0].output
            if how == "body fails":
                raise ZeroDivisionError
            if how == "forward fails":
                model[0].output = value[:, :3]
            if how == "stopped":
                run.stop()
    except (ZeroDivisionError, RuntimeError):
        pass


def test_kept_run_does_not_keep_the_model(opened: Callable[[nn.Module], AnyModule], x: Tensor) -> None:
    model = opened(nn.Sequential(nn.Linear(8, 8)))
    with torch.no_grad(), model.trace(x) as run:
        pass
    gone = weakref.ref(model.module)
    del model
    assert gone() is None and run.output.shape == (3, 8)


# One trace at a time


def test_two_traces_on_one_model(model: AnyModule, x: Tensor) -> None:
    with model.trace(x) as run:
        model.first.output  # noqa: B018
        with pytest.raises(TraceError, match="still open"), model.trace(x):
            pass
        model.right.output  # noqa: B018
    assert torch.equal(run.output, model.module(x))


@pytest.mark.filterwarnings("ignore::cutaway.errors.SlowSweepWarning")
def test_runs_inside_an_open_trace(model: AnyModule, x: Tensor) -> None:
    """They are forwards of their own: they neither see what the body changed nor disturb the one that is parked."""
    edits = [("right.output", lambda v: v * 3)]
    read = ["first.output", "right.output"]
    alone = model.run(x, read=read), model.run(x, edits=edits).output, model.gradients(x, of=lambda out: out, at=read)
    with model.trace(x) as run:
        model.first.output = model.first.output * 0
        for _ in range(2):
            inside = model.run(x, read=read), model.run(x, edits=edits).output, model.gradients(x, of=lambda out: out, at=read)
            assert all(torch.equal(inside[0][name], alone[0][name]) for name in read) and torch.equal(inside[1], alone[1])
            assert all(torch.equal(a[name], b[name]) for a, b in zip(inside[2], alone[2], strict=True) for name in read)
            swept = model.sweep(x, edits=[edits, []], metric=lambda out: out)
            torch.testing.assert_close(swept[0], model.last(alone[1]).detach())
            assert (model.first.output == 0).all()
        zeroed = model.right.input
        model.right.output = model.run(x, read=read)["right.output"]
    h = torch.zeros(3, 8)
    for stage in model.module.stages:
        h = h + stage(h, scale=0.5)[0]
    assert torch.equal(zeroed, h.tanh())
    assert torch.equal(run.output, model.module.last((model.module.left(h.tanh()) + alone[0]["right.output"]).tanh()))


def test_a_trace_cannot_be_used_twice(model: AnyModule, x: Tensor) -> None:
    run = model.trace(x)
    with run:
        with pytest.raises(TraceError, match="used already"), run:
            pass
    with pytest.raises(TraceError, match="used already"), run:
        pass


def test_two_models_in_turn(model: AnyModule, chain: AnyModule, x: Tensor) -> None:
    with model.trace(x) as outer:
        with chain.trace(x) as inner:
            a = model.first.output
            b = chain[0].output
            model.right.output = model.right.output + b
            chain[2].output = chain[2].output + a
        c = model["last"].input
    assert torch.equal(a, model.module.first(x)) and torch.equal(b, chain.module[0](x))
    assert torch.equal(inner.output, chain.module[3](chain.module[2](chain.module[1](b)) + a))
    assert torch.equal(outer.output, model.module.last(c)) and not torch.equal(outer.output, model.module(x))


def test_a_model_opened_twice_is_two_models(model: AnyModule, x: Tensor) -> None:
    other = AnyModule(model.module, "again")
    with model.trace(x) as one, other.trace(-x) as two:
        a, b = model.first.output, other.first.output
        model.first.output = a * 0
        c, d = other.right.output, model.right.output
    assert torch.equal(b, model.module.first(-x)) and torch.equal(two.output, model.module(-x))
    assert torch.equal(a, model.module.first(x)) and not torch.equal(one.output, model.module(x)) and not torch.equal(c, d)


def test_a_trace_inside_a_forward(model: AnyModule, chain: AnyModule, x: Tensor) -> None:
    """The forward of one model may itself trace another."""

    def drive(value: Tensor) -> Tensor:
        with chain.trace(value):
            hidden = chain[0].output
        return model.module(hidden)

    with model.trace(x, fn=drive) as run:
        seen = model.first.input
    assert torch.equal(seen, chain.module[0](x)) and torch.equal(run.output, model.module(seen))


# The body is ordinary Python


def test_augmented_assignment_of_an_outer_name(model: AnyModule, x: Tensor) -> None:
    n, kept = 0, []
    with model.trace(x):
        n += 1
        kept.append(model.first.output)
        n += len(kept)
    assert n == 2


def test_global_and_nonlocal(model: AnyModule, x: Tensor) -> None:
    inside = 0

    def body() -> None:
        nonlocal inside
        global OUTER
        with model.trace(x):
            OUTER = int(model.first.output.shape[0])
            inside = OUTER + 1

    body()
    assert (OUTER, inside) == (3, 4)


def test_return_break_continue(model: AnyModule, x: Tensor) -> None:
    def early() -> Tensor:
        with model.trace(x):
            return model.first.output
        raise AssertionError

    assert torch.equal(early(), model.module.first(x))
    assert model._open is None
    seen = []
    for i in range(5):
        with model.trace(x):
            seen.append(i)
            if i == 1:
                continue
            model.first.output  # noqa: B018
            if i == 3:
                break
    assert seen == [0, 1, 2, 3]


def test_return_lets_the_forward_finish(model: AnyModule, x: Tensor) -> None:
    """Leaving by return is leaving without an error: the forward runs to its end, as after a full block."""
    calls: list[int] = []
    handle = model.module.last.register_forward_hook(lambda *_: calls.append(1))

    def early() -> None:
        with model.trace(x):
            return

    early()
    handle.remove()
    assert calls == [1]


def test_body_that_begins_with_try_and_body_of_one_line(model: AnyModule, x: Tensor) -> None:
    with model.trace(x):
        try:
            a = model.first.output
        finally:
            b = model.right.output
    with model.trace(x):
        c = model.first.output
    assert torch.equal(a, c) and b.shape == (3, 8)


def test_generated_code(model: AnyModule, x: Tensor) -> None:
    names: dict[str, Any] = {"model": model, "x": x}
    exec("with model.trace(x):\n    h = model.first.output\n    y = [v for v in h]", names)
    assert torch.equal(names["h"], model.module.first(x)) and len(names["y"]) == 3


def test_private_names_of_a_class(model: AnyModule, x: Tensor) -> None:
    class Probe:
        def __init__(self) -> None:
            self.__kept = 5

        def __call__(self) -> Tensor:
            with model.trace(x):
                return model.first.output * self.__kept

    assert torch.equal(Probe()(), model.module.first(x) * 5)


def test_generator_body(model: AnyModule, x: Tensor) -> None:
    def values() -> Iterator[Tensor]:
        with model.trace(x):
            yield model.first.output
            yield model.right.output

    first, right = values()
    assert torch.equal(first, model.module.first(x)) and right.shape == (3, 8)


def test_await_in_the_body(model: AnyModule, chain: AnyModule, x: Tensor) -> None:
    import asyncio

    async def one(of: AnyModule, names: list[str]) -> list[Tensor]:
        found = []
        with of.trace(x):
            for name in names:
                await asyncio.sleep(0)
                found.append(eval(f"of{name}.output"))
        return found

    async def both() -> Any:
        return await asyncio.gather(one(model, [".first", ".right"]), one(chain, ["[0]", "[2]"]))

    (first, _), (zero, two) = asyncio.run(both())
    assert torch.equal(first, model.module.first(x)) and torch.equal(zero, chain.module[0](x))
    assert torch.equal(two, chain.module[2](zero.tanh()))


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="default")


def test_context_variables_reach_the_forward(model: AnyModule, x: Tensor) -> None:
    seen: list[str] = []
    handle = model.module.right.register_forward_hook(lambda *_: seen.append(VARIABLE.get()))
    token = VARIABLE.set("ours")
    try:
        with model.trace(x):
            model.right.output  # noqa: B018
            seen.append(VARIABLE.get())
    finally:
        VARIABLE.reset(token)
        handle.remove()
    assert seen == ["ours", "ours"]


# Gradients


def test_backward_after_the_block(model: AnyModule, x: Tensor) -> None:
    with model.trace(x) as run:
        hidden = model.stages[0].output[0]
        hidden.retain_grad()
        model.right.output = model.right.output * 2
    run.output.sum().backward()
    ours, at_hidden = model.module.first.weight.grad.clone(), hidden.grad
    model.module.zero_grad()
    by_hand(model, x, model.module.right, lambda m, a, out: out * 2).sum().backward()
    assert torch.equal(ours, model.module.first.weight.grad) and at_hidden.abs().sum() > 0
    model.module.zero_grad()


def test_gradient_inside_the_body(model: AnyModule, x: Tensor) -> None:
    """Of a part of the forward that has run, used to change the part that has not."""
    with model.trace(x) as run:
        early, late = model.first.output, model.right.input
        (slope,) = torch.autograd.grad(late.sum(), early, retain_graph=True)
        model.right.output = model.right.output + slope
    first = model.module.first(x).detach().requires_grad_()
    h = first
    for stage in model.module.stages:
        h = h + stage(h, scale=0.5)[0]
    h = h.tanh()
    (expected,) = torch.autograd.grad(h.sum(), first)
    torch.testing.assert_close(slope, expected)
    torch.testing.assert_close(run.output, by_hand(model, x, model.module.right, lambda m, a, out: out + expected))


def test_a_leaf_put_into_the_forward(model: AnyModule, x: Tensor) -> None:
    vector = torch.zeros(8, requires_grad=True)
    with model.trace(x) as run:
        model.first.output = model.first.output + vector
    run.output.sum().backward()
    assert vector.grad is not None and torch.allclose(vector.grad, model.module.first.bias.grad)
    model.module.zero_grad()


# Gradient checkpointing runs a part of the forward again in the backward, without the change


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.inside, self.outside, self.reentrant = nn.Linear(8, 8), nn.Linear(8, 5), reentrant

    def forward(self, x: Tensor) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        return self.outside(checkpoint(lambda v: torch.tanh(self.inside(v)), x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("how", ["assigned", "in place", "input"])
def test_change_inside_a_checkpointed_part_is_refused(
    opened: Callable[[nn.Module], AnyModule], x: Tensor, reentrant: bool, how: str
) -> None:
    model = opened(Checkpointed(reentrant))
    x = x.clone().requires_grad_()
    with pytest.raises(EngineError, match=r"(?s)inside\.(output|input).*gradient checkpointing"), model.trace(x):
        if how == "assigned":
            model.inside.output = model.inside.output * 0.5
        elif how == "in place":
            model.inside.output.mul_(0.5)
        else:
            model.inside.input = model.inside.input * 0.5
    with model.trace(x) as run:  # reading is harmless, and so is a change outside
        assert model.inside.output.shape == (3, 8)
        model.outside.output = model.outside.output * 2
    run.output.sum().backward()
    with torch.no_grad(), model.trace(x):
        model.inside.output *= 0.5


# Compiled parts


def test_compiled_part(opened: Callable[[nn.Module], AnyModule], x: Tensor) -> None:
    model = opened(nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Tanh())))
    expected = model.module(x)
    model.module[1].compile(backend="eager")
    torch.testing.assert_close(model.module(x), expected)
    with model.trace(x) as run:
        inner = model[1][0].output
        model[1][0].output = inner * 2
    torch.testing.assert_close(run.output, torch.tanh(inner * 2))
    torch.testing.assert_close(model.module(x), expected)
