"""Calls inside a forward, by name: seen, changed, looked into; and the forward computes what it did."""

from __future__ import annotations

import functools
import gc
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cutaway.engine import detour, site
from cutaway.engine.source import calls, definition
from cutaway.errors import EngineError, OutOfOrderError, UnknownNameError
from cutaway.models.any_module import AnyModule

Open = Callable[[nn.Module], AnyModule]
X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
CALLED: list[str] = []


def softened(x: Tensor, by: float = 2.0, *, shift: float = 0.0) -> Tensor:
    """A function that a forward calls."""
    return torch.softmax(x / by, -1).add(shift)


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    CALLED.append(function.__name__)  # when it decorates, not when the function runs

    @functools.wraps(function)
    def counting(*args: Any, **kwargs: Any) -> Any:
        CALLED.append("run")
        return function(*args, **kwargs)

    return counting


class Base(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


class _Parts(Base):
    """A forward with one call of every sort."""

    scale = 3.0

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.tools, self.__hidden = nn.Linear(8, 8), [torch.sin, torch.cos], 0.5

    @torch.no_grad()
    @counted
    def forward(self, x: Tensor, factor: float = len("ab"), *, more: Tensor | None = None) -> Tensor:
        text = """
not indented"""
        x = super().forward(x) + self.__hidden * len(text)
        x = self.inner(x).view(3, 2, 4).transpose(0, 1).transpose(0, 1).flatten(1)
        x = softened(x, shift=1.0) + self.tools[0](x)
        for _ in range(2):
            x = torch.tanh(x)
        y = [torch.exp(v) for v in x]
        return torch.stack(list(map(lambda v: v * self._own(factor), y)))

    def _own(self, value: float) -> float:
        return float(value) * self.scale


NAMES = (
    "forward_0",
    "len_0",
    "flatten_0",
    "transpose_0",
    "transpose_1",
    "view_0",
    "self_inner_0",
    "softened_0",
    "self_tools_0_0",
    "range_0",
)


@pytest.fixture
def parts(opened: Open) -> AnyModule:
    return opened(_Parts())


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert not site._TAPS and not detour._CROSSINGS


def test_names_are_in_the_order_of_the_text(parts: AnyModule) -> None:
    assert calls(parts.module.forward)[:10] == NAMES
    source = AnyModule(nn.Sequential(parts.module), "one")[0].source
    assert dir(source) == sorted(calls(parts.module.forward)) and dir(source.len_0) == ["input", "inputs", "output", "source"]


def test_reads_every_sort_of_call(parts: AnyModule) -> None:
    m = parts.module
    wrapped = AnyModule(nn.Sequential(m), "one")
    plain = m(X)
    with wrapped.trace(X) as run:
        s = wrapped[0].source
        (first,), _ = s.forward_0.inputs
        base = s.forward_0.output
        inner = s.self_inner_0.output
        viewed = s.view_0.inputs
        turned = s.transpose_1.output
        soft_in, soft = s.softened_0.inputs, s.softened_0.output
        sine = s.self_tools_0_0.output
        once = s.torch_tanh_0.output
        factor = s.self__own_0.output
        stacked = s.torch_stack_0.output
    assert first is X and torch.equal(base, torch.relu(X))
    assert torch.equal(inner, m.inner(base + 0.5 * 13)) and viewed == ((3, 2, 4), {})
    assert turned.shape == (2, 3, 4)
    assert soft_in[1] == {"shift": 1.0} and torch.equal(soft, softened(soft_in[0][0], shift=1.0))
    assert torch.equal(once, torch.tanh(soft + sine)) and factor == 6.0
    assert torch.equal(stacked, plain) and torch.equal(run.output, plain)


def test_writes(opened: Open) -> None:
    m = _Parts()
    model = opened(nn.Sequential(m, nn.Linear(8, 8)))
    with model.trace(X) as run:
        s = model[0].source
        s.softened_0.input = s.softened_0.input * 0
        s.softened_0.output += 1
        args, kwargs = s.torch_tanh_0.inputs
        s.torch_tanh_0.inputs = ((args[0] * 0,), kwargs)
        s.self__own_0.output = 2.0
    assert torch.allclose(run.output[0], model.module[1](torch.full((8,), 2.0)))  # the first round of three
    assert not torch.allclose(run.output[1], run.output[0])
    with pytest.raises(AttributeError, match="no 'outptu'"):
        model[0].source.softened_0.outptu = 1


def test_unread_source_changes_nothing(opened: Open) -> None:
    """A site in the source, and the module computes to the bit what it does."""
    model = opened(nn.Sequential(_Parts(), nn.Linear(8, 8)))
    plain = model.module(X)
    CALLED.clear()
    with model.trace(X) as run:
        model[0].source.torch_stack_0.output  # noqa: B018
    assert torch.equal(run.output, plain) and CALLED == ["run"]  # decorated as it was, and not once more
    assert not run.output.grad_fn.next_functions[1][0]  # and still without gradients inside


def test_looking_into_a_called_function(opened: Open) -> None:
    model = opened(nn.Sequential(_Parts(), nn.Linear(8, 8)))
    with model.trace(X) as run:
        s = model[0].source
        inside = s.softened_0.source
        scores = inside.torch_softmax_0.input
        inside.torch_softmax_0.output = torch.zeros_like(scores)
        added = inside.add_0.output
        outer = s.softened_0.output
        deeper = s.self__own_0.source.float_0.output
    assert torch.equal(added, torch.ones(3, 8)) and torch.equal(outer, added) and deeper == 2.0
    assert not torch.equal(run.output, model.module(X))
    assert repr(inside) == "<[0].source.softened_0.source>" and repr(inside.add_0) == "<call [0].source.softened_0.source.add_0>"


def test_in_runs_sweeps_and_gradients(opened: Open) -> None:
    model = opened(nn.Sequential(nn.Linear(8, 8), _Free(2.0), nn.Linear(8, 8)))
    point = "1.source.torch_tanh_0.output"
    by_hand = torch.tanh(model.module[0](X) * 2.0)
    found = model.run(X, read=[point, "1.source.softened_0.source.torch_softmax_0.output"])
    assert torch.equal(found[point], by_hand)
    assert torch.equal(found["1.source.softened_0.source.torch_softmax_0.output"], torch.softmax(by_hand / 2, -1))
    edited = model.run(X, edits=[(point, lambda v: v * 0)]).output
    assert torch.equal(edited, model.module[2](softened(by_hand * 0)))
    values, slopes = model.gradients(X, of=lambda out: out, at=[point])
    leaf = by_hand.detach().requires_grad_()
    model.module[2](softened(leaf)).sum().backward()
    model.module.zero_grad()
    assert torch.equal(values[point], by_hand) and torch.allclose(slopes[point], leaf.grad)


@pytest.mark.filterwarnings("ignore::cutaway.errors.SlowSweepWarning")
def test_in_sweeps(opened: Open) -> None:
    model = opened(nn.Sequential(nn.Linear(8, 8), _Free(2.0), nn.Linear(8, 8)))
    edits = [[("1.source.torch_tanh_0.output", lambda v, by=by: v * by)] for by in (0.0, 2.0)]
    swept = model.sweep(X, edits=edits, metric=lambda out: out)
    for row, edit in zip(swept, edits, strict=True):
        torch.testing.assert_close(row, model.last(model.run(X, edits=edit).output))


class _Free(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x * self.by)
        return softened(x)


def test_closures_keep_their_cells(opened: Open) -> None:
    count, by = 0, 2.0

    class Local(nn.Module):
        def forward(self, x: Tensor, times: float = by) -> Tensor:
            nonlocal count
            count += 1
            return torch.mul(x, times) + by

    model = opened(nn.Sequential(Local()))
    with model.trace(X) as run:
        seen = model[0].source.torch_mul_0.output
    assert count == 1 and torch.equal(seen, X * 2) and torch.equal(run.output, X * 2 + 2)
    by = 5.0
    with model.trace(X) as run:
        model[0].source.torch_mul_0.output  # noqa: B018
    assert torch.equal(run.output, X * 2 + 5)


def test_forward_put_on_the_instance(opened: Open) -> None:
    inner = nn.Identity()
    inner.forward = functools.partial(softened, by=4.0)
    model = opened(nn.Sequential(inner))
    with model.trace(X) as run:
        seen = model[0].source.torch_softmax_0.output
    assert torch.equal(run.output, softened(X, by=4.0)) and torch.equal(seen, run.output)
    assert inner.forward.keywords == {"by": 4.0}


def test_before_its_output_is_read(opened: Open) -> None:
    """Torch decides on entry whether a module has hooks; who looks inside first may want what it returns."""
    model = opened(nn.Sequential(nn.Sequential(_Free(1.0))))
    with model.trace(X) as run:
        seen = model[0][0].source.torch_tanh_0.output
        out = model[0][0].output
        assert torch.equal(model[0].output, out)
    assert torch.equal(seen, torch.tanh(X)) and torch.equal(out, softened(seen)) and run.finished


def test_after_its_input_was_read(opened: Open) -> None:
    """Torch takes the forward of a module when the module is entered; the input is read after that."""
    model = opened(nn.Sequential(_Free(1.0)))
    with model.trace(X):
        given = model[0].input
        seen = model[0].source.torch_tanh_0.output
    assert given is X and torch.equal(seen, torch.tanh(X))


def test_tracebacks_show_the_line(opened: Open) -> None:
    model = opened(nn.Sequential(_Free(1.0)))
    with pytest.raises(RuntimeError) as caught, model.trace(X):
        model[0].source.torch_tanh_0.output = torch.zeros(3, 8, dtype=torch.bool).to_sparse()
    (frame,) = [f for f in traceback.extract_tb(caught.value.__traceback__) if f.filename == __file__ and f.name == "forward"]
    assert frame.line == "return softened(x)"


def test_text(parts: AnyModule) -> None:
    shown = repr(AnyModule(nn.Sequential(parts.module), "one")[0].source).splitlines()
    (line,) = [line for line in shown if "softened_0" in line]
    assert line.strip() == "softened_0          x = softened(x, shift=1.0) + self.tools[0](x)".strip()
    assert shown[shown.index(line) + 1].strip() == "self_tools_0_0"


# What cannot be looked into


def test_unknown_call(opened: Open) -> None:
    model = opened(nn.Sequential(_Free(1.0)))
    with model.trace(X):
        with pytest.raises(AttributeError, match=r"(?s)torch_tan_0.*torch_tanh_0"):
            model[0].source.torch_tan_0  # noqa: B018
    with pytest.raises(UnknownNameError, match=r"0\.source\.torch_tanh_0\.output"):
        model.run(X, read=["0.source.torch_tan_0.output"])
    with pytest.raises(UnknownNameError, match=r"(?s)torch_softmx_0.*torch_softmax_0"), model.trace(X):
        model[0].source.softened_0.source.torch_softmx_0.output  # noqa: B018


def test_without_text(opened: Open) -> None:
    names: dict[str, Any] = {"nn": nn, "torch": torch}
    exec("class Made(nn.Module):\n    def forward(self, x):\n        return torch.tanh(x)", names)
    model = opened(nn.Sequential(names["Made"]()))
    with pytest.raises(EngineError, match=r"(?s)Made\.forward.*no source text"):
        model[0].source  # noqa: B018
    with pytest.raises(EngineError, match="no source text"):
        model.run(X, read=["0.source.torch_tanh_0.output"])


def test_function_of_no_text(opened: Open) -> None:
    model = opened(nn.Sequential(_Parts()))
    with pytest.raises(EngineError, match=r"(?s)tanh.*no Python function"), model.trace(X):
        model[0].source.torch_tanh_0.source.anything_0.output  # noqa: B018
    with pytest.raises(EngineError, match=r"(?s)Linear.*source of that module itself"), model.trace(X):
        model[0].source.self_inner_0.source.anything_0.output  # noqa: B018


class _Cached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * doubled(2)


@functools.cache
def doubled(value: int) -> int:
    return int(value * 2)


def test_decorator_that_hides_what_it_decorates(opened: Open) -> None:
    model = opened(nn.Sequential(_Cached()))
    with pytest.raises(EngineError, match=r"(?s)doubled.*a decorator"), model.trace(X):
        model[0].source.doubled_0.source.int_0.output  # noqa: B018


def test_a_call_that_was_passed(opened: Open) -> None:
    model = opened(nn.Sequential(_Parts(), nn.Linear(8, 8)))
    with model.trace(X):
        model[0].inner.output  # noqa: B018
        with pytest.raises(OutOfOrderError, match=r"softened_0"):
            model[0].source.softened_0.output  # noqa: B018


def test_definition() -> None:
    assert definition(functools.partial(softened, by=1.0)) is softened and definition(torch.tanh) is None
    assert definition(_Parts().forward).__name__ == "forward" and definition(doubled).__name__ == "doubled"


def test_model_is_freed_by_reference_counts_alone(opened: Open) -> None:
    """Also one whose forward has hold of the model itself."""
    model = opened(nn.Sequential(_Free(1.0), nn.Linear(8, 8)))

    def forward(x: Tensor, weight: Tensor = model.module[1].weight) -> Tensor:
        return torch.tanh(x) @ weight

    model.module[0].forward = forward
    del forward
    gc.collect()
    gc.disable()
    try:
        with model.trace(X):
            model[0].source.torch_tanh_0.output  # noqa: B018
        with pytest.raises(ZeroDivisionError), model.trace(X):
            model[0].source.torch_tanh_0.output  # noqa: B018
            raise ZeroDivisionError
        gone = weakref.ref(model.module), weakref.ref(model.module[1].weight)
        del model
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()
