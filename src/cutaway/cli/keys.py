"""Issue, list, rotate and revoke the keys of a server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from cutaway.cli._server import installed

DAY = 86_400.0
_WHERE = [
    click.option("--folder", type=click.Path(path_type=Path), help="the server's folder, as given to `cutaway serve`"),
    click.option("--database", default="", envvar="CUTAWAY_DATABASE", help="postgresql://..., as given to `cutaway serve`"),
]


def _of_a_server(command: Any) -> Any:
    for option in reversed(_WHERE):
        command = option(command)
    return command


@contextmanager
def _keys(folder: Path | None, database: str) -> Iterator[Any]:
    with installed():
        from cutaway.service.keys import Keys
        from cutaway.service.serving import FOLDER, Site, tables

        opened = tables(Site((), folder=folder or FOLDER, database=database))
    try:
        yield Keys(opened)
    finally:
        opened.close()


@click.group(help="Keys of a server, on the machine that has its folder. A key can be read once: when it is issued.")
def keys() -> None:
    """See `cutaway keys --help`."""


@keys.command(help="Issue a key for USER, and print it. Nobody can print it again.")
@click.argument("user")
@click.option(
    "--scope", "scopes", multiple=True, default=("run",), show_default=True, help="run, publish, admin; may be given several times"
)
@click.option("--days", type=float, help="for which it is good; for ever unless given")
@_of_a_server
def issue(user: str, scopes: tuple[str, ...], days: float | None, folder: Path | None, database: str) -> None:
    """See `cutaway keys issue --help`."""
    with _keys(folder, database) as found:
        click.echo(found.issue(user, scopes, None if days is None else time.time() + days * DAY).text)


@keys.command(name="list", help="List keys, without their secrets.")
@click.option("--user", help="of this user only")
@click.option("--json", "as_json", is_flag=True, help="print as JSON")
@_of_a_server
def listed(user: str | None, as_json: bool, folder: Path | None, database: str) -> None:
    """See `cutaway keys list --help`."""
    with _keys(folder, database) as found:
        known = found.find(user)
    if as_json:
        told = [{"id": k.id, "user": k.user, "scopes": sorted(k.scopes), "created": k.created, "expires": k.expires} for k in known]
        click.echo(json.dumps(told, indent=1))
        return
    for key in known:
        end = "for ever" if key.expires is None else "until " + time.strftime("%Y-%m-%d %H:%M", time.localtime(key.expires))
        old = key.expires is not None and key.expires <= time.time()
        click.echo(f"{key.id}  {key.user:<20} {' '.join(sorted(key.scopes)):<18} {'no more' if old else end}")


@keys.command(help="Issue a key like the key ID, and print it. The old one stays good for a while.")
@click.argument("id")
@click.option("--days", default=1.0, show_default=True, help="for which the old key stays good")
@_of_a_server
def rotate(id: str, days: float, folder: Path | None, database: str) -> None:
    """See `cutaway keys rotate --help`."""
    with _keys(folder, database) as found:
        click.echo(found.rotate(id, days * DAY).text)


@keys.command(help="Let the key ID be good no more, from now.")
@click.argument("id")
@_of_a_server
def revoke(id: str, folder: Path | None, database: str) -> None:
    """See `cutaway keys revoke --help`."""
    with _keys(folder, database) as found:
        found.revoke(id)
    click.echo(f"{id} is good no more.")
