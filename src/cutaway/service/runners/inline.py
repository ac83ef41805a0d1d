"""Runs in this process: one thread a model, and one a stream. For laptops and tests; and what each worker process has inside."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import final

import torch

from cutaway.engine import stopping, wire
from cutaway.engine.model import Model
from cutaway.engine.streaming import Hosted
from cutaway.errors import ServiceError, StreamError
from cutaway.models import opening
from cutaway.remote.work import Work
from cutaway.service.execution import Execution
from cutaway.service.outcomes import Outcome, Stop
from cutaway.service.runners.base import OnEvent, Settings


@final
class _Served:
    """An open model and its thread."""

    def __init__(self, name: str, open: Callable[[str], Model], settings: Settings) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=f"model {name}")
        try:
            self.model = self.thread.submit(open, name).result()
        except BaseException:
            self.thread.shutdown()
            raise
        self.execution = Execution(self.model, settings.limits)
        self.undo = stopping.watch(self.model.module)
        self.bytes = sum(t.numel() * t.element_size() for t in (*self.model.module.parameters(), *self.model.module.buffers()))

    def run(self, works: Mapping[str, Work], on_event: OnEvent, stop: Stop, rehearsed: bool) -> dict[str, Outcome]:
        try:
            running = self.thread.submit(self.execution.run, works, on_event, stop, rehearsed)
        except RuntimeError as error:  # it was unloaded just now
            raise ServiceError(f"Run on {self.model.name}.", "a model that is being let go", "load it again") from error
        return running.result()

    def close(self) -> None:
        self.thread.shutdown()
        self.undo()


@final
class _Stream:
    """A parked forward, and when it has to end."""

    def __init__(self, served: _Served, name: str, settings: Settings) -> None:
        self.model, self.stop, self.lock = name, Stop(settings.seconds), threading.Lock()
        with stopping.asking(self.stop.check):
            self.host = Hosted(served.model, settings.limits, settings.park)

    def send(self, stream: str, message: bytes) -> bytes:
        with self.lock:  # answers come in the order of messages
            self.stop.begin([stream])
            return self.host.send(message)


@final
class Inline:
    """A `Runner` in this process. open: how a model is opened by name, if not by `cut.open`."""

    def __init__(self, settings: Settings | None = None, open: Callable[[str], Model] | None = None) -> None:
        self._settings = settings or Settings()
        self._open = open or partial(opening.open, device=self._settings.device, dtype=self._settings.dtype)
        self._models: dict[str, _Served] = {}
        self._streams: dict[str, _Stream] = {}
        self._running: dict[str, Stop] = {}
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def load(self, model: str) -> int:
        with self._loading:  # transformers' loading is not for several threads at once
            served = self._models.get(model)
            if served is None:
                served = self._models[model] = _Served(model, self._open, self._settings)
            return served.bytes

    def unload(self, model: str) -> None:
        served = self._models.pop(model, None)  # without waiting for another model that is being loaded
        for stream in [id for id, one in list(self._streams.items()) if one.model == model]:
            self.close_stream(stream)
        if served is not None:
            served.close()
            on_cuda = served.model.device.type == "cuda"
            del served
            if on_cuda:
                torch.cuda.empty_cache()

    def loaded(self) -> dict[str, int]:
        return {name: served.bytes for name, served in list(self._models.items())}

    def run(self, works: Mapping[str, Work], on_event: OnEvent, rehearsed: bool = False) -> dict[str, Outcome]:
        served = self._served({work.model for work in works.values()})
        stop = Stop(self._settings.seconds)
        with self._lock:
            self._running |= dict.fromkeys(works, stop)
        try:
            return served.run(works, on_event, stop, rehearsed)
        finally:
            with self._lock:
                for job in works:
                    self._running.pop(job, None)

    def cancel(self, job: str) -> None:
        with self._lock:
            stop = self._running.get(job)
        if stop is not None:
            stop.cancel(job)

    def open_stream(self, model: str) -> str:
        served, stream = self._served({model}), uuid.uuid4().hex
        with self._lock:
            self._streams = {id: one for id, one in self._streams.items() if one.host.open}
            if sum(one.model == model for one in self._streams.values()) >= self._settings.streams:
                raise ServiceError(f"Open a stream on {model}.", f"{self._settings.streams} that are open", "one less, or to wait")
            self._streams[stream] = _Stream(served, model, self._settings)
        return stream

    def send(self, stream: str, message: bytes) -> bytes:
        found = self._streams.get(stream)
        try:
            if found is None:
                raise StreamError("Go on with a stream.", "one that is not open, or was let go", "a new stream")
            return found.send(stream, message)
        except StreamError as error:
            return wire.packed({"error": "StreamError", "parts": [error.asked, error.found, error.works]})

    def close_stream(self, stream: str) -> None:
        with self._lock:
            found = self._streams.pop(stream, None)
        if found is not None:
            found.stop.cancel(stream)  # also in the middle of a message
            found.host.close()

    def close(self) -> None:
        for model in list(self._models):
            self.unload(model)

    def _served(self, models: set[str]) -> _Served:
        if len(models) != 1:
            raise ServiceError("Run works together.", f"those of {len(models)} models", "works of one model")
        (model,) = models
        served = self._models.get(model)
        if served is None:
            raise ServiceError(f"Run on {model}.", "a model that is not open here", "load it first")
        return served
