"""Several graphs in one forward: each gets what it would get alone, and nothing of another's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cutaway.engine.graph import Graph
from cutaway.engine.node import Limits, Node
from cutaway.errors import GraphError, InputError, OutOfOrderError, TraceError
from cutaway.models.any_module import AnyModule

Open = Callable[[nn.Module], AnyModule]
H = {"ref": [0]}
READ = Node("read", ("first.output",))
SAVE = Node("save", (), {"h": H})


def inputs(n: int) -> list[Tensor]:
    return [torch.randn(k % 3 + 1, 8, generator=torch.Generator().manual_seed(k)) for k in range(n)]


def forwards(model: AnyModule) -> list[int]:
    """Rows of every real forward from now on."""
    rows: list[int] = []
    model.module.register_forward_hook(lambda module, args, out: None if type(args[0]) is not Tensor else rows.append(len(args[0])))
    return rows


VICTIM = Graph((READ, Node("Tensor.mul", (H, 2)), Node("write", ("last.input", {"ref": [1]})), SAVE))

ATTACKS: dict[str, tuple[Node, ...]] = {
    "narrow below": (Node("Tensor.narrow", (H, 0, -1, 2)),),
    "a row above": (Node("Tensor.__getitem__", (H, 5)),),
    "all of a view": (Node("Tensor.expand", (H, -1, -1)), Node("Tensor.zero_", ({"ref": [1]},))),
    "in place": (Node("Tensor.fill_", (H, {"float": "nan"})),),
    "a transposed change": (Node("Tensor.t", (H,)), Node("Tensor.mul_", ({"ref": [1]}, 0))),
    "a larger write": (Node("Tensor.repeat", (H, 6, 1)), Node("write", ("last.input", {"ref": [1]}))),
    "a broadcast": (Node("Tensor.new_zeros", (H, [1, 8])), Node("write", ("last.input", {"ref": [1]}))),
    "a write of one element": (Node("Tensor.new_zeros", (H, [])), Node("write", ("last.input", {"ref": [1]}))),
    "a text": (Node("write", ("last.input", "abc")),),
    "the arguments": (Node("read", ("last.inputs",)), Node("Tensor.zero_", ({"ref": [1, 0, 0]},))),
    "infinity": (Node("Tensor.mul", (H, {"float": "inf"})), Node("write", ("last.input", {"ref": [1]}))),
    "the output": (Node("output"), Node("Tensor.zero_", ({"ref": [1]},)), Node("save", (), {"all": {"ref": [1]}})),
    "weights": (Node("Tensor.detach", ({"parameter": "last.weight"},), {}, "", False), Node("Tensor.zero_", ({"ref": [1]},))),
    "relu of weights": (Node("functional.relu", ({"parameter": "last.weight"}, True), {}, "", False),),
    "skip": (Node("Tensor.mul", (H, 0)), Node("skip", ("left", {"ref": [1]}))),
    "a call that fails": (Node("call", ("left", {"tuple": [None]}, {"dict": {}})),),
    "a call of everything": (Node("call", ("", {"tuple": [H]}, {"dict": {}})),),
    "stop": (Node("stop"),),
    "read after stop": (Node("stop"), Node("read", ("last.input",))),
    "out of order": (Node("read", ("last.input",)), Node("read", ("first.input",))),
    "never": (Node("read", ("never.output",)),),
    "no such point": (Node("read", ("nothing.output",)),),
    "a late change": (Node("read", ("last.input",)), Node("Tensor.zero_", (H,))),
}


@pytest.mark.parametrize(
    ("name", "limits"), [(n, limits) for n in ATTACKS for limits in (None, Limits()) if n != "relu of weights" or limits]
)
def test_others_get_what_they_get_alone(model: AnyModule, name: str, limits: Limits | None) -> None:
    """The attacker's rows lie between two others'."""
    bad = Graph((READ, *ATTACKS[name]))
    xs = inputs(3)
    with torch.no_grad():
        alone = [model.replay(VICTIM, xs[i]) for i in (0, 2)]
        before = {k: v.clone() for k, v in model.module.state_dict().items()}
        first, attacker, last = model.replay_together([(VICTIM, xs[0]), (bad, xs[1]), (VICTIM, xs[2])], limits)
    for found, wanted in zip((first, last), alone, strict=True):
        torch.testing.assert_close(found["h"], wanted["h"])
        torch.testing.assert_close(found.output, wanted.output)
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    if limits is not None and attacker.error is None and attacker.finished:
        for value in (attacker.output, *attacker.saved.values()):
            assert len(value) == len(xs[1])


def test_one_forward_for_all(model: AnyModule) -> None:
    xs, graphs = inputs(4), []
    for k, x in enumerate(xs):
        with model.record(x) as run:
            h = model.first.output
            h[:, k] = 0
            model.stages[0].output = (model.stages[0].output[0] * k, "weights")
            if k == 2:
                model.left.skip(model.left.input)
            run.save(h=h, last=model["last"].input)
        graphs.append(run.graph)
    rows = forwards(model)
    with torch.no_grad():
        together = model.replay_together(list(zip(graphs, xs, strict=True)))
        assert rows == [sum(map(len, xs))]
        for found, graph, x in zip(together, graphs, xs, strict=True):
            alone = model.replay(graph, x)
            torch.testing.assert_close(found.saved, alone.saved)
            torch.testing.assert_close(found.output, alone.output)


def test_what_has_to_run_alone(model: AnyModule) -> None:
    xs = inputs(3)
    with model.record(xs[0]) as run:
        h = model.first.output
        run.save(grad=torch.autograd.grad(model["last"].output.sum(), h)[0])
    rows = forwards(model)
    gradient, one, two = model.replay_together([(run.graph, xs[0]), (VICTIM, xs[1]), (VICTIM, xs[2])])
    assert rows == [len(xs[1]) + len(xs[2]), len(xs[0])]
    assert torch.equal(gradient["grad"], model.replay(run.graph, xs[0])["grad"])
    assert one.finished and two.finished


def test_values_that_are_not_laid_out_by_rows(opened: Open) -> None:
    """A value with as many elements as there are rows, by chance, is not taken for one of rows."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.table = nn.Identity()
            self.flat = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            table = self.table(torch.arange(3.0))
            return self.first(x) + table.sum() + self.flat(x.flatten()).sum() * 0

    mixed = opened(Mixed())
    xs = [torch.ones(1, 8), torch.ones(1, 8), torch.ones(1, 8)]
    rows = forwards(mixed)
    for point in ("table.output", "flat.output"):
        graph = Graph((Node("read", (point,)), SAVE))
        for found in mixed.replay_together([(graph, x) for x in xs]):
            assert torch.equal(found["h"], mixed.replay(graph, xs[0])["h"])
    assert rows.count(3) == 0  # never packed


def test_models_whose_rows_mix_run_alone(opened: Open) -> None:
    norm = opened(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)))
    norm.module.train()
    graph, xs = Graph((Node("read", ("0.output",)), SAVE)), [torch.randn(2, 8), torch.randn(3, 8)]
    rows = forwards(norm)
    norm.replay_together([(graph, x) for x in xs])
    assert rows == [2, 3]


def test_inputs_that_do_not_fit_together_run_alone(opened: Open) -> None:
    sequence = opened(nn.Sequential(nn.Linear(8, 8)))
    graph = Graph((Node("read", ("0.output",)), SAVE))
    shapes = [tuple(r["h"].shape) for r in sequence.replay_together([(graph, torch.ones(2, 8)), (graph, torch.ones(2, 5, 8))])]
    assert shapes == [(2, 8), (2, 5, 8)]


def test_errors_are_each_jobs_own(model: AnyModule) -> None:
    xs = inputs(4)
    early = Graph((Node("read", ("last.input",)), READ))
    wrong = Graph((READ, Node("Tensor.matmul", (H, H))))
    unknown = Graph((READ, Node("Tensor.load", (H,))))
    good, one, two, three = model.replay_together([(VICTIM, xs[0]), (early, xs[1]), (wrong, xs[2]), (unknown, xs[3])])
    assert isinstance(one.error, OutOfOrderError) and isinstance(two.error, GraphError) and isinstance(three.error, GraphError)
    assert good.finished
    with pytest.raises(OutOfOrderError):
        assert one.saved
    with pytest.raises(OutOfOrderError):
        assert one.output


def test_batch(model: AnyModule) -> None:
    xs = inputs(3)
    rows = forwards(model)
    with torch.no_grad():
        with model.batch() as batch:
            runs = []
            for k, x in enumerate(xs):
                with batch.invoke(x) as run:
                    h = model.first.output
                    model.right.output *= k
                    run.save(h=h)
                runs.append(run)
        assert rows == [sum(map(len, xs))]
        for k, (run, x) in enumerate(zip(runs, xs, strict=True)):
            with model.trace(x) as live:
                model.right.output *= k
            torch.testing.assert_close(run.saved["h"], model.module.first(x))
            torch.testing.assert_close(run.output, live.output)


def test_a_batch_of_nothing_and_one_that_fails(model: AnyModule, x: Tensor) -> None:
    with pytest.raises(InputError), model.batch():
        pass
    with pytest.raises(OutOfOrderError), model.batch() as batch:
        with batch.invoke(x) as good:
            good.save(h=model.first.output)
        with batch.invoke(x):
            assert model["last"].output is not None
            assert model.first.output is not None
    with model.batch() as batch, batch.invoke(x) as run:
        run.save(h=model.first.output)
        run.stop()
    assert torch.equal(run.saved["h"], model.module.first(x))
    with pytest.raises(TraceError):
        assert run.output
