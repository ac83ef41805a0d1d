"""What a server asks a worker, as plain data, and what the worker answers: the same over a socket and over Ray.

A question has `ask`, and what belongs to it; an answer has what was asked for, or `error`, the class of an error, and `parts`, its message.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from cutaway.engine.node import Limits
from cutaway.errors import CutawayError
from cutaway.remote.work import Work
from cutaway.service.outcomes import told
from cutaway.service.runners.base import Settings
from cutaway.service.runners.inline import Inline


def settings_of(data: Mapping[str, Any]) -> Settings:
    """The settings of which `dataclasses.asdict` made this."""
    return Settings(**{**data, "limits": Limits(**data["limits"])})


def answer(runner: Inline, settings: Settings, question: Mapping[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Answer a question with a runner of this process. tell: takes events while it runs, from any thread."""
    try:
        return _answer(runner, settings, question, tell)
    except CutawayError as error:
        return {"error": type(error).__name__, "parts": [error.asked, error.found, error.works]}
    except Exception as error:
        problem = told(error, "")
        return {"error": "ServiceError", "parts": [problem["asked"], problem["found"], problem["works"]]}


def _answer(runner: Inline, settings: Settings, question: Mapping[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    ask = question["ask"]
    if ask == "load":
        before, nbytes = runner.loaded(), runner.load(question["model"])
        if settings.memory is not None and question["model"] not in before:
            _bound_memory(settings.memory)
        return {"bytes": nbytes}
    if ask == "run":
        works = {job: Work.from_bytes(blob, len(blob)) for job, blob in question["works"].items()}
        done = runner.run(works, lambda job, kind, data: tell({"event": kind, "job": job, "data": data}), bool(question.get("rehearsed")))
        _refuse_broken_device(settings)
        return {"done": {job: dataclasses.asdict(outcome) for job, outcome in done.items()}}
    if ask == "cancel":
        runner.cancel(question["job"])
        return {}
    if ask == "open":
        return {"stream": runner.open_stream(question["model"])}
    if ask == "send":
        reply = runner.send(question["stream"], question["message"])
        _refuse_broken_device(settings)
        return {"message": reply}
    runner.close_stream(question["stream"])
    return {}


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
