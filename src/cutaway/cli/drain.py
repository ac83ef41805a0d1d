"""Have a server take nothing new on, and end what runs; what waits stays queued for the next."""

from __future__ import annotations

import click

from cutaway.cli._server import at


@click.command(
    help="Have a server take nothing new on. What runs ends, what waits stays queued for the next server. Needs an administrator's key."
)
@at
def drain(url: str) -> None:
    """See `cutaway drain --help`."""
    from cutaway.remote.client import connect

    connect(url).drain()
    click.echo(f"{url} takes nothing new on.")
