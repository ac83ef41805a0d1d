"""Intervals: coverage, agreement with the normal interval, seeds."""

from __future__ import annotations

import numpy as np
import pytest

from cutaway.errors import InputError
from cutaway.metrics.bootstrap import bootstrap, bounds, spread


def test_it_agrees_with_the_normal_interval_for_many_normal_values() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    interval = bootstrap(values)
    half = 1.96 * values.std() / 20
    assert interval.value == pytest.approx(values.mean()) and interval.n == 400
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    held = [bootstrap(generator.exponential(1, 60), seed=i) for i in range(100)]
    covered = np.mean([i.low <= 1 <= i.high for i in held])
    assert 0.88 < covered < 0.99


def test_the_same_seed_gives_the_same_interval_and_another_another() -> None:
    values = np.arange(10.0)
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1) != bootstrap(values, seed=2)


def test_one_value_has_no_interval_and_none_is_refused() -> None:
    assert np.isnan(bootstrap(np.array([2.0])).low)
    with pytest.raises(InputError):
        bootstrap(np.array([]))
    with pytest.raises(InputError):
        spread(np.array([]))


def test_bounds_keep_the_other_axes() -> None:
    values = np.random.default_rng(0).normal(size=(30, 2, 3))
    mean, low, high = bounds(values)
    assert mean.shape == low.shape == high.shape == (2, 3)
    one = bootstrap(values[:, 1, 2])
    assert (mean[1, 2], low[1, 2], high[1, 2]) == pytest.approx((one.value, one.low, one.high))


def test_spread_holds_the_middle_of_the_draws() -> None:
    found = spread(np.linspace(0, 1, 1001))
    assert (found.low, found.high) == pytest.approx((0.025, 0.975))
