"""Caches of many points: what a run reads, kept in memory or on disk, and gone on with after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import cutaway as cut
from cutaway.engine.caching import expanded
from cutaway.errors import InputError, StorageError, UnknownNameError
from cutaway.models.any_module import AnyModule

TEXTS = ["cat river cat", "hill dog", "cat cat", "river hill river hill", "dog"]
READ = ["layers[*].output[pos=-1]", "layers[1].attn.pattern"]


@pytest.fixture(scope="module")
def lm() -> Any:
    return cut.open("induction_lm")


@pytest.mark.parametrize("on_disk", [False, True])
def test_holds_what_a_run_reads(lm: Any, tmp_path: Path, on_disk: bool) -> None:
    told: list[float] = []
    found = lm.cache(TEXTS, READ, batch=2, to=tmp_path / "acts" if on_disk else None, progress=told.append)
    assert len(found) == 3 and sum(told) == pytest.approx(1)
    names = [f"layers[{i}].output[pos=-1]" for i in range(lm.sizes.n_layers)]
    for number, batch in enumerate(found):
        expected = lm.run(TEXTS[2 * number : 2 * number + 2], read=[*names, READ[1]])
        assert set(batch) == {*names, READ[1]}
        assert all(torch.equal(batch[name], expected[name]) for name in batch)
    assert found.stacked(names[0]).shape == (5, lm.sizes.d_model)
    with pytest.raises(InputError, match="shapes"):
        found.stacked(READ[1])


def test_dtype(lm: Any) -> None:
    half = lm.cache(TEXTS[:2], ["layers[0].output"], dtype="float16")[0]["layers[0].output"]
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), lm.run(TEXTS[:2], read=["layers[0].output"])["layers[0].output"], rtol=2e-3, atol=2e-3)
    with pytest.raises(InputError, match="dtype"):
        lm.cache(TEXTS, ["embed"], dtype="float17")


def test_goes_on_where_it_was_interrupted(lm: Any, tmp_path: Path) -> None:
    def interrupted(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lm.cache(TEXTS, READ, batch=2, to=tmp_path, progress=interrupted)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000.safetensors", "index.json"]
    before = lm.forwards
    found = lm.cache(TEXTS, READ, batch=2, to=tmp_path)
    assert lm.forwards - before == 3  # the two texts of the first batch are not run again
    assert torch.equal(found.stacked("layers[0].output[pos=-1]"), lm.cache(TEXTS, READ, batch=2).stacked("layers[0].output[pos=-1]"))
    before = lm.forwards
    lm.cache(TEXTS, READ, batch=2, to=tmp_path)
    assert lm.forwards == before


def test_refuses_a_folder_of_another_cache(lm: Any, tmp_path: Path) -> None:
    lm.cache(TEXTS, READ, batch=2, to=tmp_path)
    for texts, read in ((TEXTS[1:], READ), (TEXTS, READ[:1])):
        with pytest.raises(StorageError, match="another"):
            lm.cache(texts, read, batch=2, to=tmp_path)
    with lm.edit(TEXTS[0]) as edited:
        lm.layers[0].output *= 0
    with pytest.raises(StorageError, match="another"):
        edited.cache(TEXTS, READ, batch=2, to=tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(StorageError):
        lm.cache(TEXTS, READ, batch=2, to=tmp_path)
    assert json.loads((tmp_path / "000000.safetensors").read_bytes()[8:].split(b"}}")[0] + b"}}")


def test_unknown_addresses(lm: Any, tmp_path: Path) -> None:
    for read in (["layers[*].nothing"], ["layers[9].output"], []):
        with pytest.raises(cut.CutawayError):
            lm.cache(TEXTS, read, to=tmp_path / "none")
    assert not list((tmp_path / "none").glob("*.safetensors"))
    with pytest.raises(UnknownNameError):
        lm.cache(TEXTS, ["embed"], batch=2, to=tmp_path / "some")[0]["norm"]


def test_a_module_without_standard_names(model: AnyModule, x: Tensor) -> None:
    found = model.cache(x, ["stages[*].inner.output", "first.output"], batch=2)
    torch.testing.assert_close(found.stacked("first.output"), model.module.first(x).detach())
    assert [str(a) for a in expanded(model, ["stages[*].inner.output"])] == ["stages[0].inner.output", "stages[1].inner.output"]
