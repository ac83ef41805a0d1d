"""What a user sends, as plain data, made into what models and methods take; nothing of it is run before all of it fits.

A prompt is a text, or `{"text": ..., "spans": {role: [start, end]}, "ids": [...]}`, the last two left out where there are none.
A task is a text such as "facts:n=20", or `{"name": ..., "pairs": [{"base": prompt, "counterfactual": prompt, "answer": ..., "foil": ...}]}`, with
"metric" and "role" where they differ from a task's own defaults.

Nothing is opened that a text only names: an option that does so says it in its annotation (`registry.Opens`), and is left to those who run the
method where their files are; `engine.confining` stops one that does not say so. Whole numbers are bounded, since many are counts.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from cutaway import registry
from cutaway.engine.model import Model
from cutaway.errors import InputError, PromptError, UnknownNameError
from cutaway.models.language import LanguageModel
from cutaway.models.prompt import Prompt
from cutaway.registry import Calls, Opens
from cutaway.tasks.base import Pair, Task, find_task

_PROMPT = ("text", "spans", "ids")
_PAIR = ("base", "counterfactual", "answer", "foil")
_TASK = ("name", "pairs", "metric", "role")
_LONGEST = 1_000
"""Characters of a task's text, and of an argument of a method."""
_MOST = 10_000
"""Of a whole number, of pairs, and of prompts."""


def arguments(function: Callable[..., Any], given: Any) -> dict[str, Any]:
    """The arguments of a method, each checked against its annotation; lists become tuples. Raises UnknownNameError, InputError."""
    if not isinstance(given, Mapping):
        raise InputError(
            "Call a method.", f"arguments that are a {type(given).__name__}", "an object: the names of options with their values"
        )
    hints = _hints(function)
    options = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY and p.name != "seed"]
    for name in given:
        if name == "seed":
            raise InputError("The argument seed.", "it among the arguments", "the seed of the job, beside them")
        if name not in options:
            raise UnknownNameError("argument", str(name)[:80], options)
    return {name: _argument(name, value, hints[name]) for name, value in given.items()}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return typing.get_type_hints(function, include_extras=True)


def _argument(name: str, value: Any, hint: Any) -> Any:
    for kind in _kinds(hint):
        fits, made = _as(value, kind)
        if fits:
            return made
    shown = f"{str(value)[:80]!r}, a {type(value).__name__}"
    works = " or ".join(filter(None, map(_named, _kinds(hint))))
    if any(_mark(kind, Opens) for kind in _kinds(hint)):
        works += "; what is opened by its name is not for a server"
    raise InputError(f"The argument {name}.", shown, works)


def _mark(kind: Any, of: type[Opens] | type[Calls]) -> Any:
    """What an annotation says besides the type."""
    return next((mark for mark in getattr(kind, "__metadata__", ()) if isinstance(mark, of)), None)


def _check_call(kind: str, text: str) -> None:
    """Check the options in a text such as "facts:n=20" as if they were given by name. Raises UnknownNameError, InputError."""
    if len(text) > _LONGEST:
        raise InputError(f"Read one of {kind}.", f"a text of {len(text):,} characters", f"at most {_LONGEST:,}")
    thing, given = registry.called(kind, text)
    hints = _hints(thing)
    for name, value in given.items():
        if name == "seed" and not 0 <= value < 2**63:
            raise InputError("The argument seed.", str(value)[:80], "a whole number from 0 below 2**63")
        if name != "seed":
            _argument(name, value, hints[name])


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _as(value: Any, kind: Any) -> tuple[bool, Any]:
    """Whether a value is of an annotated kind, and what it is there. Raises as `_check_call` does."""
    if typing.get_origin(kind) is Annotated:
        fits, made = _as(value, typing.get_args(kind)[0])
        opens, calls = _mark(kind, Opens), _mark(kind, Calls)
        if fits and calls is not None:
            _check_call(calls.kind, made)
        return fits and (opens is None or made in opens.known), made
    if typing.get_origin(kind) is typing.Literal:
        return any(value == one and type(value) is type(one) for one in typing.get_args(kind)), value
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        if not isinstance(value, (list, tuple)) or len(value) > _LONGEST:
            return False, None
        return all(_as(one, inner)[0] for one in value), tuple(value)
    if kind is float and type(value) in (int, float):
        return -1e308 < value < 1e308, float(value) if abs(value) < 1e308 else math.nan
    if kind is int:
        return type(value) is int and -_MOST <= value <= _MOST, value
    if kind is str:
        return isinstance(value, str) and len(value) <= _LONGEST, value
    return type(value) is kind, value


def _named(kind: Any) -> str:
    if opens := _mark(kind, Opens):
        return " or ".join(map(repr, opens.known))
    if typing.get_origin(kind) is Annotated:
        return _named(typing.get_args(kind)[0])
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return f"a list, each {_named(typing.get_args(kind)[0])}"
    names = {
        bool: "true or false",
        int: f"a whole number of at most {_MOST:,}",
        float: "a number",
        str: f"a text of at most {_LONGEST:,} characters",
    }
    return names.get(kind, "nothing")


def task(data: Any, lm: LanguageModel) -> Task:
    """The task that a text names, or whose pairs are given. Raises InputError, PromptError, UnknownNameError."""
    if isinstance(data, str):
        _check_call("tasks", data)
        return find_task(data, lm)
    told = _fields("a task", data, _TASK, ("name", "pairs"))
    if not isinstance(told["pairs"], list) or not 0 < len(told["pairs"]) <= _MOST:
        found = f"{len(told['pairs']):,} pairs" if isinstance(told["pairs"], list) else "no pairs"
        raise InputError("Make a task.", found, f'a list of 1 to {_MOST:,} under "pairs"')
    pairs = tuple(_pair(one) for one in told["pairs"])
    chosen: dict[str, Any] = {name: _text(f"the {name} of a task", told[name]) for name in ("metric", "role") if name in told}
    made = Task(_text("the name of a task", told["name"]), pairs, **chosen)
    for pair in pairs:
        for side in (pair.base, pair.counterfactual):
            refuse_unknown_ids(side, lm)
    return made


def _pair(data: Any) -> Pair:
    told = _fields("a pair", data, _PAIR, _PAIR)
    base, other = prompt(told["base"]), prompt(told["counterfactual"])
    return Pair(_as_prompt(base), _as_prompt(other), _text("an answer", told["answer"]), _text("a foil", told["foil"]))


def _as_prompt(one: str | Prompt) -> Prompt:
    return Prompt(one) if isinstance(one, str) else one


def prompt(data: Any) -> str | Prompt:
    """A prompt. Raises InputError, PromptError."""
    if isinstance(data, str):
        return data
    told = _fields("a prompt", data, _PROMPT, ("text",))
    spans, ids = told.get("spans") or {}, told.get("ids")
    if not isinstance(spans, Mapping) or not all(_is_whole(span) and len(span) == 2 for span in spans.values()):
        raise InputError("Read a prompt.", "spans that are none", '{"role": [start, end]}')
    if ids is not None and not _is_whole(ids):
        raise InputError("Read a prompt.", "ids that are no list of whole numbers", "token ids, or a text without them")
    places = {str(role): (start, end) for role, (start, end) in spans.items()}
    return Prompt(_text("a prompt", told["text"], None), places, None if ids is None else tuple(ids))


def prompts(data: Any, model: Model) -> Any:
    """The inputs of a language model: a prompt, or a list of them. Raises InputError, PromptError."""
    if isinstance(data, (list, tuple)) and len(data) > _MOST:
        raise InputError("Read prompts.", f"{len(data):,} of them", f"at most {_MOST:,}")
    found = [prompt(one) for one in data] if isinstance(data, (list, tuple)) else prompt(data)
    for one in found if isinstance(found, list) else [found]:
        refuse_unknown_ids(one, model)
    return found


def refuse_unknown_ids(one: str | Prompt, model: Model) -> None:
    """Raise PromptError for token ids that a model does not have: an accelerator would not survive them."""
    if isinstance(one, Prompt) and one.ids is not None and isinstance(model, LanguageModel):
        wrong = [i for i in one.ids if not 0 <= i < model.sizes.vocab]
        if wrong:
            raise PromptError(f"Token {wrong[0]} of {model.name}.", f"a vocabulary of {model.sizes.vocab:,}", "ids from 0 below it")


def _is_whole(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(type(i) is int for i in value)


def _text(what: str, value: Any, longest: int | None = _LONGEST) -> str:
    if not isinstance(value, str) or (longest is not None and len(value) > longest):
        raise InputError(
            f"Read {what}.", f"a {type(value).__name__}", "a text" + (f" of at most {longest:,} characters" if longest else "")
        )
    return value


def _fields(what: str, data: Any, known: tuple[str, ...], needed: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise InputError(f"Read {what}.", f"a {type(data).__name__}", f"an object with {', '.join(known)}")
    for name in data:
        if name not in known:
            raise UnknownNameError(f"field of {what}", str(name)[:80], known)
    missing = [name for name in needed if name not in data]
    if missing:
        raise InputError(f"Read {what}.", f"no {missing[0]}", f"an object with {', '.join(needed)}")
    return data


def schema(function: Callable[..., Any]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of what `arguments` takes for a method."""
    hints = _hints(function)
    properties, required = {}, []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.name == "seed":
            continue
        kinds = [_schema(kind) for kind in _kinds(hints[parameter.name]) if _mark(kind, Opens) != Opens()]
        properties[parameter.name] = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        if parameter.default is parameter.empty:
            required.append(parameter.name)
        else:
            default = parameter.default
            properties[parameter.name] = properties[parameter.name] | {"default": list(default) if isinstance(default, tuple) else default}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _schema(kind: Any) -> dict[str, Any]:
    if opens := _mark(kind, Opens):
        return {"enum": list(opens.known)}
    if typing.get_origin(kind) is Annotated:
        return _schema(typing.get_args(kind)[0])
    if typing.get_origin(kind) is typing.Literal:
        return {"enum": list(typing.get_args(kind))}
    if typing.get_origin(kind) is tuple:
        return {"type": "array", "items": _schema(typing.get_args(kind)[0]), "maxItems": _LONGEST}
    if kind is str:
        return {"type": "string", "maxLength": _LONGEST}
    if kind is int:
        return {"type": "integer", "minimum": -_MOST, "maximum": _MOST}
    return {"type": {bool: "boolean", float: "number"}.get(kind, "null")}
