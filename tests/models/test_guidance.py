"""Predictions of several branches become one."""

from __future__ import annotations

import pytest
import torch

from cutaway.errors import InputError
from cutaway.models.guidance import Guidance, classifier_free, unguided, weighted

P = {"cond": torch.tensor([1.0, 2.0]), "uncond": torch.tensor([3.0, -1.0])}


def test_unguided() -> None:
    assert unguided({"c": 1}).compose(P, 0) is P["cond"]


@pytest.mark.parametrize(("scale", "expected"), [(0.0, [3.0, -1.0]), (1.0, [1.0, 2.0]), (3.0, [-3.0, 8.0])])
def test_classifier_free(scale: float, expected: list[float]) -> None:
    own = classifier_free({"c": 1}, {"c": 0}, scale)
    assert list(own.branches) == ["uncond", "cond"]
    assert own.compose(P, 0).tolist() == expected


def test_weighted_is_classifier_free_with_its_weights() -> None:
    own = weighted({"uncond": (-2.0, {}), "cond": (3.0, {})})
    torch.testing.assert_close(own.compose(P, 0), classifier_free({}, {}, 3.0).compose(P, 0))


def test_branches_take_the_same_conditions() -> None:
    with pytest.raises(InputError, match="uncond: none; cond: a"):
        classifier_free({"a": 1}, {}, 2.0)
    with pytest.raises(InputError, match="no branches"):
        Guidance({}, lambda predictions, step: predictions["cond"])
