"""What a table of jobs guarantees, call by call, and under any order of calls."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from cutaway.errors import ConflictError, GraphError, InputError, UnknownNameError
from cutaway.remote.work import Work
from cutaway.service.database import Database
from cutaway.service.jobs import FINAL, LEASED, NEXT, Ending, Job, State
from cutaway.service.postgres import Postgres
from cutaway.service.sqlite import Sqlite
from cutaway.service.table import Rules, Table

Make = Callable[..., Work]
PROBLEM = {"type": "graph-error", "detail": "Node 3."}


def states(table: Table, job: Job) -> list[str]:
    return [event.data["state"] for event in table.events(job.id, None) if event.type == "state"]


def run(table: Table, job: Job, result: str = "r") -> Job:
    (leased,) = table.lease("w", 10, [job.id])
    assert table.finish(Ending(leased, result=result))
    return table.get(job.id, None)


def test_a_job_goes_its_way(table: Table, work: Make, clock: Any) -> None:
    sent = work()
    job = table.accept("ada", sent)
    assert (job.state, job.user, job.kind, job.model, job.method) == (State.QUEUED, "ada", "method", "induction_lm", "read.logit_lens")
    assert (job.hash, job.accepted) == (sent.hash, clock.now)
    assert Work.from_bytes(table.work(job.id)) == sent
    clock.now += 1
    (leased,) = table.lease("w", 10, [job.id], State.LOADING)
    assert (leased.state, leased.worker, leased.until, leased.started) == (State.LOADING, "w", clock.now + 10, clock.now)
    assert table.start(leased)
    assert not table.start(leased)
    clock.now += 1
    assert table.finish(Ending(leased, result="r", seconds=0.5))
    done = table.get(job.id, "ada")
    assert (done.state, done.result, done.finished, done.seconds, done.worker) == (State.DONE, "r", clock.now, 0.5, "")
    assert states(table, job) == ["received", "queued", "loading", "running", "done"]
    assert [event.number for event in table.events(job.id, "ada", after=2)] == [3, 4, 5]
    assert table.results() == {"r"}
    with pytest.raises(UnknownNameError):
        table.work(job.id)


def test_a_problem_is_kept(table: Table, work: Make) -> None:
    job = table.accept("ada", work())
    (leased,) = table.lease("w", 10, [job.id])
    assert table.finish(Ending(leased, problem=PROBLEM))
    assert table.get(job.id, "ada").problem == PROBLEM
    assert table.events(job.id, "ada")[-1].data == {"state": "failed", "problem": PROBLEM}


def test_equal_work_runs_once(table: Table, work: Make) -> None:
    first = run(table, table.accept("ada", work()))
    cached = table.accept("ben", work())
    assert (cached.state, cached.cached, cached.result) == (State.DONE, True, first.result)
    assert states(table, cached) == ["received", "done"]
    assert not first.cached
    assert table.accept("ben", work(1)).state == State.QUEUED
    assert table.accept("ben", dataclasses.replace(work(), revision="new")).state == State.QUEUED


def test_a_failure_is_no_result_of_equal_work(table: Table, work: Make) -> None:
    (leased,) = table.lease("w", 10, [table.accept("ada", work()).id])
    table.finish(Ending(leased, problem=PROBLEM))
    assert table.accept("ada", work()).state == State.QUEUED


def test_a_job_is_done_by_an_equal_one_while_it_waits(table: Table, work: Make) -> None:
    first, second = table.accept("ada", work()), table.accept("ben", work())
    run(table, first)
    assert table.lease("w", 10, [second.id]) == []
    assert (table.get(second.id, "ben").state, table.get(second.id, "ben").cached) == (State.DONE, True)


def test_those_that_wait_are_settled_together(table: Table, work: Make) -> None:
    jobs = [table.accept(user, work()) for user in "abcd"]
    other = table.accept("a", work(1))
    (held,) = table.lease("w", 10, [jobs[1].id])
    assert table.settle(work().hash) == [], "nothing is known yet"
    first = run(table, jobs[0])
    assert table.settle(work().hash) == [jobs[2].id, jobs[3].id] and table.settle(work().hash) == []
    assert [table.get(job.id, None).state for job in (jobs[2], jobs[3], held, other)] == ["done", "done", "running", "queued"]
    settled = table.get(jobs[3].id, "d")
    assert (settled.cached, settled.result) == (True, first.result) and states(table, settled) == ["received", "queued", "done"]


def test_who_has_not_begun_has_lost_nothing(table: Table, work: Make, clock: Any) -> None:
    job = table.accept("ada", work())
    for _ in range(5):
        table.lease("w", 10, [job.id], State.LOADING)
        clock.now += 11
        (ended,) = table.expire()
        assert (ended.state, ended.attempts) == (State.QUEUED, 0)


def test_the_same_request_is_the_same_job(table: Table, work: Make) -> None:
    job = table.accept("ada", work(), "k")
    assert table.accept("ada", work(), "k") == job
    assert table.accept("ada", dataclasses.replace(work(), revision="newer"), "k") == job
    with pytest.raises(ConflictError):
        table.accept("ada", work(1), "k")
    assert table.accept("ben", work(1), "k").id != job.id, "the key of another user is another key"
    assert table.accept("ada", work()).id != job.id, "without a key every request is a new one"
    done = run(table, job)
    assert table.accept("ada", work(), "k") == done


@pytest.mark.parametrize("key", ["", "a\nb", "\ud800", "k" * 201])
def test_a_key_is_a_text_of_bounded_length(table: Table, work: Make, key: str) -> None:
    with pytest.raises(InputError):
        table.accept("ada", work(), key)


def test_a_work_without_a_hash_is_not_accepted(table: Table) -> None:
    with pytest.raises(GraphError):
        table.accept("ada", Work("graph", "m", b"no graph", b"i"))
    assert sum(table.counts().values()) == 0


def test_users_do_not_see_one_another(table: Table, work: Make) -> None:
    job, own = table.accept("ada", work()), table.accept("ben", work(1))
    for use in (table.get, table.cancel, table.events, table.position):
        with pytest.raises(UnknownNameError) as foreign:
            use(job.id, "ben")
        with pytest.raises(UnknownNameError) as absent:
            use("0" * 32, "ben")
        assert str(foreign.value).replace(job.id, "") == str(absent.value).replace("0" * 32, "")
        assert own.id in str(foreign.value)
    assert table.find("ben") == [own]
    with pytest.raises(UnknownNameError):
        table.find("ben", before=job.id)
    assert table.get(job.id, None) == table.get(job.id, "ada") == job
    assert [j.id for j in table.find(None)] == [own.id, job.id]


@pytest.mark.parametrize("id", ["", "' OR 1=1 --", "\0", "\ud800", "../x", "%"])
def test_an_id_is_only_an_id(table: Table, work: Make, id: str) -> None:
    table.accept("ada", work())
    with pytest.raises(UnknownNameError):
        table.get(id, "ada")
    with pytest.raises(UnknownNameError):
        table.get(id, None)


def test_jobs_are_listed_page_by_page(table: Table, work: Make) -> None:
    jobs = [table.accept("ada", work(seed)) for seed in range(5)]
    table.cancel(jobs[3].id, "ada")
    assert [j.id for j in table.find("ada", limit=2)] == [jobs[4].id, jobs[3].id]
    assert [j.id for j in table.find("ada", limit=2, before=jobs[3].id)] == [jobs[2].id, jobs[1].id]
    assert [j.id for j in table.find("ada", [State.CANCELLED])] == [jobs[3].id]
    assert [j.id for j in table.queued()] == [jobs[i].id for i in (0, 1, 2, 4)]
    assert [j.id for j in table.queued(1)] == [jobs[0].id]
    assert table.counts() == {state: {"queued": 4, "cancelled": 1}.get(state, 0) for state in State}


def test_nobody_hides_anybody_in_the_queue(table: Table, work: Make) -> None:
    many = [table.accept("ada", work(seed)) for seed in range(5)]
    one = table.accept("bob", work(9))
    assert [j.id for j in table.queued(2)] == [many[0].id, many[1].id, one.id]
    table.lease("w", 60, [many[0].id])
    assert table.demand() == {one.model: (5, 1)} and table.unfinished("ada") == 5
    table.cancel(one.id, "bob")
    assert table.demand() == {one.model: (4, 1)} and table.unfinished("bob") == 0


def test_the_only_server_of_a_table_ends_all_leases_when_it_starts(table: Table, work: Make) -> None:
    job = table.accept("ada", work())
    table.lease("dead", 60, [job.id])
    assert table.expire() == [] and table.get(job.id, "ada").state == State.RUNNING
    (ended,) = table.expire(everybody=True)
    assert (ended.id, ended.state, ended.attempts) == (job.id, State.QUEUED, 1)


def test_a_job_is_leased_once(table: Table, work: Make) -> None:
    jobs = [table.accept("ada", work(seed)) for seed in range(3)]
    ids = [job.id for job in jobs]
    assert [j.id for j in table.lease("a", 10, ids[:2])] == ids[:2]
    assert [j.id for j in table.lease("b", 10, [*ids, ids[2], "0" * 32])] == ids[2:]


def test_only_its_own_lease_ends_a_job(table: Table, work: Make, clock: Any) -> None:
    """A worker that was slow finds its job with another, or with itself but leased anew."""
    job = table.accept("ada", work())
    (stale,) = table.lease("w", 10, [job.id])
    clock.now += 11
    assert [j.state for j in table.expire()] == [State.QUEUED]
    (fresh,) = table.lease("w", 10, [job.id])
    forged = dataclasses.replace(fresh, worker="x")
    for wrong in (stale, forged, job):
        assert not table.finish(Ending(wrong, result="wrong"))
        assert not table.start(wrong)
        assert not table.release(wrong)
        assert table.record(wrong, "log", {"text": "wrong"}) is None
        assert table.renew([wrong], 10) == []
    assert table.finish(Ending(fresh, result="right"))
    assert not table.finish(Ending(fresh, result="twice"))
    assert table.get(job.id, "ada").result == "right"
    assert states(table, job).count("done") == 1


def test_of_jobs_that_end_together_those_count_that_are_held(table: Table, work: Make, clock: Any) -> None:
    jobs = [table.accept("ada", work(seed)) for seed in range(3)]
    held, failing, late = table.lease("w", 10, [job.id for job in jobs])
    clock.now += 11
    table.renew([held, failing], 10)
    table.expire()
    assert table.finish(Ending(held, result="r"), Ending(late, result="late"), Ending(failing, problem=PROBLEM)) == {held.id, failing.id}
    assert [table.get(job.id, "ada").state for job in jobs] == [State.DONE, State.FAILED, State.QUEUED]
    assert table.finish() == set()


def test_a_late_worker_whose_job_nobody_took_may_go_on(table: Table, work: Make, clock: Any) -> None:
    (leased,) = table.lease("w", 10, [table.accept("ada", work()).id])
    clock.now += 11
    assert [j.until for j in table.renew([leased], 10)] == [clock.now + 10]
    assert table.expire() == []
    assert table.finish(Ending(leased, result="r"))


def test_a_job_that_is_lost_too_often_fails(table: Table, work: Make, clock: Any) -> None:
    """With its server it may be lost more often than with its worker alone: 3 times here, and 2."""

    def lost(job: Job, orphaned: bool) -> Job:
        (leased,) = table.lease("w", 10, [job.id])
        if orphaned:
            clock.now += 11
            table.expire()
        else:
            assert table.finish(Ending(leased))
        return table.get(job.id, "ada")

    for number, losses in enumerate([[True, True, False, False], [False, True, True, True]]):
        job = table.accept("ada", work(number))
        for count, orphaned in enumerate(losses):
            assert (job.state, job.attempts) == (State.QUEUED, count)
            job = lost(job, orphaned)
        assert (job.state, job.attempts, job.orphaned) == (State.FAILED, 4, sum(losses))
        assert job.problem is not None and "4 times" in job.problem["found"]


def test_a_job_given_back_has_lost_no_attempt_and_its_place_is_kept(table: Table, work: Make) -> None:
    first, second = table.accept("ada", work()), table.accept("ada", work(1))
    for _ in range(5):
        (leased,) = table.lease("w", 10, [first.id])
        assert (table.position(first.id, "ada"), table.position(second.id, "ada")) == (0, 1)
        assert table.release(leased)
    assert table.get(first.id, "ada").attempts == 0
    assert (table.position(first.id, "ada"), table.position(second.id, "ada")) == (1, 2)


def test_position_counts_those_of_the_same_model(table: Table, work: Make) -> None:
    table.accept("ada", work())
    assert table.position(table.accept("ben", work(model="other")).id, "ben") == 1
    assert table.position(table.accept("ben", work(1)).id, "ben") == 2


def test_cancelling_takes_the_job_from_its_worker(table: Table, work: Make) -> None:
    job, other = table.accept("ada", work()), table.accept("ada", work(1))
    leased = table.lease("w", 10, [job.id, other.id])
    assert table.cancel(job.id, "ada").state == State.CANCELLED
    assert [j.id for j in table.renew(leased, 10)] == [other.id]
    assert not table.finish(Ending(leased[0], result="r"))
    assert table.cancel(job.id, "ada").state == State.CANCELLED
    assert states(table, job) == ["received", "queued", "running", "cancelled"]
    done = run(table, table.accept("ada", work(2)))
    assert table.cancel(done.id, "ada") == done


def test_progress_replaces_progress_and_logs_are_bounded(table: Table, work: Make) -> None:
    job = table.accept("ada", work())
    (leased,) = table.lease("w", 10, [job.id])
    for done in range(30):
        table.record(leased, "progress", {"done": done, "total": 30, "unit": "pairs"})
    events = table.events(job.id, "ada")
    assert [(e.type, e.number) for e in events] == [("state", 1), ("state", 2), ("state", 3), ("progress", 33)]
    assert events[-1].data["done"] == 29
    kept = [table.record(leased, "log", {"text": str(i)}) for i in range(30)]
    assert sum(event is not None for event in kept) == 16
    assert table.finish(Ending(leased, result="r"))
    assert table.events(job.id, "ada")[-1].data == {"state": "done", "result": "r"}


@pytest.mark.parametrize(
    ("type", "data"), [("state", {"state": "done"}), ("log", {"text": "x" * 300}), ("log", {"x": float("nan")}), ("log", {"x": b""})]
)
def test_an_event_is_plain_and_small(table: Table, work: Make, type: str, data: dict[str, Any]) -> None:
    (leased,) = table.lease("w", 10, [table.accept("ada", work()).id])
    with pytest.raises(InputError):
        table.record(leased, type, data)


def test_what_cannot_be_is_refused(table: Table, work: Make) -> None:
    job = table.accept("ada", work())
    for worker, state in (("", State.RUNNING), ("w", State.DONE)):
        with pytest.raises(InputError):
            table.lease(worker, 10, [job.id], state)
    (leased,) = table.lease("w", 10, [job.id])
    with pytest.raises(InputError):
        table.finish(Ending(leased, result="r", problem=PROBLEM))


def test_old_results_then_old_jobs_are_let_go(table: Table, work: Make, clock: Any) -> None:
    old = run(table, table.accept("ada", work()))
    waiting = table.accept("ada", work(2))
    clock.now += 600
    young = run(table, table.accept("ada", work(1)), "s")
    clock.now += 600
    assert table.expire() == []
    assert (table.get(old.id, "ada").state, table.get(old.id, "ada").result) == (State.EXPIRED, None)
    assert table.get(young.id, "ada").state == State.DONE
    assert table.results() == {"s"}
    assert table.accept("ada", work()).state == State.QUEUED, "a result that is let go is found no more"
    clock.now += 4_000
    table.expire()
    with pytest.raises(UnknownNameError):
        table.get(old.id, "ada")
    assert table.get(waiting.id, "ada").state == State.QUEUED, "a job that waits is not let go"


def test_a_damaged_result_is_forgotten(table: Table, work: Make) -> None:
    first = run(table, table.accept("ada", work()))
    second = table.accept("ben", work())
    assert table.forget("r") == 2
    assert {table.get(job.id, None).state for job in (first, second)} == {State.EXPIRED}
    assert table.accept("ada", work()).state == State.QUEUED
    assert table.forget("r") == 0


USERS, WORKERS = ("ada", "ben"), ("v", "w")
WORKS = [Work("method", model, method="read.logit_lens", seed=seed) for model in ("m", "n") for seed in range(2)]


class Anything(RuleBasedStateMachine):
    """The table does what a dictionary of jobs would, whatever is called in whatever order, with old leases, after crashes."""

    jobs, leases = Bundle("jobs"), Bundle("leases")
    new_database: ClassVar[Callable[[], Callable[[], Database]]]
    """Returns what opens a database that is new, and opens it again."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = self.new_database()
        self.now = 1_000_000.0
        self.rules = Rules(results=300, jobs=900, attempts=2, orphaned=2)
        self.model: dict[str, dict[str, Any]] = {}
        self.keys: dict[tuple[str, str], tuple[str, str]] = {}
        self.crash()

    def teardown(self) -> None:
        self.database.close()

    @rule()
    def crash(self) -> None:
        """Whoever had the table open is gone, in the middle of a change; the next one opens the files as they are."""
        if hasattr(self, "database"):
            with pytest.raises(ZeroDivisionError), self.database.change("Die.") as sql:
                sql("UPDATE jobs SET state = 'done', worker = 'x'")
                sql("DELETE FROM events")
                raise ZeroDivisionError
            self.database.close()
        self.database = self.opened()
        self.table = Table(self.database, self.rules, lambda: self.now)

    def known(self, hash: str) -> str | None:
        return next((job["result"] for job in self.model.values() if job["state"] == "done" and job["hash"] == hash), None)

    @rule(target=jobs, user=st.sampled_from(USERS), work=st.sampled_from(WORKS), key=st.sampled_from([None, None, "k", "l"]))
    def accept(self, user: str, work: Work, key: str | None) -> Any:
        before = self.keys.get((user, key)) if key else None
        if before is not None and before[0] not in self.model:
            before = None  # the job under the key was let go
        if before is not None and before[1] != work.body:
            with pytest.raises(ConflictError):
                self.table.accept(user, work, key)
            return multiple()
        job = self.table.accept(user, work, key)
        if before is not None:
            assert job.id == before[0]
            return multiple()
        assert job.id not in self.model
        result = self.known(work.hash)
        state = "queued" if result is None else "done"
        self.model[job.id] = {
            "user": user,
            "hash": work.hash,
            "state": state,
            "result": result,
            "attempts": 0,
            "orphaned": 0,
            "finished": self.now,
            "lease": None,
        }
        if key:
            self.keys[user, key] = job.id, work.body
        return job.id

    @rule(target=leases, worker=st.sampled_from(WORKERS), ids=st.lists(jobs, max_size=3), state=st.sampled_from(sorted(LEASED)))
    def lease(self, worker: str, ids: list[str], state: State) -> Any:
        got = self.table.lease(worker, 50, ids, state)
        expected = []
        for id in dict.fromkeys(ids):
            job = self.model.get(id)
            if job is None or job["state"] != "queued":
                continue
            if (result := self.known(job["hash"])) is not None:
                job |= {"state": "done", "result": result, "finished": self.now}
                continue
            job |= {"state": str(state), "until": self.now + 50}
            expected.append(id)
        assert [job.id for job in got] == expected
        for lease in got:
            self.model[lease.id]["lease"] = lease
        return multiple(*got)

    def held(self, lease: Job) -> dict[str, Any] | None:
        job = self.model.get(lease.id)
        same = job is not None and job["state"] in LEASED and (job["lease"].leases, job["lease"].worker) == (lease.leases, lease.worker)
        return job if same else None

    def lose(self, job: dict[str, Any], orphaned: bool) -> None:
        job["attempts"] += 1
        job["orphaned"] += orphaned
        failed = job["attempts"] - job["orphaned"] == self.rules.attempts or job["orphaned"] == self.rules.orphaned
        job |= {"state": "failed", "finished": self.now} if failed else {"state": "queued"}

    @rule(lease=leases)
    def start(self, lease: Job) -> None:
        job = self.held(lease)
        can = job is not None and job["state"] == "loading"
        assert self.table.start(lease) is can
        if can and job is not None:
            job["state"] = "running"

    @rule(leased=st.lists(leases, max_size=3))
    def renew(self, leased: list[Job]) -> None:
        held = self.table.renew(leased, 50)
        assert [job.id for job in held] == [lease.id for lease in leased if self.held(lease)]
        for job in held:
            self.model[job.id]["until"] = self.now + 50

    @rule(lease=leases)
    def release(self, lease: Job) -> None:
        job = self.held(lease)
        assert self.table.release(lease) is (job is not None)
        if job is not None:
            job["state"] = "queued"

    @rule(lease=leases, type=st.sampled_from(["log", "progress"]))
    def record(self, lease: Job, type: str) -> None:
        assert (self.table.record(lease, type, {"done": 1}) is None) is (self.held(lease) is None)

    @rule(lease=leases, how=st.sampled_from(["result", "problem", "lost"]))
    def finish(self, lease: Job, how: str) -> None:
        job = self.held(lease)
        given: dict[str, Any] = {"result": {"result": f"r{lease.hash}"}, "problem": {"problem": PROBLEM}, "lost": {}}[how]
        assert self.table.finish(Ending(lease, **given)) == ({lease.id} if job is not None else set())
        if job is not None and how == "lost":
            self.lose(job, orphaned=False)
        elif job is not None:
            job |= {"state": "done" if how == "result" else "failed", "result": given.get("result"), "finished": self.now}

    @rule(id=jobs, user=st.sampled_from(USERS))
    def cancel(self, id: str, user: str) -> None:
        job = self.model.get(id)
        if job is None or job["user"] != user:
            with pytest.raises(UnknownNameError):
                self.table.cancel(id, user)
            return
        self.table.cancel(id, user)
        if job["state"] not in FINAL:
            job |= {"state": "cancelled", "finished": self.now}

    @rule(seconds=st.sampled_from([1.0, 51.0, 301.0, 901.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        late = [id for id, job in self.model.items() if job["state"] in LEASED and job["until"] < self.now]
        for id in late:
            if self.model[id]["state"] == "running":
                self.lose(self.model[id], orphaned=True)
            else:
                self.model[id]["state"] = "queued"
        for job in self.model.values():
            if job["state"] == "done" and job["finished"] < self.now - 300:
                job |= {"state": "expired", "result": None}
        assert sorted(job.id for job in self.table.expire()) == sorted(late)
        self.model = {id: job for id, job in self.model.items() if job["state"] not in FINAL or job["finished"] >= self.now - 900}

    @invariant()
    def it_is_as_expected(self) -> None:
        found = {job.id: job for user in USERS for job in self.table.find(user, limit=10_000)}
        assert {id: (j.user, j.state, j.result, j.attempts) for id, j in found.items()} == {
            id: (j["user"], j["state"], j["result"], j["attempts"]) for id, j in self.model.items()
        }
        assert self.table.counts() == {state: Counter(j["state"] for j in self.model.values())[state] for state in State}
        assert [job.id for job in self.table.queued()] == [id for id, job in self.model.items() if job["state"] == "queued"]

    @invariant()
    def every_history_is_one(self) -> None:
        for id, job in self.model.items():
            events = self.table.events(id, job["user"])
            numbers = [event.number for event in events]
            assert numbers == sorted(set(numbers)) and numbers[0] == 1
            states = [State(event.data["state"]) for event in events if event.type == "state"]
            assert states[0] == "received" and states[-1] == job["state"]
            assert all(after in NEXT[before] for before, after in pairwise(states))
            assert states.count(State.DONE) <= 1


QUICK = settings(max_examples=6, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def in_any_order(new_database: Callable[[], Callable[[], Database]], given: settings) -> None:
    machine = type("AnythingHere", (Anything,), {"new_database": staticmethod(new_database)})
    run_state_machine_as_test(machine, settings=given)


def new_file(folder: Path) -> Callable[[], Callable[[], Database]]:
    def new() -> Callable[[], Database]:
        path = Path(tempfile.mkdtemp(dir=folder)) / "jobs.sqlite"
        return lambda: Sqlite(path, flush=False)

    return new


def test_any_order_of_calls(in_memory: Path) -> None:
    in_any_order(new_file(in_memory), QUICK)


@pytest.mark.slow
def test_any_order_of_many_calls(in_memory: Path) -> None:
    in_any_order(new_file(in_memory), settings(QUICK, max_examples=30, stateful_step_count=50))


@pytest.mark.slow
def test_any_order_of_calls_in_postgres(new_postgres: Callable[[], str]) -> None:
    in_any_order(lambda: partial(Postgres, new_postgres(), flush=False), settings(QUICK, max_examples=5))
