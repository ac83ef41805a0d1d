"""Which standard points every family has, and why it goes without the others: the table in `docs/points.md`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cutaway import registry
from cutaway.models.families.base import Family, Layout
from cutaway.models.points import KINDS, POINTS

_COLUMNS = ("| family | kind | models | points | without |", "|---|---|---|---|---|")
_DECODER = "decoder"


def by_family() -> str:
    """A Markdown table: one row for every family and layout there is, by kind and name."""
    known = [registry.load("models.families", name) for name in registry.names("models.families")]
    order = [_DECODER, *KINDS]
    return "\n".join([*_COLUMNS, *(_row(own) for own in sorted(known, key=lambda own: (order.index(_kind(own)), own.name)))])


def _kind(own: Family | Layout) -> str:
    return _DECODER if isinstance(own, Family) else own.kind


def _row(own: Family | Layout) -> str:
    table = POINTS if isinstance(own, Family) else KINDS[own.kind]
    has = {*own.points, *({"logits"} if isinstance(own, Family) else ())}  # a decoder's output needs no place of its own
    models = [f"`{name}`" for name in (*own.model_types, *(own.classes if isinstance(own, Layout) else ()))]
    models += [f"{entry}={value}" for entry, value in own.config.items()]
    without = _reasons(own.missing, [point.name for point in table])
    cells = (f"`{own.name}`", _kind(own).replace("_", " "), ", ".join(models), str(len(has)), without)
    return "| " + " | ".join(cells) + " |"


def _reasons(missing: Mapping[str, tuple[str, str]], table: Iterable[str]) -> str:
    """Points and why they are missing; those with one reason together."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for name, reason in missing.items():
        grouped.setdefault(reason, []).append(name)
    return "; ".join(f"{_named(names, table)}: {why}, use {works}" for (why, works), names in grouped.items()).replace("|", "\\|")


def _named(names: list[str], table: Iterable[str]) -> str:
    """Names in a row; all of one part as `part.*`, the widest there is."""
    return ", ".join(dict.fromkeys(f"`{_widest(name, {*names}, table)}`" for name in names))


def _widest(name: str, missing: set[str], table: Iterable[str]) -> str:
    *parts, _ = name.split(".")
    for depth in range(1, len(parts) + 1):
        part = ".".join(parts[:depth]) + "."
        within = {other for other in table if other.startswith(part)}
        if len(within) > 1 and within <= missing:
            return f"{part}*"
    return name
