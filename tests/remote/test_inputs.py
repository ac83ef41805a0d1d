"""What a user gives is plain data on the way, and the same again where it arrives."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from cutaway.engine import wire
from cutaway.errors import InputError, StreamError
from cutaway.models.language import LanguageModel
from cutaway.models.prompt import Prompt
from cutaway.models.weightless import described, weightless
from cutaway.remote import inputs
from cutaway.service import inputs as received
from cutaway.tasks.base import find_task

TEXTS = ["red blue gold red blue", "red blue"]


@pytest.fixture(scope="module")
def thin() -> LanguageModel:
    made = weightless(described("induction_lm"))
    assert isinstance(made, LanguageModel)
    return made


def arrived(thin: LanguageModel, given: Any) -> Any:
    told = wire.unpacked(inputs.sent(thin, (given,), {}), 2**20)
    assert told["kwargs"] == {} and told["driver"] is None
    return received.prompts(told["args"][0], thin)


@pytest.mark.parametrize(
    "given",
    [
        TEXTS[0],
        TEXTS,
        Prompt.mark(TEXTS[0], target="gold"),
        [Prompt("", {"a": (0, 1)}, (5, 6)), Prompt("", ids=(7,))],
        tuple(TEXTS),
    ],
)
def test_prompts(thin: LanguageModel, given: Any) -> None:
    same, there = thin.tokens(given), thin.tokens(arrived(thin, given))
    assert torch.equal(same.ids, there.ids) and torch.equal(same.mask, there.mask) and same.spans == there.spans


def test_tokens_are_spelled_as_ids(thin: LanguageModel) -> None:
    tokens = thin.tokens([Prompt.mark(TEXTS[0], target="gold"), Prompt(TEXTS[1])])
    there = thin.tokens(arrived(thin, tokens))
    assert torch.equal(tokens.ids[tokens.mask == 1], there.ids[there.mask == 1]) and tokens.spans == there.spans
    bare = type(tokens)(tokens.ids[:, 1:], tokens.mask[:, 1:], (tokens.ids.shape[1] - 1,), ({},))
    with pytest.raises(InputError, match="beginning-of-text"):
        inputs.sent(thin, (bare,), {})


def test_drivers(thin: LanguageModel) -> None:
    told = wire.unpacked(inputs.sent(thin, ("red",), {}, thin.generation(new_tokens=3)), 2**20)
    assert told["driver"]["new_tokens"] == 3
    with pytest.raises(InputError, match="code of your own"):
        inputs.sent(thin, ("red",), {}, lambda **given: None)
    with pytest.raises(StreamError):
        inputs.sent(thin, (), {"hook": print})


def test_inputs_n_times_over(thin: LanguageModel) -> None:
    (repeated,), _ = inputs.times(thin, (TEXTS,), {}, 3)
    assert repeated == TEXTS * 3


@pytest.mark.parametrize("spec", ["induction:n=3,length=6"])
def test_tasks(thin: LanguageModel, spec: str) -> None:
    made = find_task(spec, thin)
    told = json.loads(json.dumps(inputs.task(made)))
    back = received.task(told, thin)
    assert (back.name, back.pairs, back.metric, back.role) == (made.name, made.pairs, made.metric, made.role)
    assert inputs.task(spec) == spec
    with pytest.raises(InputError, match="facts"):
        inputs.task(3)  # type: ignore[arg-type]
