"""A balance of compute-seconds fills with time up to the burst, pays for what ran, and never refuses; too many waiting jobs do."""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.errors import BusyError, InputError
from cutaway.service.quota import Balances, Quota


def test_a_bucket_pays_and_fills(clock: Any) -> None:
    balances = Balances(Quota(rate=2.0, burst=10.0), clock)
    assert (balances.balance("ada"), balances.served("ada")) == (10.0, 0.0)
    balances.charge("ada", 16.0)
    assert (balances.balance("ada"), balances.retry_after("ada")) == (-6.0, 3.0)
    clock.now += 4.0
    assert (balances.balance("ada"), balances.retry_after("ada")) == (2.0, 0.0)
    clock.now += 1_000.0
    assert balances.balance("ada") == 10.0, "more than the burst is not saved up"
    assert balances.served("ada") == 16.0, "what was charged is remembered"
    assert (balances.balance("ben"), balances.served("ben")) == (10.0, 0.0), "users have a balance each"


def test_a_clock_that_goes_back_gives_and_takes_nothing(clock: Any) -> None:
    balances = Balances(Quota(rate=1.0, burst=10.0), clock)
    balances.charge("ada", 5.0)
    clock.now -= 100.0
    assert balances.balance("ada") == 5.0
    balances.charge("ada", 1.0)
    clock.now += 100.0
    assert balances.balance("ada") == 4.0


def test_as_many_may_wait_as_the_quota_says(clock: Any) -> None:
    balances = Balances(Quota(rate=1.0, burst=10.0, queued=3), clock)
    balances.refuse("ada", 2)
    with pytest.raises(BusyError, match="no more than 3 may") as refused:
        balances.refuse("ada", 3)
    assert refused.value.retry_after == 1.0
    balances.charge("ada", 15.5)
    balances.refuse("ada", 2)  # whoever is out of balance may still wait
    with pytest.raises(BusyError, match="in 6 s") as refused:
        balances.refuse("ada", 4)
    assert refused.value.retry_after == 5.5
    balances.charge("ada", 10_000.0)
    with pytest.raises(BusyError) as refused:
        balances.refuse("ada", 4)
    assert refused.value.retry_after == 60.0


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"rate": math.inf}, {"rate": math.nan}, {"burst": -1.0}, {"queued": 0}])
def test_a_quota_of_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Quota(**wrong)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_only_time_that_passed_is_charged(seconds: float, clock: Any) -> None:
    balances = Balances(Quota(), clock)
    with pytest.raises(InputError):
        balances.charge("ada", seconds)
    assert balances.served("ada") == 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1_000)), max_size=20), st.floats(0.01, 10), st.floats(0, 100))
def test_nobody_gets_more_than_the_rate_and_one_burst(charges: list[tuple[float, float]], rate: float, burst: float) -> None:
    now = [0.0]
    balances = Balances(Quota(rate, burst), lambda: now[0])
    for passed, seconds in charges:
        now[0] += passed
        if balances.retry_after("ada") == 0:
            before = balances.balance("ada")
            balances.charge("ada", seconds)
            assert balances.served("ada") <= rate * now[0] + burst + seconds + 1e-6, "one job may go below, and no second before it is paid"
            assert balances.balance("ada") == pytest.approx(before - seconds)
    now[0] += balances.retry_after("ada") + 1e-6
    assert balances.balance("ada") >= 0


def test_what_several_threads_charge_is_charged() -> None:
    balances, before = Balances(Quota()), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=lambda: [balances.charge("ada", 1.0) for _ in range(300)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert balances.served("ada") == 1_200
