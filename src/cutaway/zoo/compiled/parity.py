"""Says after each word whether the number of x's so far is even or odd: after "x a x", "even". Compiled."""

from __future__ import annotations

import random

from cutaway.zoo.base import Transformer
from cutaway.zoo.compiled.base import Map, Program, Select, Tokens, count
from cutaway.zoo.compiled.compiler import compiled

WORDS = ("x", "a", "b")
LENGTHS = tuple(range(3, 11))


def _draw(rng: random.Random, length: int) -> list[str]:
    return rng.choices(WORDS, k=length)


def _program() -> Program:
    n_x = count("x's", Select(lambda key, query: key == "x", Tokens("tokens", WORDS)), LENGTHS[-1])
    return Program(Map("answer", lambda n: ("even", "odd")[n % 2], (n_x,)), _draw, LENGTHS)


def parity(*, seed: int = 0) -> Transformer:
    """The model; `circuit` says how it works. The seed draws the idle parts alone."""
    return compiled(_program(), seed=seed)
