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
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, final

from cutaway.errors import BusyError, CutawayError, InputError, ServiceError, StorageError, UnknownNameError
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
PATIENCE = 5.0
"""Seconds that whatever was told to end is waited for."""
_IDLE = 1.0
_TIDY = 3_600.0
_RECENT = 50
_LEARNED = 16
"""Jobs that are measured before the next decision."""


def leaving(asked: str) -> BusyError:
    """The error of a server that takes nothing on any more."""
    return BusyError(asked, "a server that is being shut down", "to try again, when another has taken its place", retry_after=5)


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
        # of each model a run or a load, and one that learns
        self._pool = ThreadPoolExecutor(2 * len(list(catalogue)), thread_name_prefix="run")
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._held: dict[str, Job] = {}
        self._wants: dict[str, tuple[Waiting, Future[None]]] = {}
        self._equal: set[str] = set()
        self._learning = False
        self.busy: set[str] = set()
        """Models on which something runs."""
        self.loading: set[str] = set()
        """Models that are being opened."""
        self.kept: Callable[[], frozenset[str]] = frozenset
        """Models that have to stay open for another reason, such as a session."""
        self.draining = False
        self._until = float("inf")
        self._recent = {name: deque[float](maxlen=_RECENT) for name in catalogue}
        self._threads = [threading.Thread(target=run, name=run.__name__, daemon=True) for run in (self._decide, self._renew)]
        self._tidied = float("-inf")

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """There is something to decide, such as a new job."""
        self._wake.set()

    def cancel(self, job: str) -> None:
        """Stop what runs for a job that the table has cancelled."""
        self._runner.cancel(job)
        self._changed(job)

    def want(self, user: str, model: str) -> Future[None]:
        """Have a model open; done when it is. Fails with what opening it raised, or BusyError; one that is cancelled is forgotten."""
        waiting = Waiting(f"want-{uuid.uuid4().hex}", user, model, together=False, rows=1, width=1, attempts=0)
        future: Future[None] = Future()
        with self._lock:
            self._wants[waiting.id] = (waiting, future)
        self._wake.set()
        return future

    def warnings(self, job: Job) -> list[str]:
        """What the user of a job should know."""
        if job.model not in self._catalogue:
            return [f"This server does not offer {job.model} any more: the job waits until one does, or is cancelled."]
        return (self._catalogue[job.model].known(job.hash) or Measured()).warnings

    def expected(self, model: str) -> float | None:
        """Seconds that a job of a model took lately, on average; None where none ran."""
        recent = self._recent[model]
        return sum(recent) / len(recent) if recent else None

    def drain(self, seconds: float) -> bool:
        """Begin nothing more, and wait so long, or as long as an earlier call, for what runs; what has not ended then is queued again.

        Returns whether all has ended.
        """
        with self._lock:
            self.draining = True
            self._until = min(self._until, time.monotonic() + seconds)
        self._wake.set()
        while self.busy and time.monotonic() < self._until:
            time.sleep(0.02)
        with self._lock:
            left, self._held = list(self._held.values()), {}
        for job in left:
            with contextlib.suppress(StorageError):  # its lease runs out
                self._jobs.release(job)
            self._runner.cancel(job.id)
            self._changed(job.id)
        return all(job.state == State.LOADING for job in left)

    def stop(self, seconds: float = 0.0) -> bool:
        """Drain, and end. Returns whether all has: what cannot be interrupted is left behind."""
        self.drain(seconds)
        self._stopping.set()
        self._wake.set()
        until = time.monotonic() + PATIENCE
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(until - time.monotonic(), 0.0))
        while (self.busy or self.loading or self._learning) and time.monotonic() < until:
            time.sleep(0.01)
        ended = not (self.busy or self.loading or self._learning or any(thread.is_alive() for thread in self._threads))
        self._pool.shutdown(wait=ended, cancel_futures=True)
        self._answer(list(self._wants), leaving("Open a model."))
        return ended

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
        now, before = time.monotonic(), self._tidied
        if now - before < self._lease / 3:
            return
        self._tidied = now
        self._renewed()  # first: what runs here has not ended, however long the table could not be written, or the machine slept
        for job in self._jobs.expire():
            _LOG.warning("a lease of job %s has run out", job.id)
            self._changed(job.id)
        if now // _TIDY != before // _TIDY:
            try:
                self._results.sweep(self._jobs.results(), time.time() - _TIDY)
            except OSError as error:
                _LOG.warning("old results cannot be let go of: %s", error)

    def _turn(self) -> None:
        if self.draining:
            self._answer(list(self._wants), leaving("Open a model."))
            return
        with self._lock:
            self._wants = {id: want for id, want in self._wants.items() if not want[1].done()}
            wanted = [waiting for waiting, _ in self._wants.values()]
        waiting = [*wanted, *self._waiting(self._jobs.queued())]
        with self._lock:
            busy, loading = set(self.busy), set(self.loading)
        opened = self._runner.loaded()
        for action in self._scheduler.decide(waiting, opened, busy, loading, self._catalogue.sizes, kept=self.kept()):
            if isinstance(action, Unload):
                self._runner.unload(action.model)
                self._telemetry.evicted(action.model)
                continue
            with self._lock:
                if self.draining:  # who drains waits for what is in these
                    return
                (self.loading if isinstance(action, Load) else self.busy).add(action.model)
            if isinstance(action, Load):
                self._pool.submit(self._guarded, self._load, action.model, [one.id for one in waiting if one.model == action.model])
            else:
                self._pool.submit(self._guarded, self._run, action.model, action.jobs)

    def _waiting(self, queued: Sequence[Job]) -> list[Waiting]:
        """Queued jobs of the models that are offered here. Of those that want the same, one: the others are done with it."""
        with self._lock:
            taken = {job.hash for job in self._held.values()}
        found, unknown, equal = [], [], set()
        for job in queued:
            if job.model not in self._catalogue:
                continue
            if job.hash in taken:
                equal.add(job.hash)
                continue
            taken.add(job.hash)
            m = self._catalogue[job.model].known(job.hash)
            if m is None and job.kind == "graph" and not job.attempts:
                unknown.append(job)
            m = m or Measured()
            found.append(Waiting(job.id, job.user, job.model, m.together, m.rows, m.width, job.attempts))
        self._equal = equal
        if unknown and not self._learning:
            self._learning = True
            self._pool.submit(self._learn, unknown[:_LEARNED])
        return found

    def _learn(self, jobs: Sequence[Job]) -> None:
        """Measure jobs that another server took on, or this one before it was started anew. Each would run by itself until then."""
        try:
            for job in jobs:
                if self.draining:
                    return
                offer, measured = self._catalogue[job.model], Measured()
                with contextlib.suppress(UnknownNameError):  # it has ended meanwhile
                    work = Work.from_bytes(self._jobs.work(job.id))
                    with contextlib.suppress(CutawayError):  # its run will say so to its user
                        measured = offer.measure(work)
                offer.remember(job.hash, measured)
        except StorageError as error:
            _LOG.warning("the table cannot be read: %s", error.found)
        except Exception:
            _LOG.exception("a job cannot be measured")
        finally:
            self._learning = False
            self._wake.set()

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
        leased = self._leased([id for id in ids if not id.startswith("want-")], State.LOADING)
        began = time.monotonic()
        try:
            self._runner.load(model)
            self._telemetry.loaded(model, time.monotonic() - began)
        except Exception as error:
            _LOG.error("%s cannot be opened", model, exc_info=error)
            final = isinstance(error, CutawayError) and not isinstance(error, (ServiceError, StorageError))
            own = error if isinstance(error, CutawayError) else ServiceError(f"Open {model}.", "an error of the server's own", "its log")
            self._answer(ids, own)
            for job in leased:
                self._finish(job, Outcome(problem=told(error, job.id)) if final else Outcome())
            if not final:
                self._stopping.wait(_IDLE)
        finally:
            self._give_back(leased)

    def _run(self, model: str, ids: Sequence[str]) -> None:
        self._answer(ids)
        asked = [id for id in ids if not id.startswith("want-")]
        leased = self._leased(asked, State.RUNNING)
        try:
            self._pass_over(set(asked) - {job.id for job in leased})
            works = self._works(leased)
            if not works:
                return
            rehearsed = all((self._catalogue[model].known(job.hash) or Measured()).passed for job in leased if job.id in works)
            began = time.monotonic()
            try:
                outcomes = self._runner.run(works, self._told, rehearsed)
            except CutawayError as error:
                if isinstance(error, ServiceError) and model not in self._runner.loaded():  # it was let go of meanwhile
                    return
                # it could not be opened again after its process had died
                outcomes = {id: Outcome() if isinstance(error, ServiceError) else Outcome(problem=told(error, id)) for id in works}
            except Exception:  # of the runner itself: as if it had died
                _LOG.exception("the runner failed on %s", model)
                outcomes = {}
            if len(works) > 1:
                self._telemetry.batch(len(works))
            self._recent[model].append((time.monotonic() - began) / len(works))
            for job in leased:
                if job.id in works:
                    self._finish(job, outcomes.get(job.id, Outcome()))
        finally:
            self._give_back(leased)

    def _pass_over(self, ids: Collection[str]) -> None:
        """These were not leased: cancelled just now, or done by an equal one, as are others then."""
        for id in ids:
            with contextlib.suppress(UnknownNameError):
                job = self._jobs.get(id, None)
                self._settle(job, job.state)

    def _works(self, leased: Sequence[Job]) -> dict[str, Work]:
        """What the jobs ask for; those that cannot be read have failed."""
        works = {}
        for job in leased:
            try:
                works[job.id] = Work.from_bytes(self._jobs.work(job.id))
            except UnknownNameError:  # cancelled just now
                self._let_go(job)
            except StorageError:
                raise
            except CutawayError as error:
                self._finish(job, Outcome(problem=told(error, job.id)))
        return works

    def _answer(self, ids: Sequence[str], error: Exception | None = None) -> None:
        """Tell those who want a model that it is open, or why it is not."""
        for id in ids:
            with self._lock:
                want = self._wants.pop(id, None)
            if want is not None and want[1].set_running_or_notify_cancel():
                want[1].set_result(None) if error is None else want[1].set_exception(error)

    def _leased(self, ids: Sequence[str], state: State) -> list[Job]:
        leased = self._jobs.lease(self._worker, self._lease, ids, state)
        with self._lock:
            self._held |= {job.id: job for job in leased}
        for id in ids:
            self._changed(id)
        return leased

    def _holds(self, job: Job) -> bool:
        held = self._held.get(job.id)
        return held is not None and held.leases == job.leases

    def _let_go(self, job: Job) -> bool:
        with self._lock:
            return self._holds(job) and self._held.pop(job.id) is not None

    def _give_back(self, leased: Sequence[Job]) -> None:
        """Queue again those that are still held."""
        for job in leased:
            if self._holds(job):
                self._insisted(job, lambda job=job: self._jobs.release(job))  # type: ignore[misc]
                self._let_go(job)
                self._changed(job.id)

    def _finish(self, job: Job, outcome: Outcome) -> None:
        def kept() -> bool:
            result = None if outcome.result is None else self._results.put(outcome.result)
            return self._jobs.finish(job, result=result, problem=outcome.problem, seconds=outcome.seconds)

        counted = self._insisted(job, kept)
        self._let_go(job)
        self._balances.charge(job.user, outcome.seconds)
        if counted:
            state = State.QUEUED if outcome.lost else State.FAILED if outcome.problem else State.DONE
            self._telemetry.job(job.kind, state, (job.started or job.accepted) - job.accepted, outcome.seconds)
            self._settle(job, state)
        self._changed(job.id)

    def _settle(self, job: Job, state: State) -> None:
        """Those that waited for an equal job are done with it."""
        if job.hash in self._equal:
            self._equal.discard(job.hash)
            if state == State.DONE:
                with contextlib.suppress(StorageError):  # they are when they are leased
                    for id in self._jobs.settle(job.hash):
                        self._changed(id)

    def _insisted(self, job: Job, change: Callable[[], bool]) -> bool:
        """A change of a job that is held. Tried again while the table, or the folder of results, cannot be written: what was computed is not lost."""
        while True:
            try:
                return change()
            except StorageError as error:
                _LOG.error("job %s waits for room to be kept: %s %s", job.id, error.asked, error.found)
            if self._stopping.wait(_IDLE) or not self._holds(job):
                return False

    def _told(self, job: str, type: str, data: Mapping[str, Any]) -> None:
        held = self._held.get(job)
        if held is not None:
            with contextlib.suppress(StorageError, InputError):  # progress is not worth a job
                self._jobs.record(held, type, data)
            self._changed(job)

    def _renew(self) -> None:
        while not self._stopping.wait(self._lease / 3):
            try:
                self._renewed()
            except StorageError as error:
                _LOG.warning("leases cannot be renewed: %s", error.found)
            except Exception:
                _LOG.exception("leases cannot be renewed")

    def _renewed(self) -> None:
        """Hold on to what is held; what is not any more, as it was cancelled elsewhere, is stopped."""
        with self._lock:
            held = list(self._held.values())
        kept = {job.id for job in self._jobs.renew(held, self._lease)} if held else set()
        for job in held:
            if job.id not in kept and self._let_go(job):
                self._runner.cancel(job.id)
