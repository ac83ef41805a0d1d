from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cutaway.engine.handle import Handle
from cutaway.models.any_module import AnyModule


def test_path_to_a_part(model: AnyModule) -> None:
    part = model.stages[1].inner
    assert isinstance(part, Handle) and repr(part) == "<stages[1].inner: Linear(in_features=8, out_features=8, bias=True)>"
    assert part.weight is model.module.stages[1].inner.weight and part.in_features == 8
    assert len(model.stages) == 2 and [len(h) for h in (model.left,)] == [3]
    assert repr(model.stages[-1]) == repr(list(model.stages)[1])


def test_part_by_text(model: AnyModule, x: Tensor) -> None:
    """The way to a part whose name the class of the model has taken, here `last`."""
    assert repr(model["last"]).startswith("<last: Linear")
    with pytest.raises(LookupError, match=r"stages\[0\]\.inner"):
        model["stages[0].iner"]
    with model.trace(x) as run:
        model["last"].output *= 2
        kept = model["stages[1].inner"].bias
    assert torch.equal(run.output, 2 * model.module(x)) and kept.shape == (8,)


def test_calling_a_part(model: AnyModule, x: Tensor) -> None:
    assert torch.equal(model.right(input=x), model.module.right(x))


def test_what_has_no_items(model: AnyModule) -> None:
    with pytest.raises(TypeError, match="a Linear, which has no items"):
        model.first[0]
    with pytest.raises(TypeError, match="no items"):
        len(model.first)
    with pytest.raises(TypeError, match="no items"):
        list(model.first)
    with pytest.raises(IndexError, match=r"stages\[-3\].*2 items"):
        model.stages[-3]


def test_completion(model: AnyModule) -> None:
    assert {"first", "stages", "left", "trace", "run"} <= set(dir(model))
    assert dir(model.stages[0]) == ["inner", "input", "inputs", "output", "skip", "source"]


def test_missing_part(model: AnyModule) -> None:
    assert not hasattr(model.left, "nothing") and not hasattr(model, "__wrapped__") and not hasattr(model.left, "__wrapped__")
    with pytest.raises(AttributeError, match=r"right\.weigth"):
        model.right.weigth.shape  # noqa: B018
    with pytest.raises(AttributeError, match="not a point"):
        model.right.bias = torch.zeros(8)
