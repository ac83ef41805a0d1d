"""Says after each letter whether it has come before: after "c a c", "seen". Compiled."""

from __future__ import annotations

import random

from cutaway.zoo.base import Transformer
from cutaway.zoo.compiled.base import Map, Program, Select, Tokens, count
from cutaway.zoo.compiled.compiler import compiled

LETTERS = tuple("abcdefgh")
LENGTHS = tuple(range(2, 11))


def _draw(rng: random.Random, length: int) -> list[str]:
    return rng.choices(LETTERS, k=length)


def _program() -> Program:
    tokens = Tokens("tokens", LETTERS)
    times = count("times", Select(lambda key, query: key == query, tokens, tokens), LENGTHS[-1])
    return Program(Map("answer", lambda times: "seen" if times > 1 else "new", (times,)), _draw, LENGTHS)


def duplicates(*, seed: int = 0) -> Transformer:
    """The model; `circuit` says how it works. The seed draws the idle parts alone."""
    return compiled(_program(), seed=seed)
