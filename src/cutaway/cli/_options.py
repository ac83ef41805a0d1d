"""Command-line flags derived from a function's signature."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable
from typing import Any

import click


class _Several(click.ParamType[Any, Any]):
    """Comma-separated values of one type."""

    def __init__(self, inner: type) -> None:
        self.inner, self.name = inner, f"{inner.__name__},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.inner(item.strip()) for item in str(value).split(",") if item.strip())
        except ValueError:
            self.fail(f"{value!r} is not {self.name}", param, ctx)


def options(function: Callable[..., Any]) -> list[click.Option]:
    """One flag for each keyword-only parameter: `noise: float = 3.0` -> `--noise FLOAT [default: 3.0]`."""
    hints = typing.get_type_hints(function)
    found = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        kind, required = _kind(hints[parameter.name]), parameter.default is inspect.Parameter.empty
        flag = f"--{parameter.name.replace('_', '-')}"
        declared = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]
        default: dict[str, Any] = (
            {} if required else {"default": parameter.default, "show_default": parameter.default not in (None, (), "")}
        )
        found.append(click.Option(declared, type=kind, required=required, help=_says(function, parameter.name), **default))
    return found


def _kind(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        hint = next(h for h in typing.get_args(hint) if h is not type(None))
    if typing.get_origin(hint) is typing.Literal:
        return click.Choice(typing.get_args(hint))
    return _Several(typing.get_args(hint)[0]) if typing.get_origin(hint) is tuple else hint


def _says(function: Callable[..., Any], name: str) -> str:
    """The sentence of the docstring that begins with the parameter's name and a colon; empty if there is none."""
    sentences = re.split(r"\.\s", " ".join((inspect.getdoc(function) or "").split()))
    for sentence in sentences:
        names, colon, text = sentence.partition(": ")
        if colon and name in names.replace(" ", "").split(","):
            return text.rstrip(".")
    return ""
