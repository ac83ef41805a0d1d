"""Serve models to others, or to yourself: the same traces and methods, from a machine without their weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from cutaway.cli._server import installed

GB = 10**9


@click.command(
    help="Serve models over HTTP. From this machine alone no key is needed, unless one was issued; from others `cutaway keys` issues them."
)
@click.argument("models", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="the address to listen at")
@click.option("--port", default=8000, show_default=True, help="0 for any that is free")
@click.option("--folder", type=click.Path(path_type=Path), help="where jobs, results and keys are kept")
@click.option(
    "--database",
    default="",
    envvar="CUTAWAY_DATABASE",
    help="postgresql://..., shared by several servers; a file in the folder unless given",
)
@click.option("--process", "runner", flag_value="process", help="each model in an operating-system process of its own; always so on a GPU")
@click.option(
    "--cluster", metavar="ADDRESS", is_flag=False, flag_value="local", help="on Ray: at that address, or started here without one"
)
@click.option("--device", default="cpu", show_default=True, help="of the weights: cpu, cuda, cuda:1")
@click.option("--dtype", default="float32", show_default=True, help="of the weights: float32, bfloat16, float16")
@click.option("--memory", type=float, help="gigabytes that weights may take together; the least needed make room")
@click.option("--seconds", default=3600.0, show_default=True, help="that a job may run; 0 for any time")
@click.option(
    "--quota", default=1.0, show_default=True, help="seconds of computing a second, saved up for ten minutes, that put a user first"
)
@click.option("--flush", is_flag=True, help="accepted jobs survive a power cut too, for a few waits for the disk each")
@click.option(
    "--log", default="warning", show_default=True, type=click.Choice(["debug", "info", "warning", "error"]), help="how much is logged"
)
def serve(models: tuple[str, ...], host: str, port: int, log: str, **chosen: Any) -> None:
    """See `cutaway serve --help`."""
    # torch's threads otherwise spin for milliseconds while they wait for one another: beside other work, such as that of the server itself, a
    # forward then takes several times as long; alone it takes 8 % longer with this. Read when torch is imported, here and by the workers.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    with installed():
        from cutaway.service import serving
        from cutaway.service.quota import Quota
        from cutaway.service.runners.base import Settings
        from cutaway.service.scheduler import Policy
        from cutaway.service.telemetry import logs

    logs(log)
    memory, quota, cluster = chosen["memory"], chosen["quota"], chosen["cluster"]
    apart = chosen["runner"] or chosen["device"] != "cpu"  # a job can break a GPU for its whole process
    site = serving.Site(
        tuple(dict.fromkeys(models)),
        folder=chosen["folder"] or serving.FOLDER,
        database=chosen["database"],
        runner="ray" if cluster else "process" if apart else "inline",
        cluster="" if cluster in (None, "local") else cluster,
        flush=chosen["flush"],
        settings=Settings(device=chosen["device"], dtype=chosen["dtype"], seconds=chosen["seconds"] or None),
        policy=Policy(memory=None if memory is None else int(memory * GB)),
        quota=Quota(rate=quota, burst=600 * quota),
    )
    with installed():
        serving.serve(site, host, port)
