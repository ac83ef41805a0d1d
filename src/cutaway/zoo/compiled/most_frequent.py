"""Says after each letter which has come most often so far: after "c a c b", "c". Compiled."""

from __future__ import annotations

import random

from cutaway.zoo.base import Transformer
from cutaway.zoo.compiled.base import Pick, Program, Select, Tokens, count
from cutaway.zoo.compiled.compiler import compiled

LETTERS = tuple("abcde")
LENGTHS = tuple(range(3, 13))


def _draw(rng: random.Random, length: int) -> list[str]:
    return rng.choices(LETTERS, k=length)


def _program() -> Program:
    tokens = Tokens("tokens", LETTERS)
    times = count("times", Select(lambda key, query: key == query, tokens, tokens), LENGTHS[-1])
    return Program(Pick("answer", Select(lambda key, query: key, times), tokens), _draw, LENGTHS)


def most_frequent(*, seed: int = 0) -> Transformer:
    """The model; `circuit` says how it works. The seed draws the idle parts alone."""
    return compiled(_program(), seed=seed)
