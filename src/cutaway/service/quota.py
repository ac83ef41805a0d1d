"""How much computing each user may ask of the service: a bucket of compute-seconds that fills with time, and a bound on jobs that wait.

An empty bucket refuses nothing. It puts a user behind the others until it has filled again; see `Scheduler`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from cutaway.errors import BusyError, InputError

_LATER = 1.0, 60.0
"""Seconds, at least and at most, after which a refused user is asked back: a place may become free before the balance is."""


@final
@dataclass(frozen=True)
class Quota:
    """What each user has. rate: compute-seconds gained per second; burst: compute-seconds that can be saved up; queued: jobs that may wait.

    Raises InputError for a rate or a bound of nothing, by which nobody would ever run.
    """

    rate: float = 1.0
    burst: float = 600.0
    queued: int = 1_000

    def __post_init__(self) -> None:
        if not (0 < self.rate < math.inf and 0 <= self.burst < math.inf and self.queued >= 1):
            raise InputError("Set a quota.", str(self), "a rate above 0, a burst of at least 0, 1 queued job or more")


@final
@dataclass(frozen=True)
class _Account:
    """A bucket as it was at a time, and what was ever taken out of it."""

    balance: float
    time: float
    served: float = 0.0


@final
class Balances:
    """What users have left of a quota, in compute-seconds. clock: seconds, which need not be those of the day.

    Any thread may charge and ask.
    """

    def __init__(self, quota: Quota, clock: Callable[[], float] = time.monotonic) -> None:
        self._quota, self._clock = quota, clock
        self._accounts: dict[str, _Account] = {}
        self._lock = threading.Lock()

    def charge(self, user: str, seconds: float) -> None:
        """A user's jobs took so many seconds of computing. The balance may fall below 0. Raises InputError for less than 0 seconds."""
        if not 0 <= seconds < math.inf:
            raise InputError(f"Charge {user}.", f"{seconds} seconds", "a number of seconds from 0")
        with self._lock:
            now = self._now(user)
            self._accounts[user] = _Account(now.balance - seconds, now.time, now.served + seconds)

    def balance(self, user: str) -> float:
        """Compute-seconds that a user has now: the burst at most, below 0 for one who has had too many."""
        return self._now(user).balance

    def served(self, user: str) -> float:
        """Compute-seconds that a user was ever charged."""
        account = self._accounts.get(user)
        return 0.0 if account is None else account.served

    def retry_after(self, user: str) -> float:
        """Seconds until a user's balance is no more below 0."""
        return max(-self.balance(user), 0.0) / self._quota.rate

    def refuse(self, user: str, queued: int) -> None:
        """Raises BusyError where a user who has so many jobs waiting may not add one."""
        if queued >= self._quota.queued:
            after = min(max(self.retry_after(user), _LATER[0]), _LATER[1])
            raise BusyError(
                f"Accept a job of {user}.",
                f"{queued} jobs of {user} that wait, and no more than {self._quota.queued} may",
                f"the same request in {math.ceil(after)} s, or when one of them is done",
                retry_after=after,
            )

    def _now(self, user: str) -> _Account:
        now, account = self._clock(), self._accounts.get(user)
        if account is None:
            return _Account(self._quota.burst, now)
        gained = self._quota.rate * max(now - account.time, 0.0)
        return _Account(min(account.balance + gained, self._quota.burst), max(now, account.time), account.served)
