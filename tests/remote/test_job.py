"""A job can be waited for, left, found again, cancelled; what went wrong with it is raised here as the error it was there."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch

import cutaway as cut
from cutaway.engine.graph import Graph
from cutaway.engine.node import Node
from cutaway.errors import GraphError, InputError, ServiceError, UnknownNameError
from cutaway.remote.client import Remote
from cutaway.remote.job import finished
from cutaway.remote.model import RemoteModel
from cutaway.results.base import Result

TEXT = "red blue gold red blue"


def busy(lm: Any, run: Any, seed: int) -> None:
    """Many operations, for ten seconds."""
    h = lm.layers[0].output[0, :1, :1].expand(1500, 1500) * (1e-3 + seed * 1e-6)
    for _ in range(200):
        h = h @ h
    run.save(h=h.sum())


def begun(far: RemoteModel, seed: int) -> Any:
    with far.trace(TEXT, wait=False) as run:
        busy(far, run, seed)
    assert run.job is not None
    return run.job


def test_waiting_leaving_and_finding_again(far: RemoteModel, url: str) -> None:
    job = begun(far, 1)
    assert job.wait(0.05) in ("queued", "loading", "running") and not job.ended
    with cut.connect(url) as again:
        same = again.job(job.id)
        assert same.state != "done" and same.told["kind"] == "graph" and job.id in repr(same)
        assert any(one.id == job.id for one in again.jobs())
        same.cancel()
    assert job.wait() == "cancelled"
    with pytest.raises(ServiceError, match="cancelled"):
        job.result()


def test_events_until_the_end(far: RemoteModel) -> None:
    events = list(far.submit("read.logit_lens", "induction:n=3,length=6", seed=41).events())
    assert [one.data["state"] for one in events if one.type == "state"][-1] == "done"
    assert [one.number for one in events] == sorted({one.number for one in events})


def test_a_method(far: RemoteModel) -> None:
    job = far.submit("read.logit_lens", "induction:n=3,length=6", seed=42)
    assert isinstance(job.result(), Result) and job.told["method"] == "read.logit_lens" and job.state == "done"


def test_an_error_there_is_the_error_here(far: RemoteModel) -> None:
    with pytest.raises(UnknownNameError, match="causal_trace"):
        far.submit("locate.causal_trac", "induction:n=3,length=6")
    with pytest.raises(UnknownNameError, match="induction"):
        far.submit("read.logit_lens", "inductoin:n=3").result()
    with pytest.raises(InputError, match="window"):
        far.submit("locate.causal_trace", "induction:n=3", window="wide")
    graph = Graph((Node("read", ("layers[0].output",), {}, "study.py:3"), Node("Tensor.view", ({"ref": [0]}, 3), {}, "study.py:4")))
    with pytest.raises(GraphError) as raised:
        far.replay(graph, TEXT)
    assert "study.py:4" in "".join([str(raised.value), *getattr(raised.value, "__notes__", [])])


def test_who_interrupts_ends_the_job(far: RemoteModel) -> None:
    job = begun(far, 2)

    class Interrupted:
        def result(self) -> Any:
            raise KeyboardInterrupt

        cancel = job.cancel

    with pytest.raises(KeyboardInterrupt):
        finished(Interrupted())  # type: ignore[arg-type]
    assert job.wait(20) == "cancelled"


def test_threads_share_a_model(far: RemoteModel) -> None:
    found: dict[int, Any] = {}

    def one(number: int) -> None:
        with far.trace(TEXT) as run:
            far.layers[0].output = far.layers[0].output * number
            run.save(logits=far.logits[0, -1])
        found[number] = run.saved["logits"]

    threads = [threading.Thread(target=one, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 4 and not torch.equal(found[1], found[2])


def test_no_such_job(remote: Remote) -> None:
    started = time.monotonic()
    for id in ("0" * 32, "../models", "x"):
        with pytest.raises(UnknownNameError):
            remote.job(id)
    assert time.monotonic() - started < 5
