"""Run one method on a task and print, save or draw its result."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import click

from cutaway import registry
from cutaway.cli._options import options
from cutaway.errors import UnknownNameError

MODEL = "smollm2-135m"
"""The model a command opens unless told otherwise."""


class _Methods(click.Group):
    """Every method of the registry as a command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(registry.names("methods"))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Methods"):
            formatter.write_dl([(name, registry.summary("methods", name)) for name in self.list_commands(ctx)])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in registry.names("methods") and not args[0].startswith("-"):
            raise UnknownNameError("method", args[0], registry.names("methods"))
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in registry.names("methods"):
            return None
        return command(registry.load("methods", cmd_name), cmd_name)


def command(method: Any, name: str) -> click.Command:
    """A function of a model and a task as a command, with a flag for each of its options."""
    ours = [
        click.Option(["--model"], default=MODEL, show_default=True, help="a name, folder, .gguf file or hub id"),
        click.Option(["--task"], required=True, help="a task and its arguments, such as facts:relation=capital,n=20"),
        click.Option(["--out"], type=click.Path(path_type=Path), help="where to save: .json (with .safetensors beside it), .html or .png"),
        click.Option(["--json", "as_json"], is_flag=True, help="print the whole result as JSON"),
    ]
    # \b keeps click from refilling a paragraph
    help_text = "\n\n".join(f"\b\n{paragraph}" for paragraph in (inspect.getdoc(inspect.getmodule(method)) or "").split("\n\n"))

    def call(model: str, task: str, out: Path | None, as_json: bool, **chosen: Any) -> None:
        from cutaway.models.opening import open

        show(method(open(model), task, **chosen), out, as_json)

    return click.Command(name, callback=call, params=[*ours, *options(method)], help=help_text, context_settings={"max_content_width": 150})


def show(result: Any, out: Path | None, as_json: bool) -> None:
    """Print a result, and save it where that is asked for."""
    from cutaway.cli.view import write

    if out is not None:
        click.echo(f"Saved {write(result, out)}", err=True)
    click.echo(result.to_json() if as_json else result.text())


@click.group(cls=_Methods, help="Run one method on a task and print, save or draw its result.")
def run() -> None:
    """Flags of each method: `cutaway run METHOD --help`."""
