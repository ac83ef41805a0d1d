"""Sweeps over networks that are no language models; those are in tests/models/test_decoder.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cutaway.engine.memory import Peak
from cutaway.engine.place import Intervention
from cutaway.errors import AddressError, InputError, UnknownNameError
from cutaway.mediators.ablate import ablate
from cutaway.mediators.add import add
from cutaway.mediators.noise import noise
from cutaway.mediators.scale import scale
from cutaway.models.any_module import AnyModule

Edits = list[Intervention]
slow = pytest.mark.filterwarnings("ignore::cutaway.errors.SlowSweepWarning")
"""Some interventions here run as whole forwards; that a sweep says so is tested in test_plan.py."""
Open = Callable[[nn.Module], AnyModule]


def assert_sweep_is_naive(model: AnyModule, x: Tensor, edits: Sequence[Edits], base: Edits = (), **options: Any) -> None:
    ours = model.sweep(x, edits=edits, base=base, metric=lambda out: out, **options)
    hand = torch.stack([model.last(model.run(x, edits=[*base, *one]).output) for one in edits])
    assert ours.shape == hand.shape
    torch.testing.assert_close(ours, hand, rtol=0, atol=1e-5)


CHAIN: list[Edits] = [
    [],
    [("[0].output", scale(2.0))],
    [("[0].input", scale(2.0))],
    [("input", scale(-1.0))],
    [("output", scale(-1.0))],
    [("[2].output[unit=3]", add(torch.tensor(2.0)))],
    [("[2].0.output", ablate()), ("[1].output", scale(0.5))],
    [("[3].output", ablate())],
    [("[3].input[pos=-1]", add(torch.tensor(1.0))), ("[0].output", noise(1.0))],
    [("2.input", scale(3.0)), ("1.output", add(torch.tensor(1.0)))],
]
BASES: list[Edits] = [
    [],
    [("[0].output", noise(1.0))],
    [("[2].0.output", scale(2.0)), ("[1].output", add(torch.tensor(0.3)))],
    [("[2].input", scale(2.0)), ("[1].output", add(torch.tensor(0.3)))],
    [("input", scale(0.5))],
    [("output", scale(0.5))],
    [("[3].output", scale(0.5))],
]


@slow
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("rows", [1, 3])
def test_sequence(chain: AnyModule, x: Tensor, base: Edits, rows: int) -> None:
    assert_sweep_is_naive(chain, x[:rows], CHAIN, base)
    assert_sweep_is_naive(chain, x[:rows], CHAIN, base, budget=1)


BRANCH: list[Edits] = [
    [],
    [("first.output", scale(2.0))],
    [("left[0].output[unit=1]", ablate()), ("right.input", scale(2.0))],
    [("stages[0].inner.output", noise(1.0)), ("stages[1].inner.input", scale(2.0))],
    [("twice.output", scale(0.5))],  # runs twice, and is edited both times
    [("output", add(torch.tensor(1.0)))],
]


@slow
@pytest.mark.parametrize("base", [[], [("first.output", noise(1.0))], [("output", scale(2.0)), ("right.output", scale(0.1))]])
@pytest.mark.parametrize("rows", [1, 3])
def test_branching_network_is_packed(model: AnyModule, x: Tensor, base: Edits, rows: int) -> None:
    assert model.stack is None
    assert_sweep_is_naive(model, x[:rows], BRANCH * 4, base)


names = ["input", "output", *(f"{i}.{e}" for i in range(4) for e in ("input", "output")), "2.0.input", "2.1.output"]
interventions = st.lists(
    st.tuples(st.sampled_from(names), st.sampled_from([scale(0.0), scale(-1.5), add(torch.tensor(0.7)), noise(1.0)])), max_size=4
)


@slow
@given(edits=st.lists(interventions, min_size=1, max_size=6), base=interventions, rows=st.integers(1, 3), small=st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_random_interventions(edits: list[Edits], base: Edits, rows: int, small: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    module = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Sequential(nn.Linear(8, 8), nn.GELU()), nn.Linear(8, 5)).eval()
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.6)
    model = AnyModule(module, "chain")
    x = torch.randn(rows, 8, generator=generator)
    assert_sweep_is_naive(model, x, edits, base, budget=1 if small else 2**20)


def test_resuming_saves_work(opened: Open, x: Tensor) -> None:
    model = opened(nn.Sequential(*(nn.Linear(8, 8) for _ in range(10))))
    edits: list[Edits] = [[(f"[{i}].output", scale(2.0))] for i in range(10)]
    with FlopCounterMode(display=False) as counter:
        model.sweep(x, edits=edits, metric=lambda out: out)
    one = 10 * 2 * 3 * 8 * 8
    assert counter.get_total_flops() == one * (1 + sum(range(10)) / 10)  # the base run, and each row from its edit on
    assert model.forwards == pytest.approx(3 * (1 + 4.5))


class Reversed(nn.Sequential):
    """A sequence by type, which runs in another order."""

    def forward(self, x: Tensor) -> Tensor:
        for module in reversed(self):
            x = module(x)
        return x


@slow
def test_what_only_looks_like_a_sequence(opened: Open, x: Tensor) -> None:
    shared = nn.Linear(8, 8)
    for module in (Reversed(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)), nn.Sequential(shared, nn.Tanh(), shared), nn.Sequential()):
        model = opened(module)
        edits: list[Edits] = [[], *([(f"[{i}].output", scale(0.5))] for i in range(len(module)))]
        assert_sweep_is_naive(model, x, edits)


@slow
def test_part_shared_by_two_blocks_is_edited_in_both(opened: Open, x: Tensor) -> None:
    act = nn.Tanh()
    model = opened(nn.Sequential(nn.Sequential(nn.Linear(8, 8), act), nn.Sequential(nn.Linear(8, 8), act)))
    assert_sweep_is_naive(model, x, [[("[0].1.output", scale(0.5))], [("[0].output", scale(0.5))]])
    assert_sweep_is_naive(model, x, [[("[0].output", scale(0.5))]], [("[1].1.output", scale(0.5))])


@slow
def test_metric_and_progress(chain: AnyModule, x: Tensor) -> None:
    seen: list[float] = []
    shapes: list[tuple[int, ...]] = []

    def metric(out: Tensor) -> Tensor:
        shapes.append(tuple(out.shape))
        return out.sum(-1)

    found = chain.sweep(x, edits=CHAIN, metric=metric, progress=seen.append)
    assert found.shape == (10, 3) and sum(seen) == pytest.approx(1) and min(seen) > 0
    assert {s[1:] for s in shapes} == {(3, 5)} and sum(s[0] for s in shapes) == 10
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("edits", "base", "error"),
    [
        ([], [], InputError),
        ([("[0].output", scale(2.0))], [], AddressError),  # a list of edits where a list of lists was meant
        ([[("[0].output", 3)]], [], AddressError),
        ([[]], [("[0].output",)], AddressError),
        ([[("[7].output", scale(2.0))]], [], UnknownNameError),
        ([[("[0].output[unit=99]", scale(2.0))]], [], AddressError),
        ([[("[0].output", lambda v: v[:, :2])]], [], AddressError),
        ([[]], [("nothing.output", scale(1.0))], UnknownNameError),
    ],
)
def test_bad_input(chain: AnyModule, x: Tensor, edits: Any, base: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        chain.sweep(x, edits=edits, base=base, metric=lambda out: out)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in chain.module.modules())


class Wide(nn.Module):
    """Not a sequence: what comes out is a thousand times wider than what goes in."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.out = nn.Linear(8, 2048), nn.Linear(2048, 2048)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.up(x))


@slow
@pytest.mark.parametrize("module", [Wide(), nn.Sequential(nn.Linear(8, 2048), nn.Linear(2048, 2048))], ids=["packed", "resumed"])
def test_memory_stays_in_the_budget(opened: Open, x: Tensor, module: nn.Module) -> None:
    """A hundred outputs take 2.4 MB; neither the rows that run together nor what the metric took from them may hold as much."""
    model, budget = opened(module), 2**19
    last = "out.output" if isinstance(module, Wide) else "[1].output"
    edits: list[Edits] = [[(last, scale(1 + i / 10))] for i in range(100)]
    with Peak() as alone:
        model.sweep(x, edits=edits[:1], metric=lambda out: out[..., 0])
    with Peak() as together:
        model.sweep(x, edits=edits, metric=lambda out: out[..., 0], budget=budget)
    assert together.bytes - alone.bytes <= budget


@slow
@pytest.mark.parametrize("edits", [CHAIN, CHAIN[3:4]], ids=["resumed", "packed"])
@pytest.mark.parametrize("where", ["edit", "metric", "progress"])
def test_an_interruption_leaves_no_hooks(chain: AnyModule, x: Tensor, edits: list[Edits], where: str) -> None:
    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    more: list[Edits] = [[*edits[-1], ("[3].output", stop)]] if where == "edit" else []
    with pytest.raises(KeyboardInterrupt):
        chain.sweep(
            x,
            edits=[*edits, *more],
            metric=stop if where == "metric" else lambda out: out,
            progress=stop if where == "progress" else None,
        )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in chain.module.modules())
    assert_sweep_is_naive(chain, x, [[("[0].output", scale(2.0))]])
