"""Runs each model in an application of its own on Ray Serve, which finds it a machine, watches it, and starts it again where it dies.

Inside the application is one replica with an inline runner; the server calls it by handle, so that nothing listens for HTTP. A question and its
answers cross as the bytes that `engine.wire` packs. Ray pickles its own calls, and whoever reaches its ports can run code: keep them private and
token authentication on. Of what users send, Ray sees bytes only.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, final

import ray
import torch
from ray import serve
from ray._private import ray_constants
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from cutaway.engine import wire
from cutaway.errors import InputError, ServiceError
from cutaway.service.runners._answers import answer, settings_of
from cutaway.service.runners._workers import GONE, Workers, raised
from cutaway.service.runners.base import OnEvent, Settings
from cutaway.service.runners.inline import Inline

_LOG = logging.getLogger("cutaway.service")
_LARGEST = 2**40
_NAME = "cutaway"
_LOOPBACK = "127.0.0.1"
_SILENCE = 0.5
_SWITCH = 3e-4  # seconds; with Python's 5 ms the threads of Ray and of the model wait for one another: a run of 6 ms takes 11 to 23
_QUIET = {"enable_access_log": False, "log_level": "WARNING"}


@final
class _Replica:
    """The inside of an application: one model, opened from the start. Questions are answered in threads, so that each finds it listening.

    threads: of torch on a CPU; None leaves that to Ray.
    """

    def __init__(self, model: str, settings: bytes, threads: int | None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        sys.setswitchinterval(_SWITCH)
        self._settings = settings_of(wire.unpacked(settings, _LARGEST))
        self._runner = Inline(self._settings)
        self._load = {"ask": "load", "model": model}
        self._pool = ThreadPoolExecutor(self._settings.streams + 8)
        self._pool.submit(self._answer, self._load, _unheard)  # where this fails, it is tried again when it is asked for

    async def ask(self, question: bytes) -> bytes:
        """One question, one answer."""
        asked = wire.unpacked(question, _LARGEST)
        if asked["ask"] == "cancel":  # at once, however many threads are taken
            return wire.packed(self._answer(asked, _unheard))
        return wire.packed(await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, asked, _unheard))

    async def tell(self, question: bytes) -> AsyncIterator[bytes]:
        """What happens while a question is answered, then the answer."""
        loop, events = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None]()

        def heard(event: dict[str, Any] | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        answering = loop.run_in_executor(self._pool, self._answer, wire.unpacked(question, _LARGEST), heard)
        answering.add_done_callback(lambda _: events.put_nowait(None))
        while (event := await events.get()) is not None:
            yield wire.packed(event)
        yield wire.packed(await answering)

    def _answer(self, question: dict[str, Any], heard: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        found = answer(self._runner, self._settings, question, heard)
        if question["ask"] == "load" and "error" not in found:
            found["actor"] = ray.get_runtime_context().get_actor_name()
        return found


def _unheard(event: dict[str, Any]) -> None:
    return None


@final
class _Application:
    """An application with one model, as the server sees it. Serve replaces its replica, so that it is always alive.

    local: on this machine, with as many threads as this process has; else with the processor that Ray gives it.
    """

    alive = True

    def __init__(self, model: str, name: str, settings: Settings, local: bool) -> None:
        self.model, self.listeners, self._name = model, dict[str, OnEvent](), name
        self._actor, self._heard_from = "", 0.0
        self._pool = ThreadPoolExecutor(settings.streams + 8, thread_name_prefix=f"application {model}")
        on_gpu = settings.device.startswith("cuda")
        deployment: Any = serve.deployment(
            _Replica,
            name="model",
            num_replicas=1,
            max_ongoing_requests=10_000,  # the runner has bounds of its own, and a cancel must not wait
            ray_actor_options={"num_cpus": int(not local), "num_gpus": int(on_gpu)},
            health_check_period_s=1.0,  # how soon a dead one is replaced
            graceful_shutdown_wait_loop_s=0.1,
            graceful_shutdown_timeout_s=settings.grace,
            logging_config=_QUIET,
        )
        device = "cuda" if on_gpu else settings.device  # Ray shows a replica its own GPU alone
        plain = wire.packed(dataclasses.asdict(dataclasses.replace(settings, device=device)))
        inside = deployment.bind(model, plain, torch.get_num_threads() if local else None)
        target = serve.RunTarget(inside, name, route_prefix=None, logging_config=_QUIET)
        self._handle: Any = serve.run_many([target], wait_for_applications_running=False)[0]

    @property
    def silent(self) -> bool:
        """Whether nothing was heard from it for a while: it may be another by now."""
        return time.monotonic() - self._heard_from > _SILENCE

    def wait(self, seconds: float) -> None:
        """Until it has a place. Raises ServiceError where it has none after so long."""
        until = time.monotonic() + seconds
        while (found := serve.status().applications[self._name]).status != "RUNNING":
            if found.status == "DEPLOY_FAILED" or time.monotonic() > until:
                why = found.message or f"no place after {seconds:g} seconds"
                raise ServiceError(f"Open {self.model}.", why[:300], "a cluster with a machine that has room for it")
            time.sleep(0.1)

    def ask(self, ask: str, **question: Any) -> Future[dict[str, Any]]:
        try:
            return self._pool.submit(self._asked, {"ask": ask, **question})
        except RuntimeError:  # it was closed
            closed: Future[dict[str, Any]] = Future()
            closed.set_result(GONE)
            return closed

    def tell(self, ask: str, **question: Any) -> None:
        with contextlib.suppress(RayError, RayServeException):  # it is gone
            self._handle.ask.remote(wire.packed({"ask": ask, **question}))

    def kill(self) -> None:
        """End the replica that was alive when it was last asked to load; the one after it is left alone."""
        with contextlib.suppress(ValueError, RayError):  # it is gone
            for one in ray.util.list_named_actors(all_namespaces=True):
                if one["name"] == self._actor:
                    ray.kill(ray.get_actor(**one))

    def close(self) -> None:
        with contextlib.suppress(RayError, RayServeException):  # the cluster is gone
            serve.delete(self._name)
        self._pool.shutdown()

    def _asked(self, question: dict[str, Any]) -> dict[str, Any]:
        blob = wire.packed(question)
        try:
            if question["ask"] == "run":
                found = self._hear(blob)
            else:
                found = wire.unpacked(self._handle.ask.remote(blob).result(), _LARGEST)
        except (RayError, RayServeException) as error:
            _LOG.warning("the replica of %s did not answer: %s", self.model, error)
            self._heard_from = 0.0
            return GONE
        self._actor = found.get("actor", self._actor)
        self._heard_from = time.monotonic()
        return found

    def _hear(self, blob: bytes) -> dict[str, Any]:
        for one in self._handle.options(stream=True).tell.remote(blob):
            found = wire.unpacked(one, _LARGEST)
            if "event" not in found:
                return found
            listener = self.listeners.get(found["job"])
            if listener is not None:
                listener(found["job"], found["event"], found["data"])
        return GONE


@final
class Ray(Workers[_Application]):
    """A `Runner` on Ray Serve. A model gets a whole GPU where `settings.device` is "cuda".

    address: of a cluster to join ("auto", "ray-head:6379"), of which this machine is part; None starts one on this machine, which ends with this
    process. name: of this server on its cluster, which no other has: applications that an earlier server left under it are deleted. room: seconds
    that a model may wait for a machine. Raises ServiceError where Ray cannot be started or joined.
    """

    def __init__(self, settings: Settings | None = None, *, address: str | None = None, name: str = _NAME, room: float = 900.0) -> None:
        super().__init__(settings)
        if not name.replace("-", "").isalnum():
            raise InputError("Run on Ray.", f"the name {name!r}"[:120], "letters, digits and hyphens")
        self._local, self._name, self._room = address is None, name, room
        self._mine = not ray.is_initialized()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            if self._mine:
                _join(address)
            serve.start(proxy_location="Disabled", logging_config=_QUIET)
            logging.getLogger("ray.serve").handlers.clear()  # those of the process remain
            logging.getLogger("ray.serve").setLevel(logging.WARNING)
            for left in serve.status().applications:
                if left.startswith(f"{name}."):
                    serve.delete(left)
        except BaseException as error:
            self._leave()
            if not isinstance(error, (RayError, RayServeException, OSError, RuntimeError, ValueError)):
                raise
            found = f"{type(error).__name__}: {error}"[:300]
            raise ServiceError("Run on Ray.", found, "the address of a cluster, and its token; or no address") from error

    def close(self) -> None:
        super().close()
        self._leave()

    def _start(self, model: str) -> _Application:
        name = f"{self._name}.{hashlib.sha256(model.encode()).hexdigest()[:16]}"
        application = _Application(model, name, self._settings, self._local)
        try:
            application.wait(self._room)
        except BaseException:
            application.close()
            raise
        return application

    def _worker(self, model: str) -> _Application:
        """Where the replica has died, this waits for the next one, however long its model takes to open; a turn's time begins after that."""
        application = super()._worker(model)
        if application.silent:
            raised(application.ask("load", model=model).result(), f"Open {model}.")
        return application

    def _leave(self) -> None:
        if self._mine and ray.is_initialized():
            if self._local:
                serve.shutdown()
            ray.shutdown()


def _join(address: str | None) -> None:
    """Start or join a cluster; what Ray logs here goes where the server's log goes."""
    if address is not None:
        ray.init(address, configure_logging=False)
    elif os.environ.get("RAY_AUTH_MODE", "token") == "disabled":
        raise ServiceError("Run on Ray.", "RAY_AUTH_MODE=disabled", "RAY_AUTH_MODE=token, or unset: without it anybody may run code here")
    else:
        before = ray_constants.ENABLE_RAY_CLUSTER
        ray_constants.ENABLE_RAY_CLUSTER = False  # Ray's own switch for "this machine only": its ports are then on the loopback address
        try:
            ray.init("local", include_dashboard=False, configure_logging=False)
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = before
        if (found := ray.util.get_node_ip_address()) != _LOOPBACK:
            raise ServiceError("Run on Ray.", f"a start that listens on {found}", f"a release of Ray that can start on {_LOOPBACK} alone")
