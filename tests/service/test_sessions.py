"""Sessions belong to their user, keep their model open, and end by themselves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import cutaway as cut
from cutaway.engine import wire
from cutaway.errors import BusyError, CutawayError, ServiceError, StreamError, UnknownNameError
from cutaway.service.runners.base import Settings
from cutaway.service.runners.inline import Inline
from cutaway.service.server import Server
from cutaway.service.sessions import PER_USER, Sessions

NAME = "induction_lm"
Make = Callable[..., Server]


class Over:
    """A transport of `lm.stream` over the sessions of a user."""

    def __init__(self, sessions: Sessions, user: str = "ada") -> None:
        self.sessions, self.user, self.id = sessions, user, sessions.open(user, NAME)

    def send(self, message: bytes) -> bytes:
        return self.sessions.send(self.user, self.id, message)

    def close(self) -> None:
        self.sessions.close(self.user, self.id)


def running(made: Make, park: float = 60.0, **options: Any) -> Server:
    settings = Settings(park=park)
    server = made(Inline(settings), settings=settings, **options)
    server.start()
    return server


def test_a_body_with_control_flow(made: Make, graphs: Any) -> None:
    server, lm = running(made), cut.open(NAME)

    def body(run: Any) -> None:
        if float(lm.layers[0].output.detach().norm()) > 1:
            lm.layers[0].output = lm.layers[0].output / 2
        run.save(logits=lm.logits)

    assert not server.runner.loaded(), "the model is opened when it is asked for"
    with lm.trace(graphs.text(1)) as live:
        body(live)
    with lm.stream(graphs.text(1), to=Over(server.sessions)) as run:
        body(run)
    assert bool((run.saved["logits"] == live.saved["logits"]).all())
    assert server.balances.served("ada") > 0 and server.sessions.models() == frozenset()


def test_a_user_has_so_many_and_no_others(made: Make) -> None:
    server = running(made)
    sessions, ids = server.sessions, [server.sessions.open("ada", NAME) for _ in range(PER_USER)]
    with pytest.raises(BusyError) as busy:
        sessions.open("ada", NAME)
    assert busy.value.retry_after == 5
    with pytest.raises(UnknownNameError) as foreign:
        sessions.send("ben", ids[0], b"")
    with pytest.raises(UnknownNameError) as absent:
        sessions.send("ben", "0" * 32, b"")
    assert str(foreign.value).replace(ids[0], "") == str(absent.value).replace("0" * 32, "")
    with pytest.raises(UnknownNameError):
        sessions.close("ben", ids[0])
    assert sessions.models() == {NAME}
    sessions.close("ada", ids[0])
    with pytest.raises(UnknownNameError):
        sessions.close("ada", ids[0])
    assert sessions.open("ada", NAME) and sessions.open("ben", NAME)


def test_a_session_that_is_not_used_has_ended(made: Make) -> None:
    server = running(made, park=0.1)
    sessions, id = server.sessions, server.sessions.open("ada", NAME)
    other = sessions.open("ada", NAME)
    until = time.monotonic() + 2
    while sessions.models():
        assert time.monotonic() < until
        time.sleep(0.01)
    for gone in (id, other):
        with pytest.raises(UnknownNameError):
            sessions.send("ada", gone, b"")
    assert sessions.open("ada", NAME)
    assert len(server.runner._streams) == 1, "the runner has forgotten them too"  # type: ignore[attr-defined]


def test_one_message_at_a_time(made: Make, graphs: Any) -> None:
    server, lm = running(made), cut.open(NAME)
    over, refused, held = Over(server.sessions), list[CutawayError](), threading.Event()
    send, let = server.runner.send, threading.Event()

    def slowly(stream: str, message: bytes) -> bytes:
        held.set()
        let.wait(5)
        return send(stream, message)

    server.runner.send = slowly  # type: ignore[method-assign]

    def twice() -> None:
        held.wait(5)
        try:
            over.send(b"")
        except BusyError as error:
            refused.append(error)
        let.set()

    thread = threading.Thread(target=twice)
    thread.start()
    with lm.stream(graphs.text(1), to=over) as run:
        run.save(h=lm.embed)
    thread.join()
    assert len(refused) == 1 and run.saved["h"].shape[-1] == lm.sizes.d_model


def test_a_message_that_is_none_is_answered(made: Make) -> None:
    server = running(made)
    over = Over(server.sessions)
    assert "error" in wire.unpacked(over.send(b"no message"), 2**20)
    server.runner.unload(NAME)
    answer = wire.unpacked(over.send(b""), 2**20)
    assert answer["error"] == StreamError.__name__ and "not open" in str(answer["parts"])


def test_a_model_that_does_not_open_in_time_is_not_waited_for(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    server = made()  # which was not started
    monkeypatch.setattr(server.sessions, "_load", 0.05)
    for _ in range(PER_USER + 1):
        with pytest.raises(ServiceError, match="not open after"):
            server.sessions.open("ada", NAME)
    server.start()
    time.sleep(0.1)
    assert not server.runner.loaded() and not server.dispatcher._wants, "nobody waits for it any more"


def test_a_model_stays_from_when_it_is_opened_for_a_session(made: Make) -> None:
    server = running(made)
    opened, began, let = server.runner.open_stream, threading.Event(), threading.Event()

    def slowly(model: str) -> str:
        began.set()
        let.wait(5)
        return opened(model)

    server.runner.open_stream = slowly  # type: ignore[method-assign]
    thread = threading.Thread(target=server.sessions.open, args=("ada", NAME))
    thread.start()
    assert began.wait(5) and server.sessions.models() == {NAME}
    let.set()
    thread.join()
    assert server.sessions.models() == {NAME}
    server.stop()
    with pytest.raises(BusyError, match="shut down"):
        server.sessions.open("ben", NAME)
