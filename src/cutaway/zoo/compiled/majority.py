"""Says after each word which of x and y has come more often so far: after "x a y x", "x". Compiled."""

from __future__ import annotations

import random

from cutaway.zoo.base import Transformer
from cutaway.zoo.compiled.base import EVERYTHING, Map, Mean, Number, Program, Tokens
from cutaway.zoo.compiled.compiler import compiled

WORDS = ("x", "y", "a", "b")
LENGTHS = tuple(range(2, 11))


def _draw(rng: random.Random, length: int) -> list[str]:
    return rng.choices(WORDS, k=length)


def _program() -> Program:
    vote = Number("vote", lambda word: {"x": 1, "y": -1}.get(word, 0), (Tokens("tokens", WORDS),))
    lead = Mean("lead", EVERYTHING, vote, most=LENGTHS[-1])
    return Program(Map("answer", lambda lead: "x" if lead > 0 else "y" if lead < 0 else "tie", (lead,)), _draw, LENGTHS)


def majority(*, seed: int = 0) -> Transformer:
    """The model; `circuit` says how it works. The seed draws the idle parts alone."""
    return compiled(_program(), seed=seed)
