"""What operators see of a server: metrics in Prometheus' text format, and log lines in JSON.

Labels are the model, the kind of work, the route and the state. Nothing of a user is in a metric: no key, no name, no id.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from cutaway.errors import CutawayError
from cutaway.service.jobs import State
from cutaway.service.keys import redacted

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""Of `Telemetry.text`."""
REQUEST: ContextVar[str] = ContextVar("request", default="")
"""The id of the request that is being answered; whoever answers it sets this, and every log line has it."""
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_SIZES = (1, 2, 4, 8, 16, 32, 64)
_LOUD = ("cutaway", "uvicorn")


@final
class Telemetry:
    """The metrics of one server. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._jobs = self._counter("cutaway_jobs_finished", "Jobs that became final.", "kind", "state")
        self._wait = self._histogram("cutaway_job_wait_seconds", "From acceptance to the start of a job.", "kind")
        self._run = self._histogram("cutaway_job_run_seconds", "Computing of a job.", "kind")
        self._batch = self._histogram("cutaway_batch_jobs", "Jobs that were packed into one run.", buckets=_SIZES)
        self._load = self._histogram("cutaway_model_load_seconds", "Opening a model.", "model")
        self._evictions = self._counter("cutaway_model_evictions", "Models that made room for another.", "model")
        self._requests = self._counter("cutaway_requests", "Answers by HTTP status.", "route", "state")
        self._answer = self._histogram("cutaway_request_seconds", "From a request to its answer.", "route")
        self._sent = self._counter("cutaway_sent_bytes", "Bytes of results that were sent.")

    def job(self, kind: str, state: State, wait: float, run: float) -> None:
        """A job has become final. wait: seconds until it started, or until its end where it never did; run: seconds of computing."""
        self._jobs.labels(kind, str(state)).inc()
        self._wait.labels(kind).observe(wait)
        if state in (State.DONE, State.FAILED):
            self._run.labels(kind).observe(run)

    def batch(self, size: int) -> None:
        """So many jobs were run together."""
        self._batch.observe(size)

    def loaded(self, model: str, seconds: float) -> None:
        """A model was opened."""
        self._load.labels(model).observe(seconds)

    def evicted(self, model: str) -> None:
        """A model was let go to make room."""
        self._evictions.labels(model).inc()

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered. route: its template, as "/v1/jobs/{id}", never its path; "" where it has none."""
        self._requests.labels(route, str(status)).inc()
        self._answer.labels(route).observe(seconds)

    def sent(self, bytes: int) -> None:
        """So many bytes of a result were sent."""
        self._sent.inc(bytes)

    def watch(self, counts: Callable[[], Mapping[State, int]], models: Callable[[], Mapping[str, int]]) -> None:
        """Ask for these at each reading: jobs in each state; the bytes of each open model. What raises a CutawayError is left out of that reading."""
        self._registry.register(_Watched("cutaway_jobs", "Jobs in the table.", "state", counts, dict.fromkeys(map(str, State), 0)))
        self._registry.register(_Watched("cutaway_model_bytes", "Weights of the open models.", "model", models, {}))

    def text(self) -> bytes:
        """All of it, as `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, registry=self._registry)

    def _histogram(self, name: str, documentation: str, *labels: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(name, documentation, labels, registry=self._registry, buckets=buckets)


@final
class _Watched:
    """A gauge that is asked for when it is read. zeros: what it has where nothing is said."""

    def __init__(self, name: str, text: str, label: str, ask: Callable[[], Mapping[Any, int]], zeros: Mapping[str, int]) -> None:
        self._name, self._text, self._label, self._ask, self._zeros = name, text, label, ask, zeros

    def describe(self) -> list[Metric]:
        return [self._gauge()]

    def collect(self) -> Iterator[Metric]:
        try:
            found = {**self._zeros, **{str(label): value for label, value in self._ask().items()}}
        except CutawayError:
            logging.getLogger("cutaway.service").warning("%s cannot be read", self._name, exc_info=True)
            return
        gauge = self._gauge()
        for label, value in found.items():
            gauge.add_metric([label], value)
        yield gauge

    def _gauge(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(self._name, self._text, labels=[self._label])


@final
class _Lines(logging.Formatter):
    """One JSON object a line, in which no key can be read."""

    def format(self, record: logging.LogRecord) -> str:
        milliseconds = f"{int(record.msecs):03d}Z"
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(record.created)) + milliseconds,
            "level": record.levelname.lower(),
            "logger": record.name,
            "text": record.getMessage(),
        }
        if request := REQUEST.get():
            line["request"] = request
        line |= getattr(record, "data", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return redacted(json.dumps(line, default=str))


@final
class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """A handler of which there is one."""


def logs(level: str = "info") -> None:
    """Write this process's log to stderr as JSON lines: of the server from that level ("debug", "info", "warning", "error"), of all else warnings.

    A line has time (UTC), level, logger, text; request where one is being answered; what was given as `extra={"data": {...}}`; error, a traceback.
    """
    root, handler = logging.getLogger(), _Stderr(sys.stderr)
    handler.setFormatter(_Lines())
    root.handlers = [*(one for one in root.handlers if not isinstance(one, _Stderr)), handler]
    root.setLevel(logging.WARNING)
    for name in _LOUD:
        logging.getLogger(name).setLevel(level.upper())
