"""A worker process: an inline runner behind a socket. `python -m cutaway.service.runners._worker DESCRIPTOR`; started by `runners.process`.

It ends when its server does, however that ends: the socket closes then.
"""

from __future__ import annotations

import os
import socket
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from cutaway.service.runners._answers import answer, settings_of
from cutaway.service.runners._channel import Channel
from cutaway.service.runners.inline import Inline


def serve(channel: Channel) -> None:
    """Do what the server asks, until it is gone. The first message holds the settings."""
    messages = iter(channel)
    settings = settings_of(next(messages)["settings"])
    runner = Inline(settings)
    with ThreadPoolExecutor(settings.streams + 4) as pool:
        for message in messages:
            if message["ask"] == "cancel":
                runner.cancel(message["job"])
                continue
            future = pool.submit(answer, runner, settings, message, channel.send)
            future.add_done_callback(partial(_send, channel, message["number"]))
        os._exit(0)  # not waiting for what runs: nobody wants it


def _send(channel: Channel, number: int, future: Future[dict[str, Any]]) -> None:
    if future.exception() is not None:
        os._exit(1)
    channel.send({"answer": number} | future.result())


if __name__ == "__main__":
    os.dup2(2, 1)  # what anything prints goes where the log goes
    serve(Channel(socket.socket(fileno=int(sys.argv[1]))))
