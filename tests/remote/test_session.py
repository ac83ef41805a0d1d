"""A body whose Python needs values runs here, its forward there; sessions end, and say so."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import cutaway as cut
from cutaway.errors import OutOfOrderError, StreamError, UnknownNameError
from cutaway.models.language import LanguageModel
from cutaway.remote.client import Remote
from cutaway.remote.connection import Connection
from cutaway.remote.model import RemoteModel
from cutaway.remote.session import Session
from cutaway.service.runners.base import Settings

TEXT = "red blue gold red blue"


def halved(lm: Any, run: Any) -> int:
    """As often as it takes for the first block's output to become small."""
    h, rounds = lm.layers[0].output, 0
    while h.norm() > 1:
        h, rounds = h / 2, rounds + 1
    lm.layers[0].output = h
    run.save(logits=lm.logits, rounds=rounds)
    return rounds


def test_a_body_with_a_loop(far: RemoteModel, here: LanguageModel) -> None:
    with far.stream(TEXT) as run:
        rounds = halved(far, run)
    with here.trace(TEXT) as live:
        assert halved(here, live) == rounds > 1
    assert torch.equal(run.saved["logits"], live.saved["logits"]) and run.saved["rounds"] == rounds


def test_a_generation(far: RemoteModel, here: LanguageModel) -> None:
    with far.stream(TEXT, fn=far.generation(new_tokens=3)) as run:
        for _ in run.steps:
            if far.layers[0].output[0, -1].norm() > 0:
                far.layers[0].output = far.layers[0].output * 1.5
        run.save(ids=run.output)
    with here.generate(TEXT, new_tokens=3) as live:
        for _ in live.steps:
            here.layers[0].output = here.layers[0].output * 1.5
    assert torch.equal(run.saved["ids"], live.output)


def test_errors_there_are_raised_here_and_the_session_is_closed(far: RemoteModel) -> None:
    for _ in range(3):  # more than a user may have open
        with pytest.raises(OutOfOrderError), far.stream(TEXT):
            float(far.logits.sum())
            float(far.layers[0].output.sum())
    with pytest.raises(KeyError), far.stream(TEXT):
        float(far.embed.sum())
        raise KeyError("mine")
    with far.stream(TEXT) as run:
        run.save(h=far.embed)


def test_a_model_that_is_not_there(url: str) -> None:
    connection = Connection(url)
    with pytest.raises(UnknownNameError, match="no_such"):
        Session(connection, "no_such").send(b"")
    connection.close()


def test_a_forward_that_was_let_go(serve: Any) -> None:
    with serve(settings=Settings(park=0.2)) as (url, server, _), cut.connect(url) as remote:
        lm = remote.open("induction_lm")
        with pytest.raises(StreamError, match=r"let go|new stream"), lm.stream(TEXT):
            float(lm.embed.sum())
            while server.sessions.models():
                pass
            float(lm.layers[0].output.sum())


def test_nothing_is_begun_before_the_first_message(far: RemoteModel, remote: Remote) -> None:
    for _ in range(5):
        far.stream(TEXT)
    with far.stream(TEXT) as run:
        run.save(h=far.embed)
    assert run.saved["h"].shape[-1] == far.sizes.d_model
