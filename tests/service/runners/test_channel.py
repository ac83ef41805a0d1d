"""Messages arrive whole and in order, and closing at any moment ends the reading without an error."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
import torch

from cutaway.service.runners._channel import Channel


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Channel(ours), Channel(theirs)


def test_messages_arrive_in_order(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    big = torch.arange(100_000.0)  # more than a socket holds at once
    sender = threading.Thread(target=lambda: [here.send({"n": n, "tensor": big}) for n in range(3)])
    sender.start()
    messages = iter(there)
    for n in range(3):
        message = next(messages)
        assert message["n"] == n and torch.equal(message["tensor"], big)
    sender.join()
    here.close()
    assert not list(messages)


def test_closed_between_two_messages(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    there.send({"n": 0})
    there.send({"n": 1})
    seen = []
    for message in here:
        seen.append(message["n"])
        here.close()  # as another thread may, while this one is not reading
    assert seen[0] == 0 and seen == list(range(len(seen)))
    here.close()
    with pytest.raises(OSError):
        here.send({"n": 2})
    assert not list(there)


def test_closed_while_the_other_thread_waits(ends: tuple[Channel, Channel]) -> None:
    here, _there = ends
    seen = list[object]()
    reader = threading.Thread(target=lambda: seen.append(list(here)))
    reader.start()
    here.close()
    reader.join(10)
    assert seen == [[]]


def test_half_a_message_is_none() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall((100).to_bytes(8, "little") + b"half")
    assert not list(Channel(theirs))
