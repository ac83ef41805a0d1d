"""What runs next, and which models are open for it. Pure logic: no threads, no waiting, time from a clock.

**Order.** Users take turns by compute-seconds: whoever has been served least is first. Idle time is not saved up: who comes back starts level with
whoever is served then. A user whose balance is below 0 comes after all others, and fills what they leave. Whoever has waited for a model for
`patience` seconds without a turn is first, once: nobody waits for ever, whatever the others send. A user's jobs on one model run as they came.

**Packing.** Graphs for one model share a forward, a job of each user in turn, within bounds on jobs and tokens.

**Room.** A model is loaded where it fits. Where it does not, models make room for it whose own jobs, if any, come later in the order: those nobody
waits for first, the one needed longest ago first, and no more of them than its bytes ask for. A model with jobs waiting is kept for `stay` seconds
after it was opened. One that is busy can finish, and starts nothing more; pinned ones stay. Room that is granted cannot be taken by those behind.

The turns are those of start-time fair queueing (Goyal, Vin and Cheng 1996), with what a job took known only afterwards.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from cutaway.errors import InputError
from cutaway.service.quota import Balances

_TURN = 0.001
"""Compute-seconds that a job counts at least for in the order of users: jobs that cost nothing must not go before others' for ever."""


@final
@dataclass(frozen=True)
class Waiting:
    """A job in the queue. together: whether it can share a forward, with `rows` rows of `width` tokens; attempts: how often it was lost."""

    id: str
    user: str
    model: str
    together: bool = False
    rows: int = 1
    width: int = 1
    attempts: int = 0


@final
@dataclass(frozen=True)
class Load:
    """Open a model."""

    model: str


@final
@dataclass(frozen=True)
class Unload:
    """Let a model go."""

    model: str


@final
@dataclass(frozen=True)
class Run:
    """Run jobs on a model that is open; several share a forward."""

    model: str
    jobs: tuple[str, ...]


Action = Load | Unload | Run


@final
@dataclass(frozen=True)
class Policy:
    """How the service is shared.

    memory: bytes for all open models together; None for no bound. pack, tokens: jobs, and rows times the longest width, in one forward; a job that is
    larger runs by itself. stay: seconds that a model is kept after it was opened while jobs wait for it. pinned: models that are never let go.
    lone: losses after which a job runs by itself. patience: seconds after which a user who waits for a model has a turn before all others.
    Raises InputError for values by which nothing would run.
    """

    memory: int | None = None
    pack: int = 16
    tokens: int = 8192
    stay: float = 60.0
    pinned: Collection[str] = ()
    lone: int = 1
    patience: float = 600.0

    def __post_init__(self) -> None:
        bounded = self.memory is None or self.memory > 0
        if not (bounded and self.pack >= 1 and self.tokens >= 1 and self.lone >= 0 and 0 <= self.stay < math.inf and self.patience >= 0):
            raise InputError("Set a policy.", str(self), "bounds of at least 1, times from 0 seconds")


@final
@dataclass(frozen=True)
class _Queue:
    """What one user has waiting for one model, oldest first. order: smaller is sooner. poor: without balance, and no turn is due."""

    user: str
    model: str
    jobs: Sequence[Waiting]
    order: tuple[float, ...]
    poor: bool


@final
@dataclass(frozen=True)
class _View:
    """What room is shared by. bound: models that cannot go. place: models that jobs wait for -> which is first in the order of users.

    opened, needed: when models were, last.
    """

    now: float
    open: Mapping[str, int]
    busy: Collection[str]
    loading: Collection[str]
    bound: Collection[str]
    place: Mapping[str, int]
    opened: Mapping[str, float]
    needed: Mapping[str, float]


@final
class Scheduler:
    """Decides, for one server. balances: where the seconds that jobs took are charged. clock: seconds, which need not be those of the day.

    Not for several threads at once.
    """

    def __init__(self, policy: Policy, balances: Balances, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy, self._balances, self._clock = policy, balances, clock
        self._ahead: dict[str, float] = {}  # user -> seconds that count as served and were not
        self._level = 0.0  # where the user stood who was served last
        self._since: dict[tuple[str, str], float] = {}  # user and model -> when the wait began, or the last turn
        self._opened: dict[str, float] = {}
        self._needed: dict[str, float] = {}

    def decide(
        self,
        waiting: Sequence[Waiting],
        open: Mapping[str, int],
        busy: Collection[str],
        loading: Collection[str],
        sizes: Mapping[str, int],
        kept: Collection[str] = (),
    ) -> list[Action]:
        """What to do now, in this order: a model is loaded into room that is free once those before it are gone.

        waiting: oldest first. open: model -> bytes. busy: models that run something, or are being let go. sizes: model -> bytes, as far as known; one
        of unknown size counts as all memory. kept: models that are not let go now, such as those that have a session. A model that can never fit is
        never loaded: its jobs are the caller's to refuse.
        """
        now, bound = self._clock(), {*self._policy.pinned, *kept, *loading}
        queues = self._in_order(waiting, now)
        place: dict[str, int] = {}
        for queue in queues:
            place.setdefault(queue.model, len(place))
        self._opened = {model: self._opened.get(model, now) for model in open}
        self._needed = {model: now if model in place or model in busy or model in bound else self._needed.get(model, now) for model in open}
        room = _Room(self._policy, _View(now, open, busy, loading, bound, place, self._opened, self._needed))
        room.share(sizes)
        runs = []
        for model in place:
            if model in open and not (model in busy or model in loading or model in room.held):
                runs.append(self._run(model, [queue for queue in queues if queue.model == model], now))
        return [*map(Unload, room.unloads), *runs, *map(Load, room.loads)]

    def _in_order(self, waiting: Sequence[Waiting], now: float) -> list[_Queue]:
        """Queues of users for models, the first to be served first."""
        found: dict[tuple[str, str], list[Waiting]] = {}
        for job in waiting:
            found.setdefault((job.user, job.model), []).append(job)
        users = {user for user, _ in found}
        for user in users - {user for user, _ in self._since}:
            self._ahead[user] = self._ahead.get(user, 0.0) + max(self._level - self._stand(user), 0.0)
        self._since = {key: self._since.get(key, now) for key in found}
        stand, poor = {user: self._stand(user) for user in users}, {user: self._balances.balance(user) < 0 for user in users}
        queues = []
        for (user, model), jobs in found.items():
            since = self._since[user, model]
            if now - since > self._policy.patience:
                queues.append(_Queue(user, model, jobs, (0.0, since), False))
            else:
                queues.append(_Queue(user, model, jobs, (1.0 + poor[user], stand[user], since), poor[user]))
        return sorted(queues, key=lambda queue: queue.order)  # stable: of equals, who came first

    def _stand(self, user: str) -> float:
        return self._balances.served(user) + self._ahead.get(user, 0.0)

    def _run(self, model: str, queues: Sequence[_Queue], now: float) -> Run:
        """The first job of the first user, and what can share its forward."""
        self._level = self._stand(queues[0].user)
        jobs = self._packed(queues)
        for job in jobs:
            self._since[job.user, model] = now
            self._ahead[job.user] = self._ahead.get(job.user, 0.0) + _TURN
        return Run(model, tuple(job.id for job in jobs))

    def _packed(self, queues: Sequence[_Queue]) -> list[Waiting]:
        policy, first = self._policy, queues[0].jobs[0]
        jobs, rows, width = [first], first.rows, first.width
        turns = [(queue.poor, int(place == 0), place) for place, queue in enumerate(queues)] if self._shares(first) else []
        heapq.heapify(turns)
        while turns and len(jobs) < policy.pack:
            poor, taken, place = heapq.heappop(turns)
            if taken == len(queues[place].jobs):
                continue
            job = queues[place].jobs[taken]
            if self._shares(job) and (rows + job.rows) * max(width, job.width) <= policy.tokens:
                jobs, rows, width = [*jobs, job], rows + job.rows, max(width, job.width)
                heapq.heappush(turns, (poor, taken + 1, place))
        return jobs

    def _shares(self, job: Waiting) -> bool:
        return job.together and job.attempts < self._policy.lone


@final
class _Room:
    """Memory, shared out among the models that jobs wait for. held: models that start nothing, because they are about to go."""

    def __init__(self, policy: Policy, view: _View) -> None:
        self._policy, self._view = policy, view
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.held: set[str] = set()

    def share(self, sizes: Mapping[str, int]) -> None:
        """Grant room in the order of users."""
        view, memory = self._view, self._policy.memory
        unknown = memory or 0
        coming = sum(sizes.get(model, unknown) for model in view.loading if model not in view.open)
        free = (math.inf if memory is None else memory) - sum(view.open.values()) - coming
        left, kept = free, dict(view.open)  # as they will be, when all that is granted so far has come about
        for model in view.place:
            if model in view.open or model in view.loading:
                continue
            bytes = sizes.get(model, unknown)
            victims = self._victims(model, bytes - left, kept)
            if victims is None:
                continue
            gained = sum(kept.pop(victim) for victim in victims)
            left += gained - bytes
            if free + gained < bytes or any(map(self._young, victims)):
                continue
            self.held.update(victims)  # together or not at all: only what runs already stands in the way
            if not any(victim in view.busy for victim in victims):
                self.unloads += victims
                self.loads.append(model)
                free += gained - bytes

    def _victims(self, model: str, short: float, kept: Mapping[str, int]) -> list[str] | None:
        """Models that make room for another by going, as few as will do; None where they cannot."""
        place = self._view.place
        able = [m for m in kept if m not in self._view.bound and place.get(m, math.inf) > place[model]]
        chosen: list[str] = []
        for victim in sorted(able, key=self._cost):
            if short > 0:
                short -= kept[victim]
                chosen.append(victim)
        if short > 0:
            return None
        for victim in chosen[::-1]:
            if short + kept[victim] <= 0:
                short += kept[victim]
                chosen.remove(victim)
        return chosen

    def _cost(self, model: str) -> tuple[float, ...]:
        view = self._view
        return self._young(model), model in view.busy, model in view.place, view.needed[model], -view.place.get(model, 0)

    def _young(self, model: str) -> bool:
        return model in self._view.place and self._view.now - self._view.opened[model] < self._policy.stay
