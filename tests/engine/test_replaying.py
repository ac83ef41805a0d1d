"""Replays equal the live run; what a stranger's graph may not do is refused before anything is computed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cutaway.engine.graph import Graph
from cutaway.engine.node import Limits, Node
from cutaway.errors import CutawayError, EngineError, GraphError
from cutaway.models.any_module import AnyModule

LIMITS = Limits(value=2**20, values=2**22, parts=64)
Open = Callable[[nn.Module], AnyModule]
H = {"ref": [0]}
READ = Node("read", ("first.output",))


def graph(*nodes: Node, **constants: Tensor) -> Graph:
    """Nodes after a read of `first.output`, which is (3, 8)."""
    return Graph((READ, *nodes), constants)


def weight(name: str = "first.weight") -> dict[str, str]:
    return {"parameter": name}


REFUSED: dict[str, tuple[Node, ...]] = {
    # memory
    "repeat": (Node("Tensor.repeat", (H, 10**6, 10**6)),),
    "expand": (Node("Tensor.expand", (H, 10**9, 3, 8)),),
    "expand then reduce": (Node("Tensor.expand", (H, 10**12, 3, 8)), Node("Tensor.sum", ({"ref": [1]},))),
    "new_zeros": (Node("Tensor.new_zeros", (H, [10**10])),),
    "overflow": (Node("Tensor.new_zeros", (H, [2**62, 2**62])),),
    "overflow of a repeat": (Node("Tensor.repeat", (H, 2**62, 2**62)),),
    "one_hot": (Node("Tensor.long", (H,)), Node("functional.one_hot", ({"ref": [1]}, 10**9))),
    "repeat_interleave": (Node("torch.repeat_interleave", (H, 10**9)),),
    "pad": (Node("functional.pad", (H, [10**9, 10**9])),),
    "interpolate": (Node("Tensor.unsqueeze", (H, 0)), Node("functional.interpolate", ({"ref": [1]}, 10**9))),
    "tile": (Node("Tensor.tile", (H, [10**6, 10**6])),),
    "kron": (*(Node("torch.kron", ({"ref": [i]}, {"ref": [i]})) for i in range(6)),),
    "cdist": (Node("Tensor.repeat", (H, 1000, 1)), Node("torch.cdist", ({"ref": [1]}, {"ref": [1]}))),
    "on the way": (
        Node("Tensor.repeat", (H, 130, 1)),
        Node("Tensor.unsqueeze", ({"ref": [1]}, 1)),
        Node("functional.cosine_similarity", ({"ref": [1]}, {"ref": [2]}), {"dim": -1}),
    ),
    "long einsum": (Node("torch.einsum", ("a" * 150, H)),),
    "unfold": (Node("Tensor.repeat", (H, 1, 4000)), Node("Tensor.unfold", ({"ref": [1]}, 1, 16000, 1))),
    "histc": (Node("torch.histc", (H, 10**9)),),
    "bincount": (
        Node("Tensor.long", (H,)),
        Node("Tensor.flatten", ({"ref": [1]},)),
        Node("torch.bincount", ({"ref": [2]},), {"minlength": 10**10}),
    ),
    "many values": (*(Node("Tensor.repeat", (H, 1000, 10)) for _ in range(20)),),
    "call": (
        Node("Tensor.repeat", (H, 3000, 1)),
        Node("call", ("left", {"tuple": [{"ref": [1]}]}, {"dict": {}})),
    )
    * 20,
    "saving a view many times": (
        Node("Tensor.expand", (H, 1000, 3, 8)),
        Node("save", (), {f"v{i}": {"ref": [1]} for i in range(100)}),
    ),
    # many parts
    "unbind": (Node("Tensor.repeat", (H, 100, 1)), Node("Tensor.unbind", ({"ref": [1]},))),
    "split by name": (Node("Tensor.repeat", (H, 100, 1)), Node("torch.split", (), {"tensor": {"ref": [1]}, "split_size_or_sections": 1})),
    "empty parts": (Node("Tensor.split", (H, [*[0] * 500, 3])),),
    "tensor_split": (Node("torch.tensor_split", (H, 10**8)),),
    # weights
    "in place": (Node("Tensor.mul_", (weight(), 0)),),
    "in place without gradients": (Node("Tensor.mul_", (weight(), 0), {}, "", False),),
    "through a view": (Node("Tensor.view", (weight(), 64), {}, "", False), Node("Tensor.zero_", ({"ref": [1]},), {}, "", False)),
    "through a transpose": (
        Node("Tensor.t", (weight(),), {}, "", False),
        Node("Tensor.__setitem__", ({"ref": [1]}, 0, 1.0), {}, "", False),
    ),
    "through detach": (Node("Tensor.detach", (weight(),)), Node("Tensor.fill_", ({"ref": [1]}, 0))),
    "relu": (Node("functional.relu", (weight(),), {"inplace": True}, "", False),),
    "leaky": (Node("functional.leaky_relu", (weight(), 0.1, True), {}, "", False),),
    "embedding": (
        Node("Tensor.new_zeros", (H, [2]), {"dtype": {"dtype": "int64"}}),
        Node("functional.embedding", ({"ref": [1]}, weight(), None, 0.001), {}, "", False),
    ),
    "norm into it": (Node("torch.norm", (H, "fro", None, False, weight()), {}, "", False),),
    "normalize into it": (Node("functional.normalize", (H, 2.0, 1, 1e-9, weight()), {}, "", False),),
    "tensordot into it": (Node("torch.tensordot", (H, H, 0, weight()), {}, "", False),),
    "norm into the forward": (Node("torch.norm", (H, "fro", None, False, H), {}, "", False),),
    "requires_grad": (Node("Tensor.requires_grad_", (weight(), False)),),
    # what is no tensor
    "no such weight": (Node("Tensor.sum", (weight("first.nothing"),)),),
    "a module as a weight": (Node("Tensor.sum", (weight("first"),)),),
    "a dunder as a weight": (Node("Tensor.sum", (weight("first.__class__"),)),),
    "no such point": (Node("read", ("nothing.output",)),),
    "part of a tensor": (Node("Tensor.sum", ({"ref": [0, 0]},)),),
    "attribute of a tensor": (Node("Tensor.sum", ({"ref": [0, "__class__"]},)),),
    "text for a tensor": (Node("Tensor.sum", ("abc",)),),
    "negative part": (Node("Tensor.unbind", (H,)), Node("Tensor.sum", ({"ref": [1, -1]},))),
    "a batch of gradients": (
        Node("Tensor.sum", (H,)),
        Node("torch.autograd.grad", ([{"ref": [1]}], [H]), {"is_grads_batched": True, "grad_outputs": [{"ref": [1]}]}),
    ),
    # calls
    "the whole model": (Node("call", ("", {"tuple": [H]}, {"dict": {}})),),
    "a text to a module": (Node("call", ("left", {"tuple": ["abc"]}, {"dict": {}})),),
    "nothing to a module": (Node("call", ("left", {"tuple": []}, {"dict": {}})),),
    "a number to a module": (Node("call", ("left", {"tuple": [2**62]}, {"dict": {}})),),
    "no module": (Node("call", ("first.weight", {"tuple": [H]}, {"dict": {}})),),
    "a path outside": (Node("call", ("..", {"tuple": [H]}, {"dict": {}})),),
    # writes
    "another shape": (Node("Tensor.repeat", (H, 2, 1)), Node("write", ("last.input", {"ref": [1]}))),
    "a broadcast": (Node("Tensor.expand", (H, 3, 3, 8)), Node("write", ("last.input", {"ref": [1]}))),
    "another type": (Node("Tensor.double", (H,)), Node("write", ("last.input", {"ref": [1]}))),
    "no tensor": (Node("write", ("last.input", "abc")),),
    "nothing": (Node("write", ("last.input", None)),),
    "another text": (Node("write", ("stages.0.output", {"tuple": [H, "other"]})),),
    "another argument": (Node("write", ("stages.0.inputs", {"tuple": [{"tuple": [H]}, {"dict": {"scale": 1e9}}]})),),
    "a skip of another shape": (Node("Tensor.repeat", (H, 2, 1)), Node("skip", ("left", {"ref": [1]}))),
    "what depends on values": (Node("Tensor.nonzero", (H,)),),
    "another device": (Node("Tensor.to", (H, "meta")),),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_a_strangers_graph_is_refused_before_it_runs(model: AnyModule, x: Tensor, name: str) -> None:
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    real = model.module.calls
    with pytest.raises(CutawayError):
        model.replay(graph(*REFUSED[name]), x, limits=LIMITS)
    assert all(torch.equal(v, before[k]) for k, v in model.module.state_dict().items())
    assert model.module.calls <= real + 1  # on shapes


def test_a_constant_is_not_changed(model: AnyModule, x: Tensor) -> None:
    view = Node("Tensor.view_as", ({"constant": "0"}, H))
    bad = graph(view, Node("Tensor.add_", ({"ref": [1]}, 1)), **{"0": torch.zeros(3, 8)})
    for limits in (None, LIMITS):
        with pytest.raises(GraphError, match="in place"):
            model.replay(bad, x, limits=limits)
    assert not bad.constants["0"].any()


def test_the_forward_changes_no_weight_that_a_graph_puts_into_it(model: AnyModule) -> None:
    """A ReLU in place runs on what is written."""
    x, before = torch.ones(8, 8), model.module.first.weight.detach().clone()
    assert before.min() < 0
    for value in (weight(), {"constant": "0"}):
        own = graph(Node("write", ("left.1.input", value)), **{"0": -torch.ones(8, 8)})
        for limits in (None, LIMITS):
            with torch.no_grad():
                model.replay(own, x, limits=limits)
        assert torch.equal(model.module.first.weight, before) and (own.constants["0"] == -1).all()


def test_a_module_in_training_mode_is_not_called(opened: Open, x: Tensor) -> None:
    norm = opened(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)))
    call = Node("call", ("1", {"tuple": [{"ref": [0]}]}, {"dict": {}}))
    own = Graph((Node("read", ("0.output",)), call))
    norm.replay(own, x, limits=LIMITS)
    norm.module.train()
    with pytest.raises(GraphError, match="training mode"):
        norm.replay(own, x, limits=LIMITS)


def test_a_forwards_own_notes_are_not_read(opened: Open, x: Tensor) -> None:
    class Notes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.register_buffer("seen", torch.ones(3, 8), persistent=False)
            self.register_buffer("mean", torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x)

    notes = opened(Notes())
    assert notes.replay(graph(Node("save", (), {"m": {"parameter": "mean"}})), x).saved["m"].shape == (8,)
    with pytest.raises(GraphError, match="no weight"):
        notes.replay(graph(Node("save", (), {"m": {"parameter": "seen"}})), x)


def test_objects_of_the_forward_go_back_and_nowhere_else(opened: Open, x: Tensor) -> None:
    class Passing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.inner = Inner()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.first(x), self)

    class Inner(nn.Module):
        def forward(self, x: Tensor, owner: nn.Module) -> Tensor:
            return x + owner.first.bias

    passing = opened(Passing())
    read = Node("read", ("inner.inputs",))
    double = Node("Tensor.mul", ({"ref": [0, 0, 0]}, 2))
    back = Node("write", ("inner.inputs", {"tuple": [{"tuple": [{"ref": [1]}, {"ref": [0, 0, 1]}]}, {"ref": [0, 1]}]}))
    replayed = passing.replay(Graph((read, double, back)), x, limits=LIMITS)
    bias = passing.module.first.bias
    torch.testing.assert_close(replayed.output, 2 * passing.module.first(x) + bias)
    with pytest.raises(GraphError, match="save"):
        passing.replay(Graph((read, Node("save", (), {"all": H}))), x, limits=LIMITS)
    for use in (Node("Tensor.add", (H, {"ref": [0, 0, 1]})), Node("call", ("first", {"tuple": [{"ref": [0, 0, 1]}]}, {"dict": {}}))):
        with pytest.raises(GraphError, match="Passing as an argument"):
            passing.replay(Graph((read, use)), x)


def test_weights_through_the_arguments_of_a_call_are_not_changed(opened: Open, x: Tensor) -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8, 8))
            self.inner = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x @ self.weight + self.inner(self.weight)[:3])

    shared = opened(Functional())
    before = shared.module.weight.detach().clone()
    bad = Graph((Node("read", ("inner.output",)), Node("Tensor.mul_", ({"ref": [0]}, 0), {}, "", False)))
    with torch.no_grad(), pytest.raises(GraphError, match="in place"):
        shared.replay(bad, x, limits=LIMITS)
    assert torch.equal(shared.module.weight, before)


def test_what_a_rehearsal_leaves_in_the_model_is_taken_out(opened: Open, x: Tensor) -> None:
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.register_buffer("last", torch.zeros(3, 8))

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.first(x)
            return self.last * 2

    keeping = opened(Keeping())
    with torch.no_grad():
        keeping.scan(x).__enter__().__exit__(None, None, None)
    assert type(keeping.module.last) is Tensor and not keeping.module.last.any()


def test_random_numbers_follow_the_seed(model: AnyModule, x: Tensor) -> None:
    def drawn(seed: int) -> Graph:
        with model.record(x, seed=seed) as run:
            h = model.first.output
            noise = torch.randn_like(h) + torch.zeros_like(h).uniform_() + torch.bernoulli(torch.full_like(h, 0.5))
            run.save(noise=noise, other=torch.randn_like(h), some=torch.multinomial(h.softmax(-1), 3), whole=torch.randint_like(h, 9))
        return run.graph

    first, state = drawn(0), torch.random.get_rng_state()
    a, b, c = model.replay(first, x).saved, model.replay(first, x, limits=LIMITS).saved, model.replay(drawn(1), x).saved
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["noise"], c["noise"]) and not torch.equal(a["noise"], a["other"])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_error_of_the_forward_is_told(model: AnyModule, x: Tensor) -> None:
    wrong = graph(Node("Tensor.repeat", (H, 2, 1)), Node("write", ("last.input", {"ref": [1]})), Node("save", (), {"h": H}))
    assert model.replay(wrong, x).output.shape == (6, 5)  # one's own graph may
    narrow = graph(Node("Tensor.narrow", (H, 1, 0, 3)), Node("write", ("last.input", {"ref": [1]})))
    with pytest.raises(GraphError, match="under a graph"):
        model.replay(narrow, x)


def test_a_stopped_replay_has_no_output(model: AnyModule, x: Tensor) -> None:
    replayed = model.replay(graph(Node("save", (), {"h": H}), Node("stop")), x)
    assert not replayed.finished and replayed["h"].shape == (3, 8)
    with pytest.raises(EngineError, match="stopped"):
        assert replayed.output


def test_rehearsal_knows_the_sizes(model: AnyModule, x: Tensor) -> None:
    from cutaway.engine.replaying import rehearse

    assert rehearse(model, graph(Node("save", (), {"h": H})), (x,), None, LIMITS, {}) == {"h": 3 * 8 * 4}


def test_a_rehearsal_that_passed_passes_at_once_on_the_same_shapes_alone(model: AnyModule, x: Tensor) -> None:
    good = graph(Node("Tensor.repeat", (H, 100, 1)), Node("save", (), {"h": {"ref": [1]}}))
    runs = []
    for inputs, limits in ((x, LIMITS), (x + 1, LIMITS), (x[:2], LIMITS), (x, Limits()), (x, Limits(value=9_000))):
        before = model.module.calls
        if limits.value == 9_000:
            with pytest.raises(GraphError, match="at most"):
                model.replay(good, inputs, limits=limits)
        else:
            assert model.replay(good, inputs, limits=limits)["h"].shape == (100 * len(inputs), 8)
        runs.append(model.module.calls - before)
    assert runs == [2, 1, 2, 2, 1]  # on shapes and on weights, on weights alone; on shapes alone where it is refused
