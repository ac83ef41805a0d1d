"""A body here, its forward elsewhere: the same numbers, and an executor that nothing sent to it can disturb."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cutaway.engine import wire
from cutaway.engine.node import Limits, Node
from cutaway.engine.streaming import Executor, Hosted
from cutaway.errors import CutawayError, GraphError, OutOfOrderError, RecordError, StreamError
from cutaway.models.any_module import AnyModule

Open = Callable[[nn.Module], AnyModule]


@pytest.fixture
def thin() -> AnyModule:
    """The chain without its weights."""
    with torch.device("meta"):
        return AnyModule(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Sequential(nn.Linear(8, 8), nn.GELU()), nn.Linear(8, 5)), "thin")


def branching(model: Any, run: Any) -> None:
    h = model[0].output
    times = 0
    while h.norm() > 1 and times < 5:
        h = h * 0.5
        times += 1
    model[1].output = h if h[0, 0] > 0 else -h
    rows = int(h.abs().sum(-1).argmax())
    found = (model[2].output > 0).nonzero()
    chosen = model[2].output[model[2].output > 0.1]
    kinds = h.sign().unique()
    array = h.tolist()
    text = f"{h[0, 0]:.3f} {h[0, 0].item():.3f} {h}"
    run.save(times=times, rows=rows, found=found, chosen=chosen.sort().values, kinds=kinds, array=array, text=text, out=model[3].output)


@pytest.mark.parametrize("host", [Executor, Hosted])
def test_branches_and_loops_follow_the_values(chain: AnyModule, thin: AnyModule, x: Tensor, host: Any) -> None:
    with torch.no_grad():
        with chain.trace(x) as live:
            branching(chain, live)
        with thin.stream(x, to=host(chain)) as run:
            branching(thin, run)
    for name, value in live.saved.items():
        found = run.saved[name]
        assert torch.equal(found, value) if isinstance(value, Tensor) else found == value, name
    assert not chain.module._forward_hooks and not chain.module[0]._forward_hooks


def test_gradients(chain: AnyModule, thin: AnyModule, x: Tensor) -> None:
    def body(model: Any, run: Any) -> None:
        h = model[0].output
        run.save(grad=torch.autograd.grad(model[3].output.sum(), h)[0])

    with chain.trace(x) as live:
        body(chain, live)
    with thin.stream(x, to=Executor(chain)) as run:
        body(thin, run)
    assert torch.equal(run.saved["grad"], live.saved["grad"])


def test_one_message_where_no_value_is_needed(chain: AnyModule, thin: AnyModule, x: Tensor) -> None:
    counted: list[int] = []

    class Counting:
        def __init__(self) -> None:
            self.inner = Executor(chain)

        def send(self, message: bytes) -> bytes:
            counted.append(len(message))
            return self.inner.send(message)

        def close(self) -> None:
            self.inner.close()

    with thin.stream(x, to=Counting()) as run:
        thin[1].output *= 2
        run.save(out=thin[3].output)
    assert len(counted) == 1 and run.saved["out"].shape == (3, 5)


def test_errors_come_back_as_they_are(chain: AnyModule, thin: AnyModule, x: Tensor) -> None:
    with pytest.raises(OutOfOrderError), thin.stream(x, to=Executor(chain)) as run:
        run.save(h=thin[3].output)
        thin[0].output.sum().item()
    with pytest.raises(RecordError, match="table"), thin.stream(x, to=Executor(chain)):
        thin[0].output.as_strided((1,), (1,))
    with pytest.raises(GraphError, match="no weight"), thin.stream(x, to=Executor(AnyModule(chain.module[2], "other"))) as run:
        run.save(w=thin[0].output + thin[3].weight.sum())
    with pytest.raises(ZeroDivisionError), thin.stream(x, to=Executor(chain)):
        float(thin[0].output.sum()) / 0
    with chain.trace(x):  # nothing is left open
        assert chain[0].output is not None


def test_a_parked_forward_is_let_go(chain: AnyModule, thin: AnyModule, x: Tensor) -> None:
    host = Hosted(chain, park=0.1)
    with pytest.raises(StreamError, match="let go"), thin.stream(x, to=host):
        h = thin[0].output
        float(h.sum())
        time.sleep(0.4)
        float(h.sum())
    assert not chain.module[0]._forward_hooks


def test_weights_are_not_changed(chain: AnyModule, thin: AnyModule, x: Tensor) -> None:
    with torch.no_grad(), pytest.raises(RecordError, match="in place"), thin.stream(x, to=Executor(chain)):
        thin[0].weight.mul_(2)


H = {"ref": [0]}
WEIGHT = {"parameter": "0.weight"}
WHOLE = [Node("Tensor.mul", (H, 1e15)), Node("Tensor.abs", ({"ref": [1]},)), Node("Tensor.long", ({"ref": [2]},))]
HOSTILE: dict[str, list[Node]] = {
    "memory": [Node("Tensor.repeat", (H, 10**5, 10**5))],
    "memory by values": [*WHOLE, Node("Tensor.select", ({"ref": [3]}, 1, 0)), Node("torch.repeat_interleave", (H, {"ref": [4]}, 0))],
    "one_hot by values": [*WHOLE, Node("functional.one_hot", ({"ref": [3]},))],
    "bincount by values": [*WHOLE, Node("Tensor.flatten", ({"ref": [3]},)), Node("torch.bincount", ({"ref": [4]},))],
    "masks that multiply": [
        *(Node("Tensor.gt", (H, -1e9)), Node("Tensor.select", ({"ref": [1]}, 1, 0)), Node("Tensor.select", ({"ref": [1]}, 0, 0))),
        Node("Tensor.__getitem__", (H, {"tuple": [{"ref": [2]}, {"ref": [3]}]})),
    ],
    "parts by a tensor": [
        Node("Tensor.new_zeros", (H, [10**5]), {"dtype": {"dtype": "int64"}}),
        Node("torch.tensor_split", (H, {"ref": [1]})),
    ],
    "weights in place": [Node("Tensor.mul_", (WEIGHT, 0), {}, "", False)],
    "weights by a view": [Node("Tensor.t", (WEIGHT,), {}, "", False), Node("functional.relu", ({"ref": [1]}, True), {}, "", False)],
    "weights by requires_grad_": [Node("Tensor.requires_grad_", (WEIGHT, False))],
    "weights by out": [Node("torch.norm", (H, "fro", None, False, WEIGHT), {}, "", False)],
    "another shape": [Node("Tensor.repeat", (H, 2, 1)), Node("write", ("1.output", {"ref": [1]}))],
    "the whole model": [Node("call", ("", {"tuple": [H]}, {"dict": {}}))],
    "a skip of another shape": [Node("Tensor.repeat", (H, 2, 1)), Node("skip", ("2", {"ref": [1]}))],
}


def opening(x: Tensor, **more: Any) -> dict[str, Any]:
    return {"open": {"args": [x], "kwargs": {}, "grad": False}, **more}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_an_executor_refuses(chain: AnyModule, x: Tensor, name: str) -> None:
    before = {k: v.clone() for k, v in chain.module.state_dict().items()}
    executor = Executor(chain, Limits(value=2**20, parts=64))
    nodes = [Node("read", ("0.output",)), *HOSTILE[name]]
    back = wire.unpacked(executor.send(wire.packed(opening(x, nodes=[n.data() for n in nodes], end=True))), 2**20)
    assert back["error"] in ("GraphError", "StreamError"), back
    assert ("no bound" in back["parts"][1]) == ("by values" in name or "multiply" in name), back
    assert all(torch.equal(v, before[k]) for k, v in chain.module.state_dict().items())
    assert all(v.requires_grad for v in chain.module.parameters())
    again = wire.unpacked(executor.send(wire.packed({"nodes": []})), 2**20)
    assert again["error"] == "StreamError"  # an error ends a stream


def test_quotas(chain: AnyModule, x: Tensor) -> None:
    read = [Node("read", ("0.output",)).data()]
    want = {"want": {"ref": [0]}}
    for limits, messages in (
        (Limits(inputs=10), [opening(x)]),
        (Limits(messages=3), [opening(x, nodes=read), want, want, want]),
        (Limits(nodes=2), [opening(x, nodes=read), {"nodes": read}, {"nodes": read}]),
        (Limits(constants=2000, text=2000), [opening(x, constants={"0": torch.zeros(400)}), {"constants": {"1": torch.zeros(400)}}]),
    ):
        executor = Executor(chain, limits)
        *good, last = [wire.unpacked(executor.send(wire.packed(message)), 2**20) for message in messages]
        assert not any("error" in answer for answer in good) and "error" in last


TREE = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.text(max_size=4) | st.just(torch.ones(2)) | st.just(torch.float32),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["ref", "op", "args", "kwargs", "parameter", "shape", "grad", "0"]), inner, max_size=3)
    ),
    max_leaves=8,
)
MESSAGE = st.dictionaries(st.sampled_from(["open", "nodes", "constants", "want", "end", "other"]), TREE, max_size=4)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(messages=st.lists(MESSAGE, max_size=3), noise=st.binary(max_size=64))
def test_every_message_is_answered(chain: AnyModule, x: Tensor, messages: list[dict[str, Any]], noise: bytes) -> None:
    executor = Executor(chain)
    blobs = [wire.packed(opening(x, nodes=[Node("read", ("0.output",)).data()]))]
    for message in messages:
        try:
            blobs.append(wire.packed(message))
        except CutawayError:
            continue
    for blob in (*blobs, noise):
        answer = wire.unpacked(executor.send(blob), 2**20)
        assert answer.keys() <= {"value", "saved", "error", "parts"}
    executor.close()
    assert not chain.module[0]._forward_hooks


def test_shapes_that_depend_on_values_with_weights_here_too(model: AnyModule, x: Tensor) -> None:
    with model.stream(x, to=Hosted(model)) as run:
        h = model.first.output
        run.save(where=(h > 0).nonzero(), positive=h[h > 0])
    expected = model.module.first(x).detach()
    assert torch.equal(run.saved["where"], (expected > 0).nonzero()) and torch.equal(run.saved["positive"], expected[expected > 0])
