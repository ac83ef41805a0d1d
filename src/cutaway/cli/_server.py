"""How commands reach a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from cutaway.errors import ServiceError

URL = "http://127.0.0.1:8000"


_EXTRAS = {"ray": "cluster", "psycopg": "postgres"}


@contextmanager
def installed() -> Iterator[None]:
    """What a block imports is there, or it is said how to install it. Raises ServiceError."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0], "service")
        raise ServiceError("Serve models.", f"no {error.name} here", f"pip install 'cutaway[{extra}]'") from error


def at(command: Callable[..., Any]) -> Any:
    """`--url` and the key, for a command that speaks to a server. The key comes from the environment alone: a command line is read by others."""
    return click.option("--url", default=URL, show_default=True, envvar="CUTAWAY_URL", help="the server's; its key in CUTAWAY_KEY")(command)
