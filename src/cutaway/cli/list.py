"""List the methods, tasks, metrics and whatever else is installed."""

from __future__ import annotations

import json

import click

from cutaway import registry

SHOWN = ("methods", "tasks", "metrics", "mediators", "studies", "benchmarks", "zoo", "results")


@click.command(name="list", help="List what is installed: all kinds, or one KIND of " + ", ".join(SHOWN) + ".")
@click.argument("kind", required=False)
@click.option("--json", "as_json", is_flag=True, help="print as JSON")
def list(kind: str | None, as_json: bool) -> None:
    """See `cutaway list --help`."""
    kinds = SHOWN if kind is None else (kind,)
    found = {k: {name: registry.summary(k, name) for name in registry.names(k)} for k in kinds}
    if as_json:
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for k, things in found.items():
        formatter = click.HelpFormatter(width=110)
        with formatter.section(k):
            formatter.write_dl([(name, summary) for name, summary in things.items()] or [("none", "")])
        click.echo(formatter.getvalue())
