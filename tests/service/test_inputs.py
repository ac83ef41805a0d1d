"""Plain data becomes what methods take, or is refused by name before anything runs."""

from __future__ import annotations

from typing import Any, Literal

import pytest

import cutaway as cut
from cutaway.errors import CutawayError, InputError, PromptError, UnknownNameError
from cutaway.models.prompt import Prompt
from cutaway.service.inputs import arguments, prompt, prompts, task

WORDS = "a b c d"
PAIR = {"base": WORDS, "counterfactual": {"text": "a b c e", "spans": {"end": [6, 7]}}, "answer": "f", "foil": "g"}


def method(
    lm: Any,
    task: Any,
    *,
    n: int = 1,
    scale: float = 1.0,
    on: bool = True,
    name: str | None = None,
    which: Literal["a", "b"] = "a",
    layers: tuple[int, ...] = (),
    roles: tuple[str, ...] | None = None,
    seed: int = 0,
) -> None:
    """Nothing."""


def test_arguments_are_made_what_they_are_annotated_as() -> None:
    found = arguments(method, {"n": 3, "scale": 2, "on": False, "name": None, "which": "b", "layers": [1, 2], "roles": None})
    assert found == {"n": 3, "scale": 2.0, "on": False, "name": None, "which": "b", "layers": (1, 2), "roles": None}
    assert type(found["scale"]) is float and arguments(method, {"name": "x", "roles": []}) == {"name": "x", "roles": ()}


@pytest.mark.parametrize(
    ("name", "value", "works"),
    [
        ("n", "3", "whole number"),
        ("n", True, "whole number"),
        ("n", 3.0, "whole number"),
        ("n", 2**70, "whole number"),
        ("n", None, "whole number"),
        ("scale", "1", "number"),
        ("scale", float("inf"), "number"),
        ("scale", float("nan"), "number"),
        ("scale", 10**400, "number"),
        ("on", 1, "true or false"),
        ("name", 1, "nothing"),
        ("name", "x" * 2000, "1,000"),
        ("which", "c", "'a' or 'b'"),
        ("layers", "12", "list"),
        ("layers", [1, "2"], "whole number"),
        ("layers", [[1]], "whole number"),
        ("roles", [None], "text"),
        ("n", {"a": 1}, "whole number"),
    ],
)
def test_arguments_of_another_kind_are_refused(name: str, value: Any, works: str) -> None:
    with pytest.raises(InputError, match=f"argument {name}") as caught:
        arguments(method, {name: value})
    assert works in caught.value.works


def test_arguments_that_are_not_there_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="'scal'") as caught:
        arguments(method, {"scal": 1})
    assert "scale" in caught.value.works
    for name in ("lm", "task", "__class__"):
        with pytest.raises(UnknownNameError):
            arguments(method, {name: 1})
    with pytest.raises(InputError, match="seed"):
        arguments(method, {"seed": 1})
    with pytest.raises(InputError):
        arguments(method, [1])


def test_prompts() -> None:
    assert prompt("a") == "a" and prompt({"text": "a"}) == Prompt("a")
    assert prompt({"text": "", "ids": [1, 2], "spans": {"all": [0, 2]}}) == Prompt("", {"all": (0, 2)}, (1, 2))
    lm = cut.open("induction_lm")
    assert prompts(["a", {"text": "b"}], lm) == ["a", Prompt("b")]
    for ids in ([-1], [64], [2**40]):
        with pytest.raises(PromptError, match="vocabulary"):
            prompts([{"text": "", "ids": ids}], lm)


@pytest.mark.parametrize(
    "data",
    [
        None,
        3,
        {},
        {"text": 3},
        {"text": "a", "other": 1},
        {"text": "a", "spans": {"x": [0]}},
        {"text": "a", "spans": {"x": [0, 9]}},
        {"text": "a", "spans": 3},
        {"text": "a", "ids": "12"},
        {"text": "a", "ids": [1.5]},
        {"text": "a", "spans": {"x": ["0", "1"]}},
    ],
)
def test_what_is_no_prompt_is_refused(data: Any) -> None:
    with pytest.raises(CutawayError):
        prompt(data)


def test_tasks() -> None:
    lm = cut.open("induction_lm")
    assert len(task("induction:n=2,length=6", lm)) == 2
    made = task({"name": "mine", "pairs": [PAIR], "role": "end"}, lm)
    assert (made.name, made.role, made.metric, len(made)) == ("mine", "end", "logit_difference", 1)
    assert made.pairs[0].counterfactual.spans == {"end": (6, 7)} and made.pairs[0].base == Prompt(WORDS)


@pytest.mark.parametrize(
    "data",
    [
        None,
        3,
        "x" * 2000,
        "no_such_task",
        "induction:other=1",
        "../induction",
        {"name": "mine"},
        {"name": "mine", "pairs": []},
        {"name": 3, "pairs": [PAIR]},
        {"name": "mine", "pairs": [{**PAIR, "answer": None}]},
        {"name": "mine", "pairs": [3]},
        {"name": "mine", "pairs": [PAIR], "metric": 3},
        {"name": "mine", "pairs": [{"base": "a"}]},
        {"name": "mine", "pairs": [{**PAIR, "base": {"text": "", "ids": [999]}}]},
    ],
)
def test_what_is_no_task_is_refused(data: Any) -> None:
    with pytest.raises(CutawayError):
        task(data, cut.open("induction_lm"))
