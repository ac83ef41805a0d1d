"""List the jobs on a server, follow one, fetch its result, or cancel it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from cutaway.cli._server import at


def _job(url: str, id: str) -> Any:
    from cutaway.remote.client import connect

    return connect(url).job(id)


@click.group(help="Jobs on a server.")
def jobs() -> None:
    """See `cutaway jobs --help`."""


@jobs.command(name="list", help="List your jobs, newest first.")
@click.option("--state", help="of one state only, such as running")
@click.option("--limit", default=20, show_default=True)
@click.option("--all", "everybody", is_flag=True, help="those of every user, for an administrator")
@click.option("--json", "as_json", is_flag=True, help="print as JSON")
@at
def listed(state: str | None, limit: int, everybody: bool, as_json: bool, url: str) -> None:
    """See `cutaway jobs list --help`."""
    from cutaway.remote.client import connect

    found = [job.told for job in connect(url).jobs(state, limit, everybody=everybody)]
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for told in found:
        when = time.strftime("%m-%d %H:%M", time.localtime(told["accepted"]))
        where = f"{told['position']} in the queue" if told["position"] else f"{told['seconds']:.2f} s"
        click.echo(f"{told['id']}  {when}  {told['state']:<10} {told['model']:<20} {told['method'] or 'graph':<32} {where}")


@jobs.command(help="Say where job ID stands, and follow it until it has ended.")
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="print where it stands now, as JSON, and do not follow it")
@at
def show(id: str, as_json: bool, url: str) -> None:
    """See `cutaway jobs show --help`."""
    job = _job(url, id)
    if as_json:
        click.echo(json.dumps(job.told, indent=1))
        return
    for event in job.events():
        click.echo(f"{time.strftime('%H:%M:%S', time.localtime(event.time))}  {event.type:<9} {_said(event.data)}")


@jobs.command(help="Fetch the result of job ID: of a method to print, save or draw; of a graph to save.")
@click.argument("id")
@click.option("--out", type=click.Path(path_type=Path), help="where to save: of a method .json, .html or .png; of a graph .safetensors")
@click.option("--json", "as_json", is_flag=True, help="print a method's whole result as JSON")
@at
def result(id: str, out: Path | None, as_json: bool, url: str) -> None:
    """See `cutaway jobs result --help`."""
    from cutaway.cli.run import show as shown
    from cutaway.results.base import Result

    found = _job(url, id).result()
    if isinstance(found, Result):
        shown(found, out, as_json)
        return
    from torch import Tensor

    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if out is not None:
        from safetensors.torch import save

        from cutaway.results.base import write_atomically

        written = write_atomically(out, lambda temporary: temporary.write_bytes(save({n: t.contiguous() for n, t in tensors.items()})))
        click.echo(f"Saved {written}", err=True)
    for name, value in found.items():
        click.echo(f"{name:<24} {f'{tuple(value.shape)} {value.dtype}' if name in tensors else repr(value)[:80]}")


@jobs.command(help="End job ID; one that has ended stays as it is.")
@click.argument("id")
@at
def cancel(id: str, url: str) -> None:
    """See `cutaway jobs cancel --help`."""
    job = _job(url, id)
    job.cancel()
    click.echo(f"{job.id} is {job.state}.")


def _said(data: Any) -> str:
    if "state" in data:
        problem = data.get("problem")
        return str(data["state"]) + (f": {problem['detail']}" if problem else "")
    return f"{data.get('label', '')} {data.get('done', 0):g} of {data.get('total', 0):g}" if "done" in data else str(data.get("text", data))
