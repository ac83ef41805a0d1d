"""What a user gives a model or a method, as plain data that travels. `service/inputs.py` reads it on the other side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cutaway.engine import wire
from cutaway.engine.fake import mapped
from cutaway.engine.model import Model
from cutaway.engine.stack import batch_size, repeated
from cutaway.errors import InputError
from cutaway.models.language import LanguageModel
from cutaway.models.prompt import Prompt
from cutaway.models.tokens import Tokens
from cutaway.tasks.base import Pair, Task


def sent(model: Model, inputs: tuple[Any, ...], options: Mapping[str, Any], fn: Any = None) -> bytes:
    """The inputs of a run, as `Work` holds them. fn: what drives the forward. Raises InputError for what cannot travel."""
    if isinstance(model, LanguageModel):
        inputs = tuple(_text(model, one) for one in inputs)
    told = None
    if fn is not None:
        if not hasattr(fn, "data"):
            found = f"a {type(fn).__name__}, which is code of your own"
            raise InputError("Drive a forward that runs elsewhere.", found, "fn=lm.generation(new_tokens=...)")
        told = fn.data()
    args = tuple(dict(one) if isinstance(one, Mapping) else one for one in inputs)
    return wire.packed({"args": args, "kwargs": mapped(dict(options), lambda tensor: tensor), "driver": told})


def times(model: Model, inputs: tuple[Any, ...], options: Mapping[str, Any], n: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs and options n times over, one after the other in one batch."""
    if isinstance(model, LanguageModel):
        return (n * listed(model, inputs[0]),), dict(options)
    prepared = model.prepare(inputs)
    batch = batch_size(model.arguments(prepared, dict(options)))
    found: tuple[Any, ...] = repeated(prepared, n, batch)
    return found, repeated(dict(options), n, batch)


def prompt(one: str | Prompt) -> str | dict[str, Any]:
    """A prompt: a text, or its text with its roles and tokens."""
    if isinstance(one, str) or not (one.spans or one.ids is not None):
        return one if isinstance(one, str) else one.text
    spans = {role: list(span) for role, span in one.spans.items()}
    return {"text": one.text, "spans": spans} | ({} if one.ids is None else {"ids": list(one.ids)})


def task(one: str | Task) -> str | dict[str, Any]:
    """A task: its text, or its pairs. What made the pairs (`Task.behaviour`) stays here: methods that ask it for more need the text."""
    if isinstance(one, str):
        return one
    if not isinstance(one, Task):
        raise InputError("A task for a method that runs elsewhere.", f"a {type(one).__name__}", "a text such as 'facts:n=20', or a Task")
    return {"name": one.name, "pairs": [_pair(pair) for pair in one.pairs], "metric": one.metric, "role": one.role}


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "base": prompt(pair.base),
        "counterfactual": prompt(pair.counterfactual),
        "answer": pair.answer,
        "foil": pair.foil,
    }


def _text(model: LanguageModel, given: Any) -> Any:
    return prompt(given) if isinstance(given, (str, Prompt)) else [prompt(one) for one in listed(model, given)]


def listed(model: LanguageModel, given: Any) -> list[str | Prompt]:
    """What a language model is given, as a list of prompts. Raises InputError for tokens that no prompt has."""
    if isinstance(given, Tokens):
        return [_spelled(model, given, row) for row in range(len(given))]
    return [given] if isinstance(given, (str, Prompt)) else list(given)


def _spelled(model: LanguageModel, tokens: Tokens, row: int) -> Prompt:
    """A row of tokens as a prompt: the beginning-of-text token is put there again by who reads it."""
    shift = tokens.ids.shape[1] - tokens.lengths[row]
    ids = [int(i) for i in tokens.ids[row, shift:]]
    if model.bos_id is not None:
        if ids[0] != model.bos_id:
            raise InputError("Send tokens.", "a row without the model's beginning-of-text token", "lm.tokens(text), or the text itself")
        ids, shift = ids[1:], shift + 1
    spans = {role: (first - shift, stop - shift) for role, (first, stop) in tokens.spans[row].items() if first >= shift}
    return Prompt("", spans, tuple(ids))
