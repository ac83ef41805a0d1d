"""An error of the user's is told in full; of the server's own, an id; work that has to end says why."""

from __future__ import annotations

import logging
import time

import pytest
import torch

from cutaway.errors import GraphError, ServiceError
from cutaway.service.outcomes import Outcome, Stop, Telling, told


def test_errors_of_the_user_carry_their_line() -> None:
    for asked in ("Tensor.mul at my study.py:12.", "Node 3 of an intervention graph, Tensor.mul (my study.py:12)."):
        found = told(GraphError(asked, "a shape", "another"), "j")
        assert (found["type"], found["found"], found["works"]) == ("graph-error", "a shape", "another")
        assert found["line"].endswith("study.py:12")
    assert told(GraphError("Read an intervention graph.", "3 bytes", "more"), "j")["line"] == ""


@pytest.mark.parametrize(("error", "kind"), [(KeyError("secret"), "internal"), (torch.OutOfMemoryError("secret"), "out-of-memory")])
def test_errors_of_the_server_stay_in_its_log(error: Exception, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "cutaway.service"):
        found = told(error, "job-7")
    assert found["type"] == kind and "secret" not in str(found)
    assert found["id"] in caplog.text and "job-7" in caplog.text and "secret" in caplog.text


def test_an_interrupt_is_no_outcome() -> None:
    with pytest.raises(KeyboardInterrupt), Telling("j", {}, Stop()):
        raise KeyboardInterrupt


def test_cancelled_jobs_end_when_all_that_runs_is_cancelled() -> None:
    stop, done = Stop(), dict[str, Outcome]()
    stop.cancel("a")
    stop.begin(["a", "b"])
    stop.check()
    stop.cancel("b")
    with Telling("a", done, stop):
        stop.check()
    assert (done["a"].problem or {})["type"] == "cancelled"
    stop.begin(["c"])
    stop.check()
    assert stop.problem("c") is None


def test_time_is_counted_for_each_turn() -> None:
    stop = Stop(0.05)
    for _ in range(2):
        stop.begin(["a"])
        stop.check()
        time.sleep(0.06)
        with pytest.raises(ServiceError, match=r"0\.05 seconds"):
            stop.check()
        assert (stop.problem("a") or {})["type"] == "time-limit"
