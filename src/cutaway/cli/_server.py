"""How commands reach a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

URL = "http://127.0.0.1:8000"


def at(command: Callable[..., Any]) -> Any:
    """`--url` and the key, for a command that speaks to a server. The key comes from the environment alone: a command line is read by others."""
    return click.option("--url", default=URL, show_default=True, envvar="CUTAWAY_URL", help="the server's; its key in CUTAWAY_KEY")(command)
