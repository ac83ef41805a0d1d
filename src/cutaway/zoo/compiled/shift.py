"""Says the letter two places back: after "c a d", "c". Compiled."""

from __future__ import annotations

import random

from cutaway.zoo.base import Transformer
from cutaway.zoo.compiled.base import Indices, Pick, Program, Select, Tokens
from cutaway.zoo.compiled.compiler import compiled

LETTERS = tuple("abcdef")
LENGTHS = tuple(range(3, 11))
BACK = 2


def _draw(rng: random.Random, length: int) -> list[str]:
    return rng.choices(LETTERS, k=length)


def _program() -> Program:
    indices = Indices("indices", LENGTHS[-1])
    back = Select(lambda key, query: key == query - BACK, indices, indices)
    return Program(Pick("answer", back, Tokens("tokens", LETTERS)), _draw, LENGTHS)


def shift(*, seed: int = 0) -> Transformer:
    """The model; `circuit` says how it works. The seed draws the idle parts alone."""
    return compiled(_program(), seed=seed)
