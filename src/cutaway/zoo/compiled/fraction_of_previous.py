"""Says after each word which part of the words so far was x: after "x a x b", "1/2". Compiled."""

from __future__ import annotations

import random

from cutaway.zoo.base import Transformer
from cutaway.zoo.compiled.base import EVERYTHING, Map, Mean, Number, Program, Tokens
from cutaway.zoo.compiled.compiler import compiled

WORDS = ("x", "a", "b", "c")
LENGTHS = tuple(range(2, 9))


def _program() -> Program:
    is_x = Number("is x", lambda word: int(word == "x"), (Tokens("tokens", WORDS),))
    fraction = Mean("fraction", EVERYTHING, is_x, most=LENGTHS[-1])
    return Program(Map("answer", str, (fraction,)), _draw, LENGTHS)


def _draw(rng: random.Random, length: int) -> list[str]:
    share = rng.random()
    return ["x" if rng.random() < share else rng.choice(WORDS[1:]) for _ in range(length)]


def fraction_of_previous(*, seed: int = 0) -> Transformer:
    """The model; `circuit` says how it works. The seed draws the idle parts alone."""
    return compiled(_program(), seed=seed)
