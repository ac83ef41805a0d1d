"""What the scheduler decides, case by case; and what always holds in a service of random models, users and jobs: no job starves, or runs twice."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.errors import InputError
from cutaway.service.quota import Balances, Quota
from cutaway.service.scheduler import Action, Load, Policy, Run, Scheduler, Unload, Waiting

Decide = Callable[..., list[Action]]


def jobs(user: str, number: int, model: str = "m", **more: Any) -> list[Waiting]:
    return [Waiting(f"{user}-{model}-{n}", user, model, **({"together": True} | more)) for n in range(number)]


def one(user: str, model: str = "m", **more: Any) -> Waiting:
    return jobs(user, 1, model, **more)[0]


@dataclass
class Desk:
    """A scheduler, its balances, and a decision with most of what it looks at left out."""

    clock: Any
    policy: Policy = field(default_factory=Policy)
    quota: Quota = field(default_factory=Quota)

    def __post_init__(self) -> None:
        self.balances = Balances(self.quota, self.clock)
        self.scheduler = Scheduler(self.policy, self.balances, self.clock)

    def decide(
        self,
        waiting: list[Waiting],
        open: Mapping[str, int],
        busy: Collection[str] = (),
        loading: Collection[str] = (),
        sizes: Mapping[str, int] | None = None,
        kept: Collection[str] = (),
    ) -> list[Action]:
        return self.scheduler.decide(waiting, open, busy, loading, sizes or {}, kept)

    def serve(self, waiting: list[Waiting], turns: int, seconds: float = 1.0) -> list[str]:
        """The users of the jobs that run in so many turns of one model; `waiting` is left with the others."""
        served = []
        for _ in range(turns):
            (run,) = self.decide(waiting, {"m": 1})
            assert isinstance(run, Run)
            for job in [job for job in waiting if job.id in run.jobs]:
                self.balances.charge(job.user, seconds)
                waiting.remove(job)
                served.append(job.user)
            self.clock.now += seconds
        return served


# The order of users


def test_nothing_waits(clock: Any) -> None:
    assert Desk(clock).decide([], {"m": 1}) == []


def test_a_few_jobs_are_not_behind_a_thousand(clock: Any) -> None:
    desk = Desk(clock)
    waiting = [*jobs("ada", 1_000, together=False), *jobs("ben", 5, together=False)]
    assert desk.serve(waiting, 10).count("ben") == 5
    packed = [*jobs("ada", 1_000), *jobs("ben", 5)]
    (run,) = Desk(clock).decide(packed, {"m": 1})
    assert isinstance(run, Run)
    assert [id for id in run.jobs if id.startswith("ben")] == [job.id for job in jobs("ben", 5)]


def test_turns_are_of_seconds_and_not_of_jobs(clock: Any) -> None:
    desk, waiting = Desk(clock, quota=Quota(burst=1e6)), [*jobs("ada", 100, together=False), *jobs("ben", 100, together=False)]
    served = Counter[str]()
    for _ in range(44):
        (run,) = desk.decide(waiting, {"m": 1})
        (job,) = [job for job in waiting if job.id in run.jobs]  # type: ignore[union-attr]
        waiting.remove(job)
        served[job.user] += 1
        desk.balances.charge(job.user, 10.0 if job.user == "ada" else 1.0)
    assert served == {"ada": 4, "ben": 40}


def test_time_away_is_not_saved_up(clock: Any) -> None:
    desk, waiting = Desk(clock, quota=Quota(burst=1e6)), jobs("ada", 1_000, together=False)
    desk.serve(waiting, 500)
    waiting += jobs("ben", 100, together=False)
    assert desk.serve(waiting, 20).count("ada") in (9, 10, 11)


def test_who_is_out_of_balance_fills_what_is_left(clock: Any) -> None:
    desk = Desk(clock, Policy(pack=4), Quota(rate=1.0, burst=1.0))
    desk.balances.charge("ada", 100.0)
    waiting = [*jobs("ada", 9), *jobs("ben", 3)]
    assert desk.serve(waiting, 1, seconds=0.0) == ["ada", "ben", "ben", "ben"]
    assert desk.serve(waiting, 1, seconds=0.0) == ["ada"] * 4, "nobody else waits"
    assert desk.serve([*waiting, *jobs("ben", 9, together=False)], 1) == ["ben"]


def test_who_is_out_of_balance_is_last_though_served_less(clock: Any) -> None:
    desk = Desk(clock, quota=Quota(rate=1.0, burst=1.0))
    desk.balances.charge("ben", 200.0)
    clock.now += 300.0
    desk.balances.charge("ada", 100.0)
    assert desk.serve([one("ada", together=False), one("ben", together=False)], 1) == ["ben"]


def test_who_has_waited_too_long_is_first_once(clock: Any) -> None:
    desk = Desk(clock, Policy(patience=50.0), Quota(rate=0.01, burst=1.0))
    desk.balances.charge("ada", 1_000.0)
    waiting = [*jobs("ada", 10, together=False), *jobs("ben", 200, together=False)]
    served = desk.serve(waiting, 120, seconds=0.9)
    assert served.count("ada") == 2
    assert 50 <= served.index("ada") * 0.9 < 55


def test_jobs_that_cost_nothing_do_not_go_first_for_ever(clock: Any) -> None:
    desk = Desk(clock, Policy(patience=1e9))
    first = one("ada", together=False)
    desk.decide([first, one("ben", together=False)], {"m": 1}, busy=["m"])
    desk.balances.charge("ada", 0.05)
    runs = [desk.decide([first, one("ben", together=False)], {"m": 1}) for _ in range(100)]
    assert 40 <= runs.index([Run("m", (first.id,))]) <= 60


# Packing


def test_graphs_of_one_model_share_a_forward_and_methods_do_not(clock: Any) -> None:
    waiting = [one("ada"), one("ben", together=False), one("cem"), one("ada", "other")]
    assert Desk(clock).decide(waiting, {"m": 1, "other": 1}) == [Run("m", ("ada-m-0", "cem-m-0")), Run("other", ("ada-other-0",))]
    assert Desk(clock).decide(waiting[1:], {"m": 1}) == [Run("m", ("ben-m-0",)), Load("other")]


def test_a_pack_is_shared_evenly_and_bounded(clock: Any) -> None:
    desk = Desk(clock, Policy(pack=6))
    (run,) = desk.decide([*jobs("ada", 50), *jobs("ben", 50), *jobs("cem", 1)], {"m": 1})
    assert isinstance(run, Run)
    assert Counter(id.partition("-")[0] for id in run.jobs) == {"ada": 3, "ben": 2, "cem": 1}
    assert len(run.jobs) == 6


def test_tokens_are_rows_by_the_longest_width(clock: Any) -> None:
    desk = Desk(clock, Policy(tokens=100))
    waiting = [one("ada", rows=2, width=10), one("ben", rows=1, width=40), one("cem", rows=8, width=5)]
    assert desk.decide(waiting, {"m": 1}) == [Run("m", ("ada-m-0", "cem-m-0"))], "3 x 40 are too many, 10 x 10 are not"
    assert Desk(clock, Policy(tokens=100)).decide([one("ada", rows=99, width=99)], {"m": 1}) == [Run("m", ("ada-m-0",))]


def test_a_job_that_was_lost_runs_by_itself(clock: Any) -> None:
    lost = one("ben", attempts=1)
    assert Desk(clock).decide([one("ada"), lost, one("cem")], {"m": 1}) == [Run("m", ("ada-m-0", "cem-m-0"))]
    assert Desk(clock).decide([lost, one("cem")], {"m": 1}) == [Run("m", ("ben-m-0",))]
    assert Desk(clock, Policy(lone=2)).decide([lost, one("cem")], {"m": 1}) == [Run("m", ("ben-m-0", "cem-m-0"))]


def test_a_user_s_jobs_do_not_overtake_one_another(clock: Any) -> None:
    method, graph = one("ada", together=False), Waiting("later", "ada", "m", together=True)
    assert Desk(clock).decide([one("ben"), method, graph], {"m": 1}) == [Run("m", ("ben-m-0",))]
    assert Desk(clock).decide([method, graph], {"m": 1}) == [Run("m", (method.id,))]


# Room

HALF = {"a": 5, "b": 5, "c": 5, "big": 10, "huge": 11}


def test_models_are_loaded_where_they_fit(clock: Any) -> None:
    waiting = [one("ada", "a"), one("ben", "b"), one("cem", "c")]
    assert Desk(clock).decide(waiting, {}) == [Load("a"), Load("b"), Load("c")]
    assert Desk(clock, Policy(10)).decide(waiting, {}, sizes=HALF) == [Load("a"), Load("b")]
    assert Desk(clock, Policy(10)).decide(waiting, {}, loading=["a"], sizes=HALF) == [Load("b")]
    assert Desk(clock, Policy(10)).decide(waiting, {"a": 6}, sizes=HALF) == [Run("a", ("ada-a-0",))]
    assert Desk(clock, Policy(10)).decide([one("ada", "new")], {}) == [Load("new")], "of unknown size: as if it took all"
    assert Desk(clock, Policy(10)).decide([one("ada", "new")], {"a": 1}, busy=["a"]) == []


def test_room_that_is_still_to_come_is_not_used(clock: Any) -> None:
    waiting, sizes = [one("ada", "t"), one("ben", "x"), one("cem", "y")], {"t": 2, "x": 1, "y": 1}
    assert Desk(clock, Policy(10)).decide(waiting, {"v": 9}, busy=["v"], sizes=sizes) == [Load("x")], "1 is free, 8 will be"


def test_what_is_needed_least_makes_room(clock: Any) -> None:
    desk, opened = Desk(clock, Policy(10)), {"a": 5, "b": 5}
    for model in ("a", "b", "a"):
        desk.decide([one("ada", model)], opened, sizes=HALF)
        clock.now += 1
    assert desk.decide([one("ada", "c")], opened, sizes=HALF) == [Unload("b"), Load("c")]
    assert desk.decide([one("ada", "big")], opened, sizes=HALF) == [Unload("b"), Unload("a"), Load("big")]
    assert desk.decide([one("ada", "huge"), one("ben", "a")], opened, sizes=HALF) == [Run("a", ("ben-a-0",))], (
        "what never fits stops nobody"
    )


def test_no_more_goes_than_has_to(clock: Any) -> None:
    desk = Desk(clock, Policy(12))
    opened = {"small": 2, "large": 10}
    desk.decide([], opened, busy=["large"])
    clock.now += 1
    assert desk.decide([one("ada", "c")], opened, sizes=HALF) == [Unload("large"), Load("c")]


@pytest.mark.parametrize("why", ["busy", "kept", "loading", "pinned"])
def test_some_stay(clock: Any, why: str) -> None:
    desk = Desk(clock, Policy(10, pinned=["a"] if why == "pinned" else []))
    waiting = [one("ada", "big")]
    assert desk.decide(waiting, {"a": 5}, sizes=HALF, **({} if why == "pinned" else {why: ["a"]})) == []
    assert desk.decide([*waiting, one("ben", "b")], {"a": 5, "c": 5}, sizes=HALF, kept=["a"]) == [Unload("c"), Load("b")]


def test_a_model_with_jobs_is_kept_for_a_while(clock: Any) -> None:
    desk, opened = Desk(clock, Policy(5, stay=60.0), Quota(burst=1e6)), {"a": 5}
    waiting = [*jobs("ada", 100, "a", together=False), one("ben", "b")]
    desk.decide(waiting, opened, sizes=HALF)
    desk.balances.charge("ada", 30.0)
    clock.now += 59.0
    assert [type(action) for action in desk.decide(waiting, opened, sizes=HALF)] == [Run]
    clock.now += 2.0
    assert desk.decide(waiting, opened, sizes=HALF) == [Unload("a"), Load("b")], "ben is first"
    desk.balances.charge("ben", 100.0)
    assert [type(action) for action in desk.decide(waiting, opened, sizes=HALF)] == [Run], "ada is first"
    assert desk.decide(waiting[-1:], opened, sizes=HALF) == [Unload("a"), Load("b")], "nobody needs it"


def test_a_model_that_is_to_go_ends_what_runs_and_starts_no_more(clock: Any) -> None:
    desk, opened = Desk(clock, Policy(10), Quota(burst=1e6)), {"a": 5, "b": 5}
    waiting = [*jobs("ada", 9, "a", together=False), *jobs("ada", 9, "b", together=False), one("ben", "big")]
    desk.decide(waiting, opened, sizes=HALF)
    desk.balances.charge("ada", 10.0)
    clock.now += 61.0
    assert desk.decide(waiting, opened, busy=["a"], sizes=HALF) == []
    assert set(desk.decide(waiting, opened, sizes=HALF)) == {Unload("a"), Unload("b"), Load("big")}


@pytest.mark.parametrize("wrong", [{"memory": 0}, {"pack": 0}, {"tokens": 0}, {"stay": -1.0}, {"patience": float("nan")}, {"lone": -1}])
def test_a_policy_by_which_nothing_runs_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Policy(**wrong)


# A service of random models, users and jobs

MEMORY = 10
SIZES = {"a": 3, "b": 4, "c": 5, "d": 7, "p": 2}
JOB = st.builds(
    lambda user, model, together, size, attempts: (user, model, together, *size, attempts),
    st.sampled_from(["ada", "ben", "cem"]),
    st.sampled_from(list(SIZES)),
    st.booleans(),
    st.tuples(st.integers(1, 4), st.integers(1, 40)),
    st.sampled_from([0, 0, 0, 1]),
)


@dataclass
class Service:
    """Does what is decided, in time that it makes up, and holds each decision against what must always be."""

    policy: Policy
    costs: list[float]
    now: float = 0.0
    waiting: list[Waiting] = field(default_factory=list)
    open: dict[str, int] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)
    loads: dict[str, float] = field(default_factory=dict)
    sessions: dict[str, float] = field(default_factory=dict)
    ran: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.balances = Balances(Quota(rate=0.2, burst=20.0), lambda: self.now)
        self.scheduler = Scheduler(self.policy, self.balances, lambda: self.now)
        self.cost = itertools.cycle(self.costs)

    def step(self) -> None:
        self.open |= {m: SIZES[m] for m, end in self.loads.items() if end <= self.now}
        self.loads = {m: end for m, end in self.loads.items() if end > self.now}
        self.ends = {m: end for m, end in self.ends.items() if end > self.now}
        self.sessions = {m: end for m, end in self.sessions.items() if end > self.now}
        actions = self.scheduler.decide(self.waiting, dict(self.open), set(self.ends), set(self.loads), SIZES, set(self.sessions))
        assert len({action.model for action in actions}) == len(actions), "one action a model"
        for action in actions:
            self.do(action)
        self.now = min([*self.ends.values(), *self.loads.values(), self.now + 5.0])

    def do(self, action: Action) -> None:
        model = action.model
        if isinstance(action, Load):
            assert model not in self.open | self.loads
            self.loads[model] = self.now + 3.0
            assert sum(self.open.values()) + sum(SIZES[m] for m in self.loads) <= MEMORY
        elif isinstance(action, Unload):
            assert model in self.open
            assert model not in {*self.ends, *self.loads, *self.sessions, *self.policy.pinned}
            del self.open[model]
        else:
            assert model in self.open
            assert model not in self.ends
            self.run(model, [job for job in self.waiting if job.id in action.jobs], action.jobs)

    def run(self, model: str, jobs: list[Waiting], ids: tuple[str, ...]) -> None:
        assert {job.model for job in jobs} == {model}
        assert len(jobs) == len(ids) == len(set(ids))
        if len(jobs) > 1:
            assert all(job.together and job.attempts < self.policy.lone for job in jobs)
            assert len(jobs) <= self.policy.pack
            assert sum(job.rows for job in jobs) * max(job.width for job in jobs) <= self.policy.tokens
        self.ran.update(ids)
        self.waiting = [job for job in self.waiting if job.id not in ids]
        seconds = 0.0
        for job in jobs:
            cost = next(self.cost)
            seconds += cost
            self.balances.charge(job.user, cost)
        self.ends[model] = self.now + max(seconds, 0.5)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(JOB, st.integers(0, 3)), min_size=1, max_size=15),
    st.lists(st.sampled_from([0.0, 0.01, 1.0, 8.0]), min_size=1, max_size=5),
    st.lists(st.sampled_from(list(SIZES)), max_size=3),
    st.sampled_from([(), ("p",)]),
)
def test_every_job_runs_once_whatever_others_send(
    sent: list[tuple[tuple[Any, ...], int]], costs: list[float], sessions: list[str], pinned: tuple[str, ...]
) -> None:
    # "eve" always has a job for every model: short ones, and as many as run
    service = Service(Policy(MEMORY, pack=3, tokens=60, stay=10.0, pinned=pinned, patience=40.0), costs)
    numbers, wanted = itertools.count(), set[str]()
    service.sessions = dict.fromkeys(sessions, 20.0)
    arrivals = [(wait, Waiting(f"job-{n}", *job)) for n, (job, wait) in enumerate(sent)]
    steps = 0
    while arrivals or wanted - service.ran.keys():
        for model in SIZES.keys() - {job.model for job in service.waiting if job.user == "eve"}:
            service.waiting.append(Waiting(f"eve-{next(numbers)}", "eve", model, together=True))
        if arrivals:
            wait, job = arrivals[0]
            if wait <= steps % 4:
                arrivals.pop(0)
                wanted.add(job.id)
                service.waiting.append(job)
        service.step()
        steps += 1
        assert steps < 2_000, f"{sorted(wanted - service.ran.keys())} starve"
    assert max(service.ran.values()) == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(2, 5), st.sampled_from([1, 4, 16]))
def test_users_of_equal_jobs_are_served_alike(few: int, users: int, pack: int) -> None:
    now = [0.0]
    balances = Balances(Quota(burst=1e6), lambda: now[0])
    scheduler = Scheduler(Policy(pack=pack), balances, lambda: now[0])
    waiting = [job for user in range(users) for job in jobs(f"heavy{user}", 200)] + jobs("light", few)
    served = Counter[str]()
    while served["light"] < few:
        (run,) = scheduler.decide(waiting, {"m": 1}, (), (), {})
        assert isinstance(run, Run)
        for job in [job for job in waiting if job.id in run.jobs]:
            balances.charge(job.user, 1.0)
            served[job.user] += 1
        waiting = [job for job in waiting if job.id not in run.jobs]
        now[0] += 1.0
    heavy = [served[f"heavy{user}"] for user in range(users)]
    assert max(heavy) - min(heavy) <= 1 + pack // users
    assert max(heavy) <= few + 1 + pack // users
