"""The table of jobs, in any `Database`. Its guarantees are those of `Jobs`."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, final

from cutaway.errors import ConflictError, InputError, ServiceError, UnknownNameError
from cutaway.remote.problem import problem
from cutaway.service.database import Database, Execute
from cutaway.service.jobs import FINAL, LEASED, NEXT, Ending, Event, Job, State

if TYPE_CHECKING:
    from cutaway.remote.work import Work

DAY = 86_400.0
_FIELDS = tuple(f.name for f in fields(Job))
_COLUMNS = ", ".join("owner" if name == "user" else name for name in _FIELDS)
_HELD = "id = ? AND worker = ? AND leases = ? AND state IN ('loading', 'running')"


@final
@dataclass(frozen=True)
class Rules:
    """How long a table keeps what, in seconds; how many events, and how many characters of one, it notes.

    attempts, orphaned: how often a job may be lost with its worker alone, and with its server, whose end says less of the job; at the last
    one it fails.
    """

    results: float = 7 * DAY
    jobs: float = 30 * DAY
    attempts: int = 3
    orphaned: int = 10
    events: int = 1_000
    text: int = 65_536


@final
class Table:
    """`Jobs` in a database. clock: seconds since 1970."""

    def __init__(self, database: Database, rules: Rules | None = None, clock: Callable[[], float] = time.time) -> None:
        self._database, self._rules, self._clock = database, rules or Rules(), clock

    def accept(self, user: str, work: Work, key: str | None = None) -> Job:
        if key is not None and not (0 < len(key) <= 200 and key.isprintable()):
            raise InputError("An idempotency key.", repr(key)[:60], "at most 200 printable characters")
        hash, blob = work.hash, work.to_bytes()
        with self._database.change("Accept a job.") as sql:
            if key is not None:
                before = sql(f"SELECT body, {_COLUMNS} FROM jobs WHERE owner = ? AND key = ?", (user, key)).fetchone()
                if before is not None and before[0] != work.body:
                    raise ConflictError("Accept a job.", "another job under the same idempotency key", "a new key, or the same body")
                if before is not None:
                    return _job(before[1:])
            (last,) = sql("SELECT MAX(number) FROM jobs").fetchone()
            number, id = (last or 0) + 1, uuid.uuid4().hex
            values = (
                number,
                id,
                user,
                work.kind,
                work.model,
                work.method,
                hash,
                len(blob),
                State.RECEIVED,
                self._clock(),
                key,
                work.body,
                blob,
            )
            sql(
                f"INSERT INTO jobs (number, id, owner, kind, model, method, hash, size, state, accepted, key, body, work) VALUES ({_marks(values)})",
                values,
            )
            self._tell(sql, number, "state", {"state": State.RECEIVED})
            if not self._found_before(sql, number, hash):
                self._move(sql, number, State.QUEUED)
            return self._job(sql, id, user)

    def get(self, id: str, user: str | None) -> Job:
        with self._database.read("Read a job.") as sql:
            return self._job(sql, id, user)

    def find(self, user: str | None, states: Collection[State] = (), limit: int = 50, before: str | None = None) -> list[Job]:
        with self._database.read("List jobs.") as sql:
            where, values = _owned(user)
            if states:
                where, values = f"{where} AND state IN ({_marks(states)})", [*values, *states]
            if before is not None:
                where, values = f"{where} AND number < ?", [*values, self._number(sql, before, user)]
            rows = sql(f"SELECT {_COLUMNS} FROM jobs WHERE {where} ORDER BY number DESC LIMIT ?", [*values, limit])
            return [_job(row) for row in rows.fetchall()]

    def queued(self, each: int = 64) -> list[Job]:
        place = "ROW_NUMBER() OVER (PARTITION BY owner, model ORDER BY number)"
        places = f"SELECT number, {place} AS place FROM jobs WHERE state = 'queued'"  # of the index alone: jobs themselves are large
        first = f"SELECT number FROM ({places}) AS waiting WHERE place <= ?"
        with self._database.read("List jobs.") as sql:
            rows = sql(f"SELECT {_COLUMNS} FROM jobs WHERE number IN ({first}) ORDER BY number", (each,))
            return [_job(row) for row in rows.fetchall()]

    def work(self, id: str) -> bytes:
        with self._database.read("Read a work.") as sql:
            row = sql("SELECT work FROM jobs WHERE id = ? AND work IS NOT NULL", (id,)).fetchone()
        if row is None:
            raise UnknownNameError("unfinished job", id[:40], ())
        return bytes(row[0])

    def lease(self, worker: str, seconds: float, ids: Sequence[str], state: State = State.RUNNING) -> list[Job]:
        if not worker or state not in LEASED:
            raise InputError("Lease jobs.", f"worker {worker!r}, state {state}", f"a name, and {' or '.join(sorted(LEASED))}")
        leased = []
        with self._database.change("Lease jobs.", flush=False) as sql:
            for id in ids:
                row = sql("SELECT number, hash, started, leases FROM jobs WHERE id = ? AND state = 'queued'", (id,)).fetchone()
                if row is None or self._found_before(sql, row[0], row[1]):
                    continue
                number, _, started, leases = row
                now = self._clock()
                changes = {"worker": worker, "until": now + seconds, "leases": leases + 1, "started": now if started is None else started}
                self._move(sql, number, state, changes)
                leased.append(self._job(sql, id, None))
        return leased

    def start(self, job: Job) -> bool:
        with self._database.change("Start a job.", flush=False) as sql:
            held = self._held(sql, job)
            return held is not None and self._move(sql, held, State.RUNNING)

    def renew(self, jobs: Sequence[Job], seconds: float) -> list[Job]:
        with self._database.change("Renew leases.", flush=False) as sql:
            until = self._clock() + seconds
            held = [j for j in jobs if sql(f"UPDATE jobs SET until = ? WHERE {_HELD}", (until, j.id, j.worker, j.leases)).rowcount]
            return [self._job(sql, job.id, None) for job in held]

    def release(self, job: Job) -> bool:
        with self._database.change("Release a job.", flush=False) as sql:
            held = self._held(sql, job)
            return held is not None and self._move(sql, held, State.QUEUED)

    def record(self, job: Job, type: str, data: Mapping[str, Any]) -> Event | None:
        if type not in ("progress", "log") or len(_json(data)) > self._rules.text:
            raise InputError("Record an event.", type[:40], f"progress or log, with data of at most {self._rules.text:,} characters")
        with self._database.change("Record an event.", flush=False) as sql:
            held = self._held(sql, job)
            if held is None:
                return None
            if type == "progress":  # who comes back later needs the newest only
                sql("DELETE FROM events WHERE job = ? AND type = 'progress'", (held,))
            (kept,) = sql("SELECT COUNT(*) FROM events WHERE job = ?", (held,)).fetchone()
            return self._tell(sql, held, type, data) if kept < self._rules.events else None

    def finish(self, *endings: Ending) -> set[str]:
        with self._database.change("Finish jobs.") as sql:
            return {ending.job.id for ending in endings if self._end(sql, ending)}

    def _end(self, sql: Execute, ending: Ending) -> bool:
        held = self._held(sql, ending.job)
        if held is None:
            return False
        sql("UPDATE jobs SET seconds = seconds + ? WHERE number = ?", (ending.seconds, held))
        if ending.result is not None:
            return self._move(sql, held, State.DONE, {"result": ending.result})
        if ending.problem is not None:
            return self._fail(sql, held, ending.problem)
        return self._lose(sql, held, orphaned=False)

    def settle(self, hash: str) -> list[str]:
        with self._database.change("Finish equal jobs.") as sql:
            rows = sql("SELECT number, id FROM jobs WHERE state = 'queued' AND hash = ? ORDER BY number", (hash,)).fetchall()
            return [id for number, id in rows if self._found_before(sql, number, hash)]

    def cancel(self, id: str, user: str | None) -> Job:
        with self._database.change("Cancel a job.") as sql:
            self._move(sql, self._number(sql, id, user), State.CANCELLED)
            return self._job(sql, id, user)

    def expire(self, *, everybody: bool = False) -> list[Job]:
        now = self._clock()
        with self._database.change("Expire jobs.") as sql:
            ended = float("inf") if everybody else now
            late = sql("SELECT number, id, state FROM jobs WHERE state IN ('loading', 'running') AND until < ?", (ended,)).fetchall()
            for number, _, state in late:
                if state == State.RUNNING:
                    self._lose(sql, number, orphaned=True)
                else:  # it has not begun, so that nothing of it has harmed the worker
                    self._move(sql, number, State.QUEUED)
            old = sql("SELECT number FROM jobs WHERE state = 'done' AND finished < ?", (now - self._rules.results,)).fetchall()
            for (number,) in old:
                self._move(sql, number, State.EXPIRED, {"result": None})
            ancient = f"state IN ({_marks(FINAL)}) AND finished < ?"
            sql(f"DELETE FROM events WHERE job IN (SELECT number FROM jobs WHERE {ancient})", (*FINAL, now - self._rules.jobs))
            sql(f"DELETE FROM jobs WHERE {ancient}", (*FINAL, now - self._rules.jobs))
            return [self._job(sql, id, None) for _, id, _ in late]

    def events(self, id: str, user: str | None, after: int = 0) -> list[Event]:
        with self._database.read("Read events.") as sql:
            number = self._number(sql, id, user)
            rows = sql("SELECT number, time, type, data FROM events WHERE job = ? AND number > ? ORDER BY number", (number, after))
            return [Event(id, number, time, type, json.loads(data)) for number, time, type, data in rows.fetchall()]

    def position(self, id: str, user: str | None) -> int:
        with self._database.read("Read a position.") as sql:
            job, number = self._job(sql, id, user), self._number(sql, id, user)
            if job.state != State.QUEUED:
                return 0
            ahead = sql("SELECT COUNT(*) FROM jobs WHERE state = 'queued' AND model = ? AND number <= ?", (job.model, number))
            return int(ahead.fetchone()[0])

    def unfinished(self, user: str) -> int:
        with self._database.read("Count jobs.") as sql:
            going = sorted(set(State) - FINAL)
            row = sql(f"SELECT COUNT(*) FROM jobs WHERE owner = ? AND state IN ({_marks(going)})", (user, *going)).fetchone()
        return int(row[0])

    def counts(self) -> dict[State, int]:
        with self._database.read("Count jobs.") as sql:
            found = dict(sql("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall())
        return {state: int(found.get(state, 0)) for state in State}

    def demand(self) -> dict[str, tuple[int, int]]:
        wanted = "SUM(CASE WHEN state = 'queued' THEN 1 ELSE 0 END), SUM(CASE WHEN state = 'queued' THEN 0 ELSE 1 END)"
        with self._database.read("Count jobs.") as sql:
            rows = sql(f"SELECT model, {wanted} FROM jobs WHERE state IN ('queued', 'loading', 'running') GROUP BY model").fetchall()
            return {model: (int(queued), int(running)) for model, queued, running in rows}

    def results(self) -> frozenset[str]:
        with self._database.read("List results.") as sql:
            return frozenset(row[0] for row in sql("SELECT DISTINCT result FROM jobs WHERE state = 'done'").fetchall())

    def forget(self, result: str) -> int:
        with self._database.change("Forget a result.") as sql:
            rows = sql("SELECT number FROM jobs WHERE state = 'done' AND result = ?", (result,)).fetchall()
            return sum(self._move(sql, number, State.EXPIRED, {"result": None}) for (number,) in rows)

    def _move(self, sql: Execute, number: int, to: State, changes: Mapping[str, Any] | None = None) -> bool:
        """The one place where a state changes: from one that it may follow, with its event. False where it may not."""
        changes = {"state": to, **(changes or {})}
        if to not in LEASED:
            changes |= {"worker": "", "until": 0.0}
        if to in FINAL - {State.EXPIRED}:
            changes |= {"finished": self._clock(), "work": None}
        sources = [state for state, following in NEXT.items() if to in following]
        assigned = ", ".join(f"{column} = ?" for column in changes)
        moved = sql(
            f"UPDATE jobs SET {assigned} WHERE number = ? AND state IN ({_marks(sources)})", (*changes.values(), number, *sources)
        ).rowcount
        if moved:
            told = {name: changes[name] for name in ("result", "cached") if changes.get(name)}
            if changes.get("problem"):
                told["problem"] = json.loads(changes["problem"])
            self._tell(sql, number, "state", {"state": to, **told})
        return bool(moved)

    def _found_before(self, sql: Execute, number: int, hash: str) -> bool:
        """Done at once where an equal work is."""
        row = sql("SELECT result FROM jobs WHERE state = 'done' AND hash = ? LIMIT 1", (hash,)).fetchone()
        return row is not None and self._move(sql, number, State.DONE, {"result": row[0], "cached": 1})

    def _lose(self, sql: Execute, number: int, *, orphaned: bool) -> bool:
        sql("UPDATE jobs SET attempts = attempts + 1, orphaned = orphaned + ? WHERE number = ?", (int(orphaned), number))
        attempts, orphans = sql("SELECT attempts, orphaned FROM jobs WHERE number = ?", (number,)).fetchone()
        if attempts - orphans < self._rules.attempts and orphans < self._rules.orphaned:
            return self._move(sql, number, State.QUEUED)
        found = f"a worker that was lost while it ran, {attempts} times"
        return self._fail(sql, number, problem(ServiceError("Run this job.", found, "less work at once, or the operator, who has its log")))

    def _fail(self, sql: Execute, number: int, why: Mapping[str, Any]) -> bool:
        return self._move(sql, number, State.FAILED, {"problem": _json(why)})

    def _tell(self, sql: Execute, number: int, type: str, data: Mapping[str, Any]) -> Event:
        sql("UPDATE jobs SET told = told + 1 WHERE number = ?", (number,))
        id, told = sql("SELECT id, told FROM jobs WHERE number = ?", (number,)).fetchone()
        now = self._clock()
        sql("INSERT INTO events (job, number, time, type, data) VALUES (?, ?, ?, ?, ?)", (number, told, now, type, _json(data)))
        return Event(id, told, now, type, data)

    def _held(self, sql: Execute, job: Job) -> int | None:
        """The number of a job whose lease is still this one."""
        row = sql(f"SELECT number FROM jobs WHERE {_HELD}", (job.id, job.worker, job.leases)).fetchone()
        return None if row is None else int(row[0])

    def _number(self, sql: Execute, id: str, user: str | None) -> int:
        return int(self._row(sql, "number", id, user)[0])

    def _job(self, sql: Execute, id: str, user: str | None) -> Job:
        return _job(self._row(sql, _COLUMNS, id, user))

    def _row(self, sql: Execute, columns: str, id: str, user: str | None) -> Sequence[Any]:
        where, values = _owned(user)
        row: Sequence[Any] | None = None
        if id.isalnum():
            row = sql(f"SELECT {columns} FROM jobs WHERE {where} AND id = ?", [*values, id]).fetchone()
        if row is None:
            latest = sql(f"SELECT id FROM jobs WHERE {where} ORDER BY number DESC LIMIT 3", values).fetchall()
            raise UnknownNameError("job", id[:40], [name for (name,) in latest])
        return row


def _job(row: Sequence[Any]) -> Job:
    values = dict(zip(_FIELDS, row, strict=True))
    why = values["problem"]
    return Job(**values | {"state": State(values["state"]), "cached": bool(values["cached"]), "problem": why and json.loads(why)})


def _json(data: Mapping[str, Any]) -> str:
    try:
        return json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError("Store the data of an event.", str(error)[:200], "plain JSON: texts, finite numbers, lists, objects") from error


def _owned(user: str | None) -> tuple[str, list[Any]]:
    return ("1 = 1", []) if user is None else ("owner = ?", [user])


def _marks(values: Collection[Any]) -> str:
    return ", ".join("?" * len(values))
