"""A server on a port of this machine, with the inline runner: one for all tests that leave it as it was, and others to be broken."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import cutaway as cut
from cutaway.models.language import LanguageModel
from cutaway.remote.client import Remote
from cutaway.remote.model import RemoteModel
from cutaway.service.api import app
from cutaway.service.keys import Keys
from cutaway.service.server import Server
from cutaway.service.serving import Site, opened

NAME = "induction_lm"
Served = Callable[..., contextlib.AbstractContextManager[tuple[str, Server, Keys]]]


@contextlib.contextmanager
def served(models: tuple[str, ...] = (NAME,), keys: bool = False, **options: Any) -> Iterator[tuple[str, Server, Keys]]:
    """Its address, the server, its keys, until the block ends."""
    with tempfile.TemporaryDirectory() as folder, opened(Site(models, folder=Path(folder), **options)) as (server, kept):
        config = uvicorn.Config(app(server, kept if keys else None), log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            web = uvicorn.Server(config)
            thread = threading.Thread(target=web.run, args=([listening],), daemon=True)
            thread.start()
            while not web.started:
                time.sleep(0.005)
            try:
                yield f"http://127.0.0.1:{listening.getsockname()[1]}", server, kept
            finally:
                web.should_exit = True
                thread.join()


@pytest.fixture(scope="session")
def serve() -> Served:
    """`with serve(("induction_lm",), keys=True) as (url, server, keys):`."""
    return served


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """The address of a server without keys, with the zoo's induction model."""
    with served() as (address, _, _):
        yield address


@pytest.fixture(scope="session")
def remote(url: str) -> Iterator[Remote]:
    with cut.connect(url) as connected:
        yield connected


@pytest.fixture(scope="session")
def far(remote: Remote) -> RemoteModel:
    """The induction model, there."""
    return remote.open(NAME)


@pytest.fixture(scope="session")
def here() -> LanguageModel:
    """The same, here."""
    lm: LanguageModel = cut.open(NAME)
    return lm
