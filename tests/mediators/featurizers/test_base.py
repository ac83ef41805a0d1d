"""What holds of every basis: the round trip, keeping what it does not see, storage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cutaway.errors import InputError, StorageError
from cutaway.mediators.featurizers.base import Featurizer, exists, load
from cutaway.mediators.featurizers.identity import Identity
from cutaway.mediators.featurizers.neurons import Neurons
from cutaway.mediators.featurizers.pca import pca
from cutaway.mediators.featurizers.probe import probe
from cutaway.mediators.featurizers.rotation import rotation
from cutaway.mediators.featurizers.subspace import Subspace

WIDTH = 8
X = torch.randn(5, 3, WIDTH, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(1)) + 2
BASES: dict[str, Callable[[], Featurizer]] = {
    "identity": lambda: Identity(size=WIDTH),
    "neurons": lambda: Neurons(size=WIDTH, which=torch.tensor([5, 0, 2])),
    "pca": lambda: pca(ROWS, 3),
    "rotation": lambda: rotation(WIDTH, 4),
    "probe": lambda: probe(ROWS, (ROWS[:, 2] > 2).long()),
    "slanted": lambda: Subspace(directions=ROWS[:3].T.contiguous(), mean=ROWS.mean(0)),
    "nothing": lambda: rotation(WIDTH, 4).select([]),
}
each = pytest.mark.parametrize("name", BASES)


@each
def test_there_and_back(name: str) -> None:
    basis = BASES[name]()
    features = basis.encode(X)
    assert basis.width == WIDTH and features.shape == (5, 3, basis.n)
    torch.testing.assert_close(basis.decode(features, basis.error(X)), X, rtol=1e-4, atol=1e-5)


@each
def test_other_features_and_all_else_kept(name: str) -> None:
    basis = BASES[name]()
    other = basis.encode(X.flip(0))
    changed = basis.replaced(X, other)
    torch.testing.assert_close(basis.encode(changed), other, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(basis.error(changed), basis.error(X), rtol=1e-4, atol=1e-4)
    assert torch.equal(basis.replaced(X, basis.encode(X)), X), "with its own features x is x, bit for bit"
    assert basis.replaced(X.half(), other.half()).dtype == torch.float16


@each
def test_some_features_of_it(name: str) -> None:
    basis = BASES[name]()
    if basis.n > 1:
        part = basis.select([basis.n - 1, 0])
        torch.testing.assert_close(part.encode(X), basis.encode(X)[..., [-1, 0]])
    with pytest.raises(InputError, match="each once"):
        basis.select([basis.n])


@each
def test_storage(name: str, tmp_path: Path) -> None:
    basis = BASES[name]().told(at="layers[3].output[pos=last]", rank=3)
    written = basis.save(tmp_path / "layers[3].output[pos=last]")
    assert written.suffix == ".json" and exists(written) and not exists(tmp_path / "other")
    for path in (written, tmp_path / "layers[3].output[pos=last]"):
        again = load(path)
        assert type(again) is type(basis) and dict(again.about) == dict(basis.about)
        assert torch.equal(again.encode(X), basis.encode(X)) and torch.equal(
            again.replaced(X, basis.encode(-X)), basis.replaced(X, basis.encode(-X))
        )


def test_what_is_no_featurizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"Featurizer\.save"):
        load(tmp_path / "missing")
    path = rotation(WIDTH, 2).save(tmp_path / "basis")
    stored = json.loads(path.read_text())
    for changes in ({"cutaway": 2}, {"featurizer": "spline"}, {"fields": {"size": 3}}):
        path.write_text(json.dumps(stored | changes))
        with pytest.raises(StorageError, match="basis"):
            load(path)
    path.write_text("{")
    with pytest.raises(StorageError, match="basis"):
        load(path)


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Write"):
        rotation(WIDTH, 2).save(tmp_path / "file" / "basis")
