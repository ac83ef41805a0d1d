"""Edits that stay: they act in every kind of run of the edited model, in no run of any other, and nothing is left of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cutaway as cut
from cutaway.engine.graph import Graph, Node
from cutaway.errors import GraphError, InputError, SlowSweepWarning
from cutaway.models.any_module import AnyModule


def edited_by_hand(model: AnyModule, x: Tensor) -> Tensor:
    with torch.no_grad(), model.trace(x) as run:
        model.first.output = model.first.output * 2 + torch.ones(8)
        model.left[0].output *= 0.5
        model.right.skip(model.right.input)
    return run.output


@pytest.fixture
def edited(model: AnyModule, x: Tensor) -> Any:
    with model.edit(x) as edited:
        model.first.output = model.first.output * 2 + torch.ones(8)
        model.left[0].output *= 0.5
        model.right.skip(model.right.input)
    return edited


def test_acts_in_every_kind_of_run(edited: Any, model: AnyModule, x: Tensor) -> None:
    expected, plain = edited_by_hand(model, x), model.module(x)
    assert not torch.equal(expected, plain)
    assert torch.equal(edited.run(x).output, expected)
    with torch.no_grad(), edited.trace(x) as run:
        seen = edited.first.output
    assert torch.equal(run.output, expected) and torch.equal(seen, model.module.first(x) * 2 + 1)
    assert torch.equal(edited.run(x, read=["first.output"])["first.output"], seen)
    values, _ = edited.gradients(x, of=lambda out: out, at=["first.output"])
    assert torch.equal(values["first.output"], seen)
    assert torch.equal(model.run(x).output, plain) and torch.equal(model.module(x), plain)


def test_on_other_inputs_and_several_calls(edited: Any, model: AnyModule, x: Tensor) -> None:
    other = x.flip(0) * 3
    assert torch.equal(edited.run(other).output, edited_by_hand(model, other))
    with torch.no_grad(), edited.trace(x, fn=lambda value: model.module(value) + model.module(other)) as run:
        pass
    assert torch.equal(run.output, edited_by_hand(model, x) + edited_by_hand(model, other))


def test_edits_of_a_run_come_after(edited: Any, model: AnyModule, x: Tensor) -> None:
    ours = edited.run(x, edits=[("first.output", lambda h: -h)], read=["first.output"])["first.output"]
    assert torch.equal(ours, -(model.module.first(x) * 2 + 1))
    with model.edit(x) as again:
        model.first.output = model.first.output + 1
    both = edited.edited(*again.edits).run(x, read=["first.output"])["first.output"]
    assert torch.equal(both, model.module.first(x) * 2 + 1 + 1)


def test_sweep_runs_each_by_itself(edited: Any, model: AnyModule, x: Tensor) -> None:
    edits = [[("first.output", lambda h, k=k: h * k)] for k in range(3)]
    with pytest.warns(SlowSweepWarning, match="edits of its own"):
        swept = edited.sweep(x, edits=edits, metric=lambda out: out.sum(-1))
    for k in range(3):
        torch.testing.assert_close(swept[k], edited.run(x, edits=edits[k]).output.sum(-1))


def test_in_place_and_undone(edited: Any, model: AnyModule, x: Tensor) -> None:
    plain = model.run(x).output
    model.edits = edited.edits
    assert torch.equal(model.run(x).output, edited_by_hand(AnyModule(model.module, "other"), x))
    model.edits = ()
    assert torch.equal(model.run(x).output, plain)
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__ for m in model.module.modules())


def test_saved_as_a_file(edited: Any, model: AnyModule, x: Tensor, tmp_path: Path) -> None:
    path = edited.edits[0].save(tmp_path / "edit.graph")
    assert torch.equal(model.edited(Graph.load(path)).run(x).output, edited.run(x).output)
    broken = tmp_path / "broken.graph"
    broken.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(GraphError):
        Graph.load(broken)


def test_a_body_that_calls_a_module(model: AnyModule, x: Tensor) -> None:
    with model.edit(x) as edited:
        model.right.output = model.first(model.right.input)
    with torch.no_grad(), model.trace(x) as run:
        model.right.output = model.first(model.right.input)
    assert torch.equal(edited.run(x).output, run.output)


def test_generation() -> None:
    lm = cut.open("induction_lm")
    text = "cat river cat"
    with lm.edit(text) as edited:
        lm.layers[1].attn.z[:, :, 0] = 0
    with edited.generate(text, new_tokens=4) as ours:
        pass
    with lm.generate(text, new_tokens=4) as theirs:
        for _ in theirs.steps:
            lm.layers[1].attn.z[:, :, 0] = 0
    assert torch.equal(ours.output, theirs.output)


def test_a_body_with_an_error_edits_nothing(model: AnyModule, x: Tensor) -> None:
    with pytest.raises(ZeroDivisionError), model.edit(x) as edited:
        model.first.output *= 1 / 0
    assert edited.edits == () and torch.equal(edited.run(x).output, model.module(x))


def test_refuses_what_cannot_stay(model: AnyModule, x: Tensor) -> None:
    with model.record(x) as run:
        model.first.output *= 0
        run.stop()
    with pytest.raises(InputError, match="stop"):
        model.edits = (run.graph,)
    with pytest.raises(InputError, match="list"):
        model.edits = [[]]  # type: ignore[list-item]
    with pytest.raises(GraphError, match="table"):
        model.edited(Graph((Node("torch.load", ("x",)),)))
    assert model.edits == ()


def test_two_edited_models_side_by_side(model: AnyModule, x: Tensor) -> None:
    copies = []
    for factor in (2.0, 3.0):
        with model.edit(x) as edited:
            model.first.output = model.first.output * factor
        copies.append(edited)
    first = nn.functional.linear(x, model.module.first.weight, model.module.first.bias)
    with copies[0].trace(x), copies[1].trace(x):
        assert torch.equal(copies[0].first.output, first * 2) and torch.equal(copies[1].first.output, first * 3)
