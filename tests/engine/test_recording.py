"""What a body may not do while it is recorded is said at its own line, with what works instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cutaway.engine.node import Limits
from cutaway.engine.recording import Recorded
from cutaway.errors import EngineError, RecordError
from cutaway.models.any_module import AnyModule

Open = Callable[[nn.Module], AnyModule]


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


def other(h: Tensor) -> Tensor:
    """A value of another recording."""
    second = AnyModule(nn.Sequential(nn.Linear(8, 8)), "second")
    with second.record(torch.ones(1, 8)):
        return h + second[0].output


def under_autocast(h: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return h @ h.T


REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "if": (lambda h: 1 if h.sum() > 0 else 2, "torch.where"),
    "while": (lambda h: [None for _ in iter(lambda: bool(h.sum() > 0), False)], "torch.where"),
    "in": (lambda h: 3 in h, "any"),
    "item": (lambda h: h[0, 0].item(), "run.save"),
    "float": (lambda h: float(h[0, 0]), "run.save"),
    "int": (lambda h: int(h[0, 0]), "run.save"),
    "index": (lambda h: [1, 2, 3][h[0, 0].long()], "index_select"),
    "range": (lambda h: range(h[0, 0].long()), "index"),
    "tolist": (lambda h: h.tolist(), "run.save"),
    "numpy": (lambda h: h.numpy(), "run.save"),
    "np.asarray": (lambda h: np.asarray(h), "run.save"),
    "np.exp": (lambda h: np.exp(h), "run.save"),
    "times an array": (lambda h: h * np.ones(8), "from_numpy"),
    "format": (lambda h: f"{h[0, 0]:.2f}", "run.save"),
    "nonzero": (lambda h: h.nonzero(), "topk"),
    "where": (lambda h: torch.where(h > 0), "stream"),
    "mask": (lambda h: h[h > 0], "stream"),
    "masked_select": (lambda h: h.masked_select(h > 0), "torch.where"),
    "unique": (lambda h: h.unique(), "run.save"),
    "repeat_interleave": (lambda h: h.repeat_interleave(h[0].long(), dim=1), "stream"),
    "an outside tensor in place": (lambda h: torch.zeros(8).add_(h[0]), "not in place"),
    "an item of an outside tensor": (lambda h: torch.zeros(8).__setitem__(0, h[0, 0]), "torch.stack"),
    "a view of an outside tensor": (lambda h: torch.zeros(3, 8).view_as(h).add_(1), "clone"),
    "out": (lambda h: torch.add(h, 1, out=torch.zeros(3, 8)), "copy_"),
    "out by position": (lambda h: torch.norm(h, "fro", None, False, h), "copy_"),
    "gradients of an autograd.Function": (lambda h: torch.autograd.grad(Twice.apply(h).sum(), h), "arguments"),
    "vmap": (lambda h: torch.vmap(lambda row: row * 2)(h), ""),
    "torch.func.grad": (lambda h: torch.func.grad(lambda v: v.sum())(h), ""),
    "torch.tensor": (lambda h: torch.tensor([h[0, 0], h[0, 1]]), "torch.stack"),
    "autocast": (under_autocast, "to.dtype"),
    "two recordings": (other, "save it"),
    "cuda": (lambda h: h.to("cuda"), "where they are"),
    ".cuda()": (lambda h: h.cuda(), "where the model is"),
    "backward": (lambda h: h.sum().backward(), "torch.autograd.grad"),
    "register_hook": (lambda h: h.register_hook(print), "torch.autograd.grad"),
    "retain_grad": (lambda h: h.retain_grad(), "torch.autograd.grad"),
    "requires_grad": (lambda h: setattr(h, "requires_grad", True), "torch.autograd.grad"),
    "data": (lambda h: h.data, "detach"),
    "as_strided": (lambda h: h.as_strided((3,), (1,)), "narrow"),
    "empty_like": (lambda h: torch.empty_like(h), "zeros_like"),
    "storage": (lambda h: h.untyped_storage(), ""),
    "data_ptr": (lambda h: h.data_ptr(), ""),
    "a misspelt function": (lambda h: torch.special.expit(h), ""),
    "shapes": (lambda h: h @ torch.ones(3, 3), "fit"),
    "sparse": (lambda h: h @ torch.eye(8).to_sparse(), "to_dense"),
    "complex128": (lambda h: h + torch.zeros(8, dtype=torch.complex128), "type"),
    "without values": (lambda h: h + torch.zeros(8, device="meta"), "new_zeros"),
    "an array as an index": (lambda h: h[np.array([0, 1])], "numbers"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refusals(model: AnyModule, x: Tensor, name: str) -> None:
    function, works = REFUSED[name]
    with pytest.raises(RecordError, match=r"test_recording\.py:\d+") as caught, model.record(x):
        function(model.first.output)
    assert works.partition(".")[0] in caught.value.works and caught.value.works


def test_refusals_leave_the_model_as_it_was(model: AnyModule, x: Tensor) -> None:
    before = model.module(x)
    with pytest.raises(RecordError), model.record(x):
        bool(model.first.output.sum())
    assert torch.equal(model.module(x), before)
    assert not model.module._forward_hooks and "forward" not in model.module.__dict__


def test_weights_are_not_changed(model: AnyModule, x: Tensor) -> None:
    for change in (
        lambda: model.first.weight.mul_(2),
        lambda: model.first.weight.T.__setitem__(0, 1.0),
        lambda: nn.functional.relu(model.first.weight.detach(), inplace=True),
        lambda: model.first(model.first.weight.detach()[:, :8]).add_(model.first.bias.zero_()),
    ):
        with torch.no_grad(), pytest.raises(RecordError, match="in place"), model.record(x):
            change()
    with pytest.raises(RecordError, match="whole model"), model.record(x):
        model[""](model.first.output)


def test_a_call_that_fails_is_told(model: AnyModule, x: Tensor) -> None:
    with pytest.raises(RecordError, match="Call left"), model.record(x):
        model.left(model.first.output[:, :3])


def test_after_the_block(model: AnyModule, x: Tensor) -> None:
    with model.record(x) as run:
        h = model.first.output
    count = len(run.graph.nodes)
    with pytest.raises(RecordError, match="left"):
        h * 2
    assert len(run.graph.nodes) == count and h.shape == (3, 8)


def test_what_is_known_without_values(model: AnyModule, x: Tensor) -> None:
    with model.record(x) as run:
        h = model.first.output
        assert isinstance(h, Recorded) and (h.shape, h.ndim, len(h), h.dtype) == ((3, 8), 2, 3, torch.float32)
        assert h.device.type == "cpu" and h.is_floating_point() and not h.is_complex() and h.size(-1) == 8
        assert f"{h}" == repr(h) == "<recorded float32 (3, 8)>"
        rows = [row.sum() for row in h]
        run.save(rows=torch.stack(rows))
    assert torch.equal(model.replay(run.graph, x)["rows"], model.module.first(x).sum(-1))


def two_lines(model: AnyModule) -> None:
    model.first.output.softmax(-1)
    nn.functional.layer_norm(model.left.input, (8,))


def test_lines_are_the_users(model: AnyModule, x: Tensor) -> None:
    with model.record(x) as run:
        two_lines(model)
    start = inspect.getsourcelines(two_lines)[1]
    assert [node.line for node in run.graph.nodes] == [f"test_recording.py:{start + k}" for k in (1, 1, 2, 2)]


def test_constants_are_taken_as_they_are_at_the_time(model: AnyModule, x: Tensor) -> None:
    outside = torch.ones(8)
    with torch.inference_mode():
        inferred = torch.ones(8)
    with model.record(x) as run:
        h = model.first.output
        one = h * outside + h * outside + inferred
        outside += 1
        run.save(one=one, two=h * outside)
    assert len(run.graph.constants) == 3
    saved, h = model.replay(run.graph, x).saved, model.module.first(x)
    assert torch.equal(saved["one"], h + h + 1) and torch.equal(saved["two"], h * 2)


def test_tuples_and_dicts_of_the_forward(opened: Open, x: Tensor) -> None:
    class Many(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"pair": (x, x + 1), "list": [x * 2], "text": "t", "none": None}

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.many = Many()

        def forward(self, x: Tensor) -> Tensor:
            out = self.many(x)
            return out["pair"][0] + out["list"][0]

    outer = opened(Outer())
    with outer.record(x) as run:
        out = outer.many.output
        outer.many.output = {**out, "pair": (out["pair"][1], out["pair"][0])}
        run.save(all=out, text=out["text"], first=out["list"][0])
    replayed = outer.replay(run.graph, x)
    assert torch.equal(replayed.output, (x + 1) + x * 2)
    assert replayed["text"] == "t" and torch.equal(replayed["first"], x * 2) and replayed["all"]["none"] is None


def test_scan_needs_no_weights_and_knows_sizes(x: Tensor) -> None:
    with torch.device("meta"):
        empty = AnyModule(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)), "empty")
    with empty.scan(x) as run:
        run.save(h=empty[0].output, out=empty[1].output.double())
    assert run.sizes == {"h": 3 * 8 * 4, "out": 3 * 4 * 8}
    with pytest.raises(RuntimeError), empty.scan(x):
        empty[0].output = torch.ones(3, 7)


def test_recorded_on_nothing_replays_on_weights(chain: AnyModule, x: Tensor) -> None:
    with torch.device("meta"):
        empty = AnyModule(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Sequential(nn.Linear(8, 8), nn.GELU()), nn.Linear(8, 5)), "empty")
    with empty.record(x) as run:
        h = empty[1].output
        empty[2].output = h.to(h.device) + torch.ones(8) + empty[0].weight[0]
        run.save(again=empty[3](h), out=empty[3].output)
    saved, real = chain.replay(run.graph, x).saved, chain.module
    h = real[1](real[0](x))
    assert torch.equal(saved["out"], real[3](h + 1 + real[0].weight[0])) and torch.equal(saved["again"], real[3](h))


def test_a_forward_that_depends_on_values(opened: Open, x: Tensor) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            return h[h[:, 0] > 0]

    branching = opened(Branching())
    with pytest.raises(EngineError, match="depends on values"), branching.record(x) as run:
        run.save(h=branching.first.output)


def test_steps(model: AnyModule, x: Tensor) -> None:
    def thrice(x: Tensor) -> list[Tensor]:
        return [model.module(x + i) for i in range(3)]

    def body(run: Any) -> None:
        for i, _ in enumerate(run.steps):
            model.right.output *= i
            run.save(**{f"step{i}": model["last"].output})

    with model.record(x, fn=thrice) as run:
        body(run)
    with model.trace(x, fn=thrice) as live:
        body(live)
    replayed = model.replay(run.graph, x, fn=thrice, limits=Limits())
    assert len(live.saved) == 3 and all(torch.equal(replayed[name], value) for name, value in live.saved.items())
