"""Probes find the directions along which labels were planted."""

from __future__ import annotations

import pytest
import torch

from cutaway.errors import InputError
from cutaway.mediators.featurizers.probe import probe
from cutaway.mediators.featurizers.rotation import rotation

X = torch.randn(600, 10, generator=torch.Generator().manual_seed(0))


def test_a_planted_direction() -> None:
    direction = rotation(10, 1, seed=4).directions[:, 0]
    basis = probe(X * 3 + 1, (X @ direction > 0).long())
    assert basis.n == 1 and abs(basis.directions[:, 0] @ direction) > 0.98
    assert basis.about["accuracy"] > 0.97 and basis.about["labels"] == [0, 1]


def test_three_labels_span_a_plane() -> None:
    plane = rotation(10, 2, seed=4).directions
    labels = (X @ plane @ torch.tensor([[1.0, -0.5, -0.5], [0.0, 0.87, -0.87]])).argmax(1) * 5
    basis = probe(X, labels)
    assert basis.n == 2 and basis.about["labels"] == [0, 5, 10]
    assert (torch.linalg.svdvals(plane.T @ basis.directions) > 0.97).all()


def test_the_same_data_give_the_same_directions() -> None:
    labels = (X[:, 3] > 0).long()
    assert torch.equal(probe(X, labels).directions, probe(X, labels).directions)


def test_one_label_is_no_probe() -> None:
    with pytest.raises(InputError, match="two or more"):
        probe(X, torch.zeros(600, dtype=torch.long))
