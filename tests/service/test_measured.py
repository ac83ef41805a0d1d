"""What is too large is refused, and what is large is said, with the names of what makes it so."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import Tensor

import cutaway as cut
from cutaway.engine import wire
from cutaway.errors import InputError
from cutaway.remote.work import Work
from cutaway.service.catalogue import Catalogue
from cutaway.service.execution import Execution
from cutaway.service.measured import LARGE, LARGEST, Measured

KINDS = ("llama", "gpt2", "neox", "gemma2", "opt")


def of(path: str) -> ModuleType:
    """Another file of the tests, for the bodies and models it has."""
    spec = importlib.util.spec_from_file_location(f"measured_{Path(path).stem}", Path(__file__).parents[1] / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nbytes(value: Any) -> int:
    """Of all tensors in a saved value."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return sum(map(nbytes, inside))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_known_before_and_without_weights(kind: str, tmp_path: Path) -> None:
    bodies, tiny, folder = of("models/test_bodies.py"), of("models/conftest.py"), str(tmp_path)
    tiny.tiny_module(kind).save_pretrained(folder)
    tiny.word_tokenizer().save_pretrained(folder)
    lm, thin = cut.open(folder), Catalogue([folder])[folder].model
    inputs, seen = wire.packed({"args": (bodies.TEXT,), "kwargs": {}, "driver": None}), 0
    for name in bodies.BODIES:
        if bodies.kind_of(name) == kind:
            work = Work("graph", folder, graph=bodies.recorded(lm, name, bodies.TEXT).to_bytes(), inputs=inputs)
            measured, outcome = Execution(thin).measure(work), Execution(lm).run({"j": work})["j"]
            assert outcome.result is not None, outcome.problem
            saved = wire.unpacked(outcome.result, 2**30)["saved"]
            assert measured.sizes == Execution(lm).measure(work).sizes == {key: nbytes(value) for key, value in saved.items()}, name
            assert (measured.rows, measured.width, measured.together) == (*lm.tokens(bodies.TEXT).ids.shape, True)
            seen += sum(measured.sizes.values()) > 0
    assert seen >= 4


def test_a_generation_is_as_wide_as_it_gets(graphs: Any) -> None:
    lm = cut.open("induction_lm")
    told, text = lm.generation(new_tokens=3), graphs.text(1)
    with lm.record(text, fn=told) as run:
        run.save(ids=run.output)
    inputs = wire.packed({"args": (text,), "kwargs": {}, "driver": told.data()})
    work = Work("graph", lm.name, graph=run.graph.to_bytes(), inputs=inputs)
    measured, width = Execution(lm).measure(work), lm.tokens(text).ids.shape[1]
    assert (measured.rows, measured.width, measured.together) == (1, width + 3, False)
    outcome = Execution(lm).run({"j": work})["j"]
    assert measured.sizes == {"ids": nbytes(wire.unpacked(outcome.result or b"", 2**30)["saved"]["ids"])}


def test_results() -> None:
    assert Measured(sizes={"a": LARGE}).warnings == [] and Measured(sizes={"a": LARGEST}).refuse(1) is None
    (told,) = Measured(sizes={"small": 1, "logits": LARGE, "states": 2 * LARGE}).warnings
    assert "192 MiB" in told and told.index("states") < told.index("logits") < told.index("small")
    with pytest.raises(InputError, match="logits 1,024 MiB") as caught:
        Measured(sizes={"logits": LARGEST, "a": 1}).refuse(1)
    assert "topk" in caught.value.works


def test_forwards() -> None:
    assert Measured(rows=10, width=10).refuse(100) is None
    with pytest.raises(InputError, match="10 rows of 10 tokens"):
        Measured(rows=10, width=10).refuse(99)
