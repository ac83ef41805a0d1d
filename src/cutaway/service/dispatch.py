"""Gets jobs done: leases what the scheduler picks, runs it, keeps what comes of it. All that must not be forgotten is in the table.

Three kinds of thread: one decides, one renews leases, and each run or load has one of a pool. A server that dies in any of them has leases that
run out, and the jobs are queued again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, final

from cutaway.errors import CutawayError, InputError, ServiceError, StorageError, UnknownNameError
from cutaway.remote.work import Work
from cutaway.service.catalogue import Catalogue
from cutaway.service.jobs import Job, Jobs, State
from cutaway.service.measured import Measured
from cutaway.service.outcomes import Outcome, told
from cutaway.service.quota import Balances
from cutaway.service.results import Results
from cutaway.service.runners.base import Runner
from cutaway.service.scheduler import Load, Scheduler, Unload, Waiting
from cutaway.service.telemetry import Telemetry

_LOG = logging.getLogger("cutaway.service")
LEASE = 15.0
"""Seconds for which a job is leased; renewed three times in it. So long a job waits after its server died, where other servers may be alive."""
_IDLE = 1.0
_TIDY = 3_600.0
_RECENT = 50


@final
class Dispatcher:
    """Drives a runner by what the table of jobs holds. changed: told the id of a job whenever something happened to it, from any thread."""

    def __init__(
        self,
        catalogue: Catalogue,
        jobs: Jobs,
        results: Results,
        runner: Runner,
        scheduler: Scheduler,
        balances: Balances,
        telemetry: Telemetry,
        changed: Callable[[str], None],
        lease: float = LEASE,
    ) -> None:
        self._catalogue, self._jobs, self._results, self._runner = catalogue, jobs, results, runner
        self._scheduler, self._balances, self._telemetry, self._changed, self._lease = scheduler, balances, telemetry, changed, lease
        self._worker = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._pool = ThreadPoolExecutor(2 * len(list(catalogue)), thread_name_prefix="run")
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._held: dict[str, Job] = {}
        self._measured: dict[str, Measured] = {}
        self._wants: dict[str, tuple[Waiting, Future[None]]] = {}
        self.busy: set[str] = set()
        """Models on which something runs."""
        self.loading: set[str] = set()
        """Models that are being opened."""
        self.kept: Callable[[], frozenset[str]] = frozenset
        """Models that have to stay open for another reason, such as a session."""
        self.draining = False
        self._recent = {name: deque[float](maxlen=_RECENT) for name in catalogue}
        self._threads = [threading.Thread(target=run, name=run.__name__, daemon=True) for run in (self._decide, self._renew)]
        self._tidied = float("-inf")

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def wake(self, job: str = "", measured: Measured | None = None) -> None:
        """There is something to decide, such as a new job, of which this is known."""
        if measured is not None:
            self._measured[job] = measured
        self._wake.set()

    def cancel(self, job: str) -> None:
        """Stop what runs for a job that the table has cancelled."""
        self._runner.cancel(job)
        self._changed(job)

    def want(self, user: str, model: str) -> Future[None]:
        """Have a model open; done when it is. Fails with what opening it raised."""
        waiting = Waiting(f"want-{uuid.uuid4().hex}", user, model, together=False, rows=1, width=1, attempts=0)
        future: Future[None] = Future()
        self._wants[waiting.id] = (waiting, future)
        self._wake.set()
        return future

    def warnings(self, job: str) -> list[str]:
        """What the user of a waiting job should know."""
        return self._measured.get(job, Measured()).warnings

    def expected(self, model: str) -> float | None:
        """Seconds that a job of a model took lately, on average; None where none ran."""
        recent = self._recent[model]
        return sum(recent) / len(recent) if recent else None

    def drain(self, seconds: float) -> bool:
        """Begin nothing more, and wait so long for what runs; what has not ended then is queued again. Returns whether all has ended."""
        self.draining = True
        until = time.monotonic() + seconds
        while self._held and time.monotonic() < until:
            time.sleep(0.02)
        with self._lock:
            left = list(self._held.values())
        for job in left:
            with contextlib.suppress(StorageError):  # its lease runs out
                self._jobs.release(job)
            self._runner.cancel(job.id)
        return not left

    def stop(self, seconds: float = 0.0) -> None:
        """Drain, and end."""
        self.drain(seconds)
        self._stopping.set()
        self._wake.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for _, future in self._wants.values():
            future.cancel()

    # Deciding

    def _decide(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(_IDLE)
            self._wake.clear()
            try:
                self._tidy()
                self._turn()
            except StorageError as error:
                _LOG.warning("the table cannot be read: %s", error.found)
                self._stopping.wait(_IDLE)
            except Exception:
                _LOG.exception("the dispatcher goes on after an error")
                self._stopping.wait(_IDLE)

    def _tidy(self) -> None:
        now = time.monotonic()
        if now - self._tidied < self._lease / 3:
            return
        for job in self._jobs.expire():
            _LOG.warning("a lease of job %s has run out", job.id)
            self._changed(job.id)
        if now // _TIDY != self._tidied // _TIDY:
            self._results.sweep(self._jobs.results(), time.time() - _TIDY)
        self._tidied = now

    def _turn(self) -> None:
        if self.draining:
            return
        opened = self._runner.loaded()  # before the queue is read: a model that is opened meanwhile must not look as if nobody wanted it
        with self._lock:
            busy, loading = set(self.busy), set(self.loading)
        waiting = [*(waiting for waiting, _ in list(self._wants.values())), *self._waiting(self._jobs.queued())]
        for action in self._scheduler.decide(waiting, opened, busy, loading, self._catalogue.sizes, kept=self.kept()):
            if isinstance(action, Unload):
                self._runner.unload(action.model)
                self._telemetry.evicted(action.model)
                continue
            with self._lock:
                (self.loading if isinstance(action, Load) else self.busy).add(action.model)
            if isinstance(action, Load):
                self._pool.submit(self._guarded, self._load, action.model, [one.id for one in waiting if one.model == action.model])
            else:
                self._pool.submit(self._guarded, self._run, action.model, action.jobs)

    def _waiting(self, queued: Sequence[Job]) -> list[Waiting]:
        """Queued jobs of the models that are offered here. Of those that want the same, one: the others are done with it."""
        with self._lock:
            known = {job.hash for job in self._held.values()}
        found = []
        for job in queued:
            if job.model in self._catalogue and job.hash not in known:
                known.add(job.hash)
                m = self._measure(job)
                found.append(Waiting(job.id, job.user, job.model, m.together, m.rows, m.width, job.attempts))
        return found

    def _measure(self, job: Job) -> Measured:
        """What a job would take; for one that another server took on, or this one before it was started anew, found out now."""
        measured = self._measured.get(job.id)
        if measured is None:
            try:
                measured = self._catalogue[job.model].measure(Work.from_bytes(self._jobs.work(job.id)))
            except StorageError:
                raise
            except CutawayError:  # its run will say so to its user
                measured = Measured()
            self._measured[job.id] = measured
        return measured

    # Running

    def _guarded(self, function: Callable[[str, Sequence[str]], None], model: str, ids: Sequence[str]) -> None:
        try:
            function(model, ids)
        except StorageError as error:
            _LOG.warning("the table cannot be written: %s", error.found)
            self._stopping.wait(_IDLE)
        except Exception:
            _LOG.exception("a run on %s failed", model)
            self._stopping.wait(_IDLE)
        finally:
            with self._lock:
                (self.loading if function == self._load else self.busy).discard(model)
            self._wake.set()

    def _load(self, model: str, ids: Sequence[str]) -> None:
        wanted = [self._wants[id][1] for id in ids if id in self._wants]
        leased = self._leased([id for id in ids if id not in self._wants], State.LOADING)
        began = time.monotonic()
        try:
            self._runner.load(model)
        except CutawayError as error:
            for job in leased:
                self._finish(job, Outcome() if isinstance(error, ServiceError) else Outcome(problem=told(error, job.id)))
            for future in wanted:
                future.set_exception(error)
            for id in ids:
                self._wants.pop(id, None)
            return
        finally:
            self._telemetry.loaded(model, time.monotonic() - began)
            for job in leased:
                if self._let_go(job):
                    self._jobs.release(job)
                    self._changed(job.id)

    def _run(self, model: str, ids: Sequence[str]) -> None:
        for id in ids:
            if id in self._wants:
                self._wants.pop(id)[1].set_result(None)
        rehearsed = all(self._measured.get(id, Measured()).passed for id in ids)
        leased = self._leased([id for id in ids if not id.startswith("want-")], State.RUNNING)
        works = {}
        for job in leased:
            with contextlib.suppress(UnknownNameError):  # cancelled just now
                works[job.id] = Work.from_bytes(self._jobs.work(job.id))
        if not works:
            return
        began = time.monotonic()
        try:
            outcomes = self._runner.run(works, self._told, rehearsed)
        except CutawayError as error:  # the model could not be opened again after its process had died
            outcomes = {id: Outcome() if isinstance(error, ServiceError) else Outcome(problem=told(error, id)) for id in works}
        except Exception:  # of the runner itself: as if it had died
            _LOG.exception("the runner failed on %s", model)
            outcomes = {}
        if len(works) > 1:
            self._telemetry.batch(len(works))
        self._recent[model].append((time.monotonic() - began) / len(works))
        for job in leased:
            self._finish(job, outcomes.get(job.id, Outcome()))

    def _leased(self, ids: Sequence[str], state: State) -> list[Job]:
        leased = self._jobs.lease(self._worker, self._lease, ids, state)
        with self._lock:
            self._held |= {job.id: job for job in leased}
        for id in ids:
            self._measured.pop(id, None) if state == State.RUNNING else None
            self._changed(id)
        return leased

    def _let_go(self, job: Job) -> bool:
        with self._lock:
            return self._held.pop(job.id, None) is not None

    def _finish(self, job: Job, outcome: Outcome) -> None:
        try:
            result = None if outcome.result is None else self._results.put(outcome.result)
            counted = self._jobs.finish(job, result=result, problem=outcome.problem, seconds=outcome.seconds)
        except StorageError as error:  # nothing of it counts; the lease runs out, and the job is tried again
            _LOG.error("the outcome of job %s is lost: %s", job.id, error.found)
            counted = False
        self._let_go(job)
        self._balances.charge(job.user, outcome.seconds)
        if counted:
            state = State.QUEUED if outcome.lost else State.FAILED if outcome.problem else State.DONE
            self._telemetry.job(job.kind, state, (job.started or job.accepted) - job.accepted, outcome.seconds)
        self._changed(job.id)

    def _told(self, job: str, type: str, data: Mapping[str, Any]) -> None:
        held = self._held.get(job)
        if held is not None:
            with contextlib.suppress(StorageError, InputError):  # progress is not worth a job
                self._jobs.record(held, type, data)
            self._changed(job)

    def _renew(self) -> None:
        while not self._stopping.wait(self._lease / 3):
            with self._lock:
                held = list(self._held.values())
            if not held:
                continue
            try:
                kept = {job.id for job in self._jobs.renew(held, self._lease)}
            except StorageError as error:
                _LOG.warning("leases cannot be renewed: %s", error.found)
                continue
            for job in held:
                if job.id not in kept and job.id in self._held:
                    self._runner.cancel(job.id)
