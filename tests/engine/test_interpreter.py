"""Nodes are computed in order, from arguments of every form, and their values let go when nobody uses them any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cutaway.engine.graph import Graph
from cutaway.engine.interpreter import Interpreter, drawn, spent
from cutaway.engine.node import Limits, Node
from cutaway.errors import GraphError
from cutaway.models.any_module import AnyModule

Open = Callable[[nn.Module], AnyModule]
H = {"ref": [0]}
READ = Node("read", ("first.output",))


def test_values_are_let_go_after_their_last_use(opened: Open, x: Tensor) -> None:
    first = opened(nn.Sequential(nn.Linear(8, 8)))
    nodes = (
        Node("read", ("0.output",)),
        *(Node("Tensor.add", ({"ref": [i]}, 1)) for i in range(5)),
        Node("save", (), {"last": {"ref": [5]}}),
    )
    interpreter = Interpreter(first, {})
    words = interpreter.execute(nodes, spent(nodes))
    next(words)
    word, _, kwargs = words.send(x)
    assert word == "save" and [value is None for value in interpreter.values] == [True] * 5 + [False]
    torch.testing.assert_close(kwargs["last"], x + 5)


def test_arguments_of_every_form(model: AnyModule, x: Tensor) -> None:
    forms: list[Any] = [
        Node("Tensor.to", (H, {"dtype": "float64"})),
        Node("Tensor.to", (H, {"device": "model"})),
        Node("Tensor.__getitem__", (H, {"tuple": [{"ellipsis": True}, {"slice": [1, None, 2]}]})),
        Node("Tensor.add", (H, {"float": "inf"})),
        Node("Tensor.add", (H, {"complex": [0.0, 1.0]})),
    ]
    saves = {f"v{i}": {"ref": [i + 1]} for i in range(len(forms))}
    saved = model.replay(Graph((READ, *forms, Node("save", (), saves))), x, limits=Limits()).saved
    h = model.module.first(x)
    for found, wanted in zip(saved.values(), [h.double(), h, h[..., 1::2], h + float("inf"), h + 1j], strict=True):
        assert torch.equal(found, wanted)


def test_draws_from_a_generator_of_its_own(x: Tensor) -> None:
    state = torch.random.get_rng_state()
    for name in ("torch.randn_like", "torch.rand_like", "torch.bernoulli"):
        one, same, other = (drawn(name, seed, x.device, x.sigmoid()) for seed in (1, 1, 2))
        assert torch.equal(one, same) and not torch.equal(one, other) and one.shape == x.shape
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_error_has_the_users_line(model: AnyModule) -> None:
    interpreter = Interpreter(model, {})
    interpreter.values.append(torch.ones(2, 3))
    with pytest.raises(GraphError, match=r"Tensor.matmul at study.py:7"):
        list(interpreter.execute([Node("Tensor.matmul", (H, H), {}, "study.py:7")]))
    for ref in ([5], [-1]):
        with pytest.raises(GraphError, match="earlier"):
            interpreter.decoded({"ref": ref}, None)
