"""Run a benchmark of methods: `cutaway bench mib circuits`."""

from __future__ import annotations

from pathlib import Path

import click

from cutaway import registry
from cutaway.cli.run import command, show


class _Tracks(click.Group):
    """The tracks of one benchmark, from the registry; its leaderboard, which is made of their tables."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name.partition(".")[2] for name in registry.names("benchmarks") if name.startswith(f"{self.name}.")]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, registry.summary("benchmarks", f"{self.name}.{name}")) for name in self.list_commands(ctx)])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        track = registry.load("benchmarks", f"{self.name}.{cmd_name}")
        return leaderboard if cmd_name == "leaderboard" else command(track, cmd_name)


@click.command(name="leaderboard", help="Put tables of one track side by side: saved with --out TABLE.json, given as TABLES.")
@click.argument("tables", nargs=-1, required=True)
@click.option("--column", help="what is compared; the first column unless told otherwise")
@click.option("--out", type=click.Path(path_type=Path), help="where to save: .json (with .safetensors beside it), .html or .png")
@click.option("--json", "as_json", is_flag=True, help="print the whole result as JSON")
def leaderboard(tables: tuple[str, ...], column: str | None, out: Path | None, as_json: bool) -> None:
    """See `cutaway bench mib leaderboard --help`."""
    show(registry.load("benchmarks", "mib.leaderboard")(tables, column=column), out, as_json)


@click.group(help="Run a benchmark of methods: methods by tasks by models, in tables.")
def bench() -> None:
    """Tracks: `cutaway bench mib --help`."""


@bench.group(name="mib", cls=_Tracks, help="MIB: does a method find the circuit, and the variables in it? (arXiv 2504.13151)")
def mib() -> None:
    """Flags of each track: `cutaway bench mib TRACK --help`."""
