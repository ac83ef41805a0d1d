"""Gets jobs done: opens models and runs what the scheduler picks. All that must not be forgotten is in the table; what is leased, in `leases`.

Three kinds of thread: one decides, one renews leases, and each run or load has one of a pool. A server that dies in any of them has leases that
run out, and the jobs are queued again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import final

from cutaway.errors import BusyError, CutawayError, ServiceError, StorageError, UnknownNameError
from cutaway.remote.work import Work
from cutaway.service.catalogue import Catalogue
from cutaway.service.jobs import Job, Jobs, State
from cutaway.service.leases import PAUSE, Leases
from cutaway.service.measured import Measured
from cutaway.service.outcomes import Outcome, told
from cutaway.service.results import Results
from cutaway.service.runners.base import Runner
from cutaway.service.scheduler import Load, Scheduler, Unload, Waiting
from cutaway.service.telemetry import Telemetry

_LOG = logging.getLogger("cutaway.service")
PATIENCE = 5.0
"""Seconds that whatever was told to end is waited for."""
_TIDY = 3_600.0
_RECENT = 50
_LEARNED = 16
"""Jobs that are measured before the next decision."""


def leaving(asked: str) -> BusyError:
    """The error of a server that takes nothing on any more."""
    return BusyError(asked, "a server that is being shut down", "to try again, when another has taken its place", retry_after=5)


@final
class Dispatcher:
    """Drives a runner by what the table of jobs holds."""

    def __init__(
        self,
        catalogue: Catalogue,
        jobs: Jobs,
        results: Results,
        runner: Runner,
        scheduler: Scheduler,
        leases: Leases,
        telemetry: Telemetry,
    ) -> None:
        self._catalogue, self._jobs, self._results, self._runner = catalogue, jobs, results, runner
        self._scheduler, self._leases, self._telemetry = scheduler, leases, telemetry
        # of each model a run or a load, and one that learns
        self._pool = ThreadPoolExecutor(2 * len(list(catalogue)), thread_name_prefix="run")
        self._wake, self._stopping = threading.Event(), leases.ended
        self._lock = threading.Lock()
        self._wants: dict[str, tuple[Waiting, Future[None]]] = {}
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
        self._leases.changed(job)

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
        left = self._leases.give_up()
        for job in left:
            self.cancel(job.id)
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
            self._wake.wait(PAUSE)
            self._wake.clear()
            try:
                self._tidy()
                self._turn()
            except StorageError as error:
                _LOG.warning("the table cannot be read: %s", error.found)
                self._stopping.wait(PAUSE)
            except Exception:
                _LOG.exception("the dispatcher goes on after an error")
                self._stopping.wait(PAUSE)

    def _tidy(self) -> None:
        now, before = time.monotonic(), self._tidied
        if now - before < self._leases.seconds / 3:
            return
        self._tidied = now
        self._renewed()  # first: what runs here has not ended, however long the table could not be written, or the machine slept
        for job in self._jobs.expire():
            _LOG.warning("a lease of job %s has run out", job.id)
            self._leases.changed(job.id)
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
            # before the queue, which then holds all that a run which has ended left there
            busy, loading = set(self.busy), set(self.loading)
        waiting = [*wanted, *self._waiting(self._jobs.queued())]
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
        taken = self._leases.hashes
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
        self._leases.equal = equal
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
            self._stopping.wait(PAUSE)
        except Exception:
            _LOG.exception("a run on %s failed", model)
            self._stopping.wait(PAUSE)
        finally:
            with self._lock:
                (self.loading if function == self._load else self.busy).discard(model)
            self._wake.set()

    def _load(self, model: str, ids: Sequence[str]) -> None:
        leased = self._leases.take([id for id in ids if not id.startswith("want-")], State.LOADING)
        began = time.monotonic()
        try:
            self._runner.load(model)
            self._telemetry.loaded(model, time.monotonic() - began)
        except Exception as error:
            _LOG.error("%s cannot be opened", model, exc_info=error)
            final = isinstance(error, CutawayError) and not isinstance(error, (ServiceError, StorageError))
            own = error if isinstance(error, CutawayError) else ServiceError(f"Open {model}.", "an error of the server's own", "its log")
            self._answer(ids, own)
            self._leases.finish(*((job, Outcome(problem=told(error, job.id)) if final else Outcome()) for job in leased))
            if not final:
                self._stopping.wait(PAUSE)
        finally:
            self._leases.give_back(leased)

    def _run(self, model: str, ids: Sequence[str]) -> None:
        self._answer(ids)
        asked = [id for id in ids if not id.startswith("want-")]
        leased = self._leases.take(asked, State.RUNNING)
        try:
            self._leases.pass_over(set(asked) - {job.id for job in leased})
            works = self._works(leased)
            if not works:
                return
            rehearsed = all((self._catalogue[model].known(job.hash) or Measured()).passed for job in leased if job.id in works)
            began = time.monotonic()
            try:
                outcomes = self._runner.run(works, self._leases.note, rehearsed)
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
            self._leases.finish(*((job, outcomes.get(job.id, Outcome())) for job in leased if job.id in works))
        finally:
            self._leases.give_back(leased)

    def _works(self, leased: Sequence[Job]) -> dict[str, Work]:
        """What the jobs ask for; those that cannot be read have failed."""
        works = {}
        for job in leased:
            try:
                works[job.id] = Work.from_bytes(self._jobs.work(job.id))
            except UnknownNameError:  # cancelled just now
                self._leases.let_go(job)
            except StorageError:
                raise
            except CutawayError as error:
                self._leases.finish((job, Outcome(problem=told(error, job.id))))
        return works

    def _answer(self, ids: Sequence[str], error: Exception | None = None) -> None:
        """Tell those who want a model that it is open, or why it is not."""
        for id in ids:
            with self._lock:
                want = self._wants.pop(id, None)
            if want is not None and want[1].set_running_or_notify_cancel():
                want[1].set_result(None) if error is None else want[1].set_exception(error)

    def _renew(self) -> None:
        while not self._stopping.wait(self._leases.seconds / 3):
            try:
                self._renewed()
            except StorageError as error:
                _LOG.warning("leases cannot be renewed: %s", error.found)
            except Exception:
                _LOG.exception("leases cannot be renewed")

    def _renewed(self) -> None:
        for job in self._leases.renew():
            self._runner.cancel(job.id)
