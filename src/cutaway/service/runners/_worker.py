"""A worker process: an inline runner behind a socket. `python -m cutaway.service.runners._worker DESCRIPTOR`; started by `runners.process`.

It ends when its server does, however that ends: the socket closes then.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cutaway.engine.node import Limits
from cutaway.errors import CutawayError
from cutaway.remote.work import Work
from cutaway.service.outcomes import told
from cutaway.service.runners._channel import Channel
from cutaway.service.runners.base import Settings
from cutaway.service.runners.inline import Inline


def serve(channel: Channel) -> None:
    """Do what the server asks, until it is gone. The first message holds the settings."""
    messages = iter(channel)
    first = next(messages)
    settings = Settings(**(first["settings"] | {"limits": Limits(**first["settings"]["limits"])}))
    runner = Inline(settings)
    with ThreadPoolExecutor(settings.streams + 4) as pool:
        for message in messages:
            if message["ask"] == "cancel":
                runner.cancel(message["job"])
                continue
            future = pool.submit(_answer, channel, runner, settings, message)
            future.add_done_callback(partial(_send, channel, message["number"]))
        os._exit(0)  # not waiting for what runs: nobody wants it


def _answer(channel: Channel, runner: Inline, settings: Settings, message: Mapping[str, Any]) -> dict[str, Any]:
    ask = message["ask"]
    if ask == "load":
        nbytes = runner.load(message["model"])
        if settings.memory is not None:
            _bound_memory(settings.memory)
        return {"bytes": nbytes}
    if ask == "run":
        works = {job: Work.from_bytes(blob, len(blob)) for job, blob in message["works"].items()}
        done = runner.run(works, lambda job, kind, data: channel.send({"event": kind, "job": job, "data": data}))
        _refuse_broken_device(settings)
        return {"done": {job: dataclasses.asdict(outcome) for job, outcome in done.items()}}
    if ask == "open":
        return {"stream": runner.open_stream(message["model"])}
    if ask == "send":
        answer = runner.send(message["stream"], message["message"])
        _refuse_broken_device(settings)
        return {"message": answer}
    runner.close_stream(message["stream"])
    return {}


def _send(channel: Channel, number: int, future: Future[dict[str, Any]]) -> None:
    error = future.exception()
    if error is None:
        answer = future.result()
    elif isinstance(error, CutawayError):
        answer = {"error": type(error).__name__, "parts": [error.asked, error.found, error.works]}
    elif isinstance(error, Exception):
        problem = told(error, "")
        answer = {"error": "ServiceError", "parts": [problem["asked"], problem["found"], problem["works"]]}
    else:
        os._exit(1)
    channel.send({"answer": number} | answer)


def _bound_memory(more: int) -> None:
    import resource

    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))


def _refuse_broken_device(settings: Settings) -> None:
    """End the process where an earlier kernel has left the accelerator unusable: whatever ran is lost, and a new worker begins."""
    if settings.device.startswith("cuda"):
        try:
            torch.cuda.synchronize(settings.device)
        except RuntimeError:
            os._exit(1)


if __name__ == "__main__":
    os.dup2(2, 1)  # what anything prints goes where the log goes
    serve(Channel(socket.socket(fileno=int(sys.argv[1]))))
