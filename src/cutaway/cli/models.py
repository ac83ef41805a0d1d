"""List the models that open by name, and what is worth knowing of each."""

from __future__ import annotations

import json

import click

from cutaway import registry


@click.command(
    help="List the models that open by name, or those of a server. Any folder, .gguf file, hub id or module of a known layout opens too."
)
@click.option(
    "--url", envvar="CUTAWAY_URL", help="of the server there: which are open, and how long one would wait; its key in CUTAWAY_KEY"
)
@click.option("--open", "opened", metavar="NAME", help="with --url: have it opened before anybody asks; needs an administrator's key")
@click.option("--close", "closed", metavar="NAME", help="with --url: have it let go, after what runs on it; needs an administrator's key")
@click.option("--json", "as_json", is_flag=True, help="print as JSON")
def models(url: str | None, opened: str | None, closed: str | None, as_json: bool) -> None:
    """See `cutaway models --help`."""
    if url is not None:
        _served(url, opened, closed, as_json)
        return
    if opened or closed:
        raise click.UsageError("--open and --close are for a server: give its --url.")
    from cutaway.models.wheels import WHEELS, cache_folder

    known = {name: {"from": "zoo", "licence": "MIT", "about": registry.summary("zoo", name)} for name in registry.names("zoo")}
    for name, wheel in WHEELS.items():
        known[name] = {"from": f"{wheel.package} {wheel.version}", "licence": wheel.licence, "about": wheel.about}
    families = {name: registry.summary("models.families", name) for name in registry.names("models.families")}
    if as_json:
        click.echo(json.dumps({"models": known, "families": families, "cache": str(cache_folder())}, indent=1))
        return
    formatter = click.HelpFormatter(width=110)
    with formatter.section("Models"):
        formatter.write_dl([(name, f"{facts['about']} ({facts['from']}, {facts['licence']})") for name, facts in known.items()])
    with formatter.section("Layouts with standard names"):
        formatter.write_dl(list(families.items()))
    click.echo(formatter.getvalue() + f"\nConverted weights are kept in {cache_folder()} (CUTAWAY_CACHE).")


def _served(url: str, opened: str | None, closed: str | None, as_json: bool) -> None:
    from cutaway.remote.client import connect

    remote = connect(url)
    if opened:
        remote.load(opened)
    if closed:
        remote.unload(closed)
    found = remote.models()
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for told in found:
        wait = "" if told["expected_wait"] is None else f"about {told['expected_wait']:.1f} s"
        size = f"{told['bytes'] / 1e9:.2f} GB"
        click.echo(f"{told['name']:<28} {told['state']:<8} {size:>10}  {told['queued']:>4} waiting  {told['running']:>3} running  {wait}")
