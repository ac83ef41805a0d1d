"""Says after each letter how often it has come so far: after "c a c", "2". Compiled."""

from __future__ import annotations

import random

from cutaway.zoo.base import Transformer
from cutaway.zoo.compiled.base import Program, Select, Tokens, count
from cutaway.zoo.compiled.compiler import compiled

LETTERS = tuple("abcd")
LENGTHS = tuple(range(3, 11))


def _draw(rng: random.Random, length: int) -> list[str]:
    return rng.choices(LETTERS, k=length)


def _program() -> Program:
    tokens = Tokens("tokens", LETTERS)
    return Program(count("answer", Select(lambda key, query: key == query, tokens, tokens), LENGTHS[-1]), _draw, LENGTHS)


def histogram(*, seed: int = 0) -> Transformer:
    """The model; `circuit` says how it works. The seed draws the idle parts alone."""
    return compiled(_program(), seed=seed)
