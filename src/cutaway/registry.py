"""File name -> thing.

A thing is found by the folder it lies in and the name of its file: the function `causal_trace` in
`methods/locate/causal_trace.py` is the method `locate.causal_trace`. Listing reads folder contents and imports nothing; a file is
imported when its thing is first asked for. Other packages add things through entry points: group `cutaway.methods`,
name `locate.my_method`, value `package.module:my_method`. They add and never replace: a name that has a file here keeps it.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, final

from cutaway.errors import InputError, UnknownNameError

KINDS = ("benchmarks", "methods", "tasks", "metrics", "mediators", "results", "views", "zoo", "models.families", "studies", "cli")
"""The folders whose files are things."""

ALIASES: dict[tuple[str, str], str] = {}
"""(kind, old name) -> new name, kept when a file is renamed."""

_INFRASTRUCTURE = frozenset({"base", "entries", "bootstrap", "behaviour", "causal_model", "compiler", "recipe"})
"""Files that what is found stands on, in the folder beside it."""
_ROOT = Path(__file__).parent


@final
@dataclass(frozen=True)
class Opens:
    """In the annotation of an option: its text names a model, a folder or a file that is opened, which no server does for others.

    known: texts that open nothing. `Annotated[str, Opens("neurons", "pca")]`.
    """

    known: tuple[str, ...]

    def __init__(self, *known: str) -> None:
        object.__setattr__(self, "known", known)


@final
@dataclass(frozen=True)
class Calls:
    """In the annotation of an option: its text is read by `called`, as a thing of that kind with options of its own."""

    kind: str


@cache
def names(kind: str) -> tuple[str, ...]:
    """Names of all things of a kind, sorted; nothing is imported. Raises UnknownNameError for an unknown kind."""
    if kind not in KINDS:
        raise UnknownNameError("kind", kind, KINDS)
    folder = _ROOT.joinpath(*kind.split("."))
    return tuple(sorted({*_files(folder, ""), *_entry_points(kind)}))


@cache
def load(kind: str, name: str) -> Any:
    """The thing itself: the attribute of the module that bears the file's name. Raises UnknownNameError."""
    name = ALIASES.get((kind, name), name)
    if name not in names(kind):
        raise UnknownNameError(kind.split(".")[-1].removesuffix("s"), name, names(kind))
    if not _path(kind, name).exists():
        return _entry_points(kind)[name].load()
    module = importlib.import_module(f"cutaway.{kind}.{name}")
    return getattr(module, name.rpartition(".")[2])


def called(kind: str, spec: str, offered: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
    """What a text such as `facts:relation=capital,n=20` names: the thing, and values for its keyword-only options.

    offered: values that are taken for options which the thing has and the text does not name. Raises UnknownNameError for an unknown thing,
    InputError for an option that it does not have or a value that cannot be read.
    """
    name, _, listed = spec.partition(":")
    thing = load(kind, name.strip())
    types = typing.get_type_hints(thing)
    options = [p.name for p in inspect.signature(thing).parameters.values() if p.kind is p.KEYWORD_ONLY]
    arguments = {option: value for option, value in (offered or {}).items() if option in options}
    for item in filter(str.strip, listed.split(",")):
        option, _, value = (part.strip() for part in item.partition("="))
        asked = f"{item.strip()!r} in {spec!r}."
        if option not in options or not value:
            raise InputError(asked, works=", ".join(f"{o}=..." for o in options))
        try:
            arguments[option] = _read(value, types[option])
        except ValueError as error:
            raise InputError(asked, works=f"{option}= followed by {_expected(types[option])}") from error
    return thing, arguments


@cache
def summary(kind: str, name: str) -> str:
    """First line of the thing's module docstring, read without importing it; empty where no file is found."""
    return _documentation(kind, name).partition("\n")[0]


@cache
def declared(kind: str, name: str, section: str) -> str:
    """What follows `section:` in the thing's module docstring, on one line, read without importing it; empty where there is none."""
    found = re.search(rf"^{section}:(.*?)(?=^\S|\Z)", _documentation(kind, name), flags=re.MULTILINE | re.DOTALL)
    return " ".join(found[1].split()) if found else ""


class Namespace:
    """`cut.locate`: attribute access to the methods of one family, imported on first use."""

    def __init__(self, kind: str, family: str) -> None:
        self._kind, self._family = kind, family

    def __dir__(self) -> list[str]:
        prefix = f"{self._family}."
        return [name.removeprefix(prefix) for name in names(self._kind) if name.startswith(prefix)]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        full = f"{self._family}.{name}"
        try:
            return _anywhere(full) if self._kind == "methods" else load(self._kind, full)
        except UnknownNameError as error:  # so that hasattr() and completion behave
            raise AttributeError(str(error)) from error

    def __repr__(self) -> str:
        return f"<cutaway.{self._family}: {', '.join(dir(self))}>"


@cache
def _anywhere(name: str) -> Any:
    """A method that runs where its model is: a model that is elsewhere has `call_method`, and is asked to call it there."""
    method = load("methods", name)
    signature = inspect.signature(method)

    @functools.wraps(method)
    def run(*args: Any, **arguments: Any) -> Any:
        call = getattr(type(args[0] if args else arguments.get("lm")), "call_method", None)
        if call is None:
            return method(*args, **arguments)
        lm, *rest = (bound := signature.bind(*args, **arguments)).args
        return call(lm, name, *rest, **bound.kwargs)

    return run


@cache
def families(kind: str = "methods") -> tuple[str, ...]:
    """The families of methods, or of another kind that is kept in folders; they are names of the front door."""
    return tuple(sorted({name.partition(".")[0] for name in names(kind)}))


def _documentation(kind: str, name: str) -> str:
    path = _path(kind, name)
    entry = _entry_points(kind).get(name)
    if not path.exists() and entry and entry.dist:
        path = Path(str(entry.dist.locate_file(entry.module.replace(".", "/") + ".py")))
    return (ast.get_docstring(ast.parse(path.read_text("utf-8"))) if path.exists() else None) or ""


def _read(text: str, annotation: Any) -> Any:
    """A text as a value of the annotated type: str, int, float, bool, or one of these or None. Raises ValueError."""
    if text.lower() == "none" and NoneType in typing.get_args(annotation):
        return None
    if typing.get_origin(annotation) is typing.Literal:
        if text not in typing.get_args(annotation):
            raise ValueError(text)
        return text
    if typing.get_origin(annotation) is tuple:
        return tuple(_read(item, typing.get_args(annotation)[0]) for item in text.split("+"))
    kind = next((a for a in typing.get_args(annotation) if a is not NoneType), annotation)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return kind(text)


def _expected(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(map(str, typing.get_args(annotation)))
    if typing.get_origin(annotation) is tuple:
        return f"{_expected(typing.get_args(annotation)[0])}, or several joined by +"
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(annotation, "a value")


def _path(kind: str, name: str) -> Path:
    return _ROOT.joinpath(*kind.split("."), *name.split(".")).with_suffix(".py")


def _files(folder: Path, prefix: str) -> Iterator[str]:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith(("_", ".")):
            continue
        if path.is_dir() and (path / "__init__.py").exists():
            yield from _files(path, f"{prefix}{path.name}.")
        elif path.suffix == ".py" and path.stem not in _INFRASTRUCTURE:
            yield prefix + path.stem


@cache
def _entry_points(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=f"cutaway.{kind}")}
