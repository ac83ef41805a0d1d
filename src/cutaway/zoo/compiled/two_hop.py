"""Looks up what it has looked up: after "a d , d f , b e , a", "f". Compiled."""

from __future__ import annotations

import random

from cutaway.zoo.base import Transformer
from cutaway.zoo.compiled.base import Indices, Map, Pick, Program, Select, Tokens
from cutaway.zoo.compiled.compiler import compiled

LETTERS = tuple("abcdefgh")
LENGTHS = tuple(range(8, 15))


def _draw(rng: random.Random, length: int) -> list[str]:
    first, between, last, *others = rng.sample(LETTERS, len(LETTERS))
    facts = [(first, between), (between, last)]
    facts += [(others.pop(), rng.choice(LETTERS)) for _ in range(rng.randint(0, (length - 1) // 3 - 2))]
    rng.shuffle(facts)
    words = [[*fact, ","] for fact in facts]
    for _ in range(length - 1 - 3 * len(facts)):  # more commas here and there, so that texts do not all have theirs at the same places
        rng.choice(words).append(",")
    return [*(word for fact in words for word in fact), first]


def _program() -> Program:
    tokens, indices = Tokens("tokens", (*LETTERS, ",")), Indices("indices", LENGTHS[-1])
    previous = Pick("previous", Select(lambda key, query: key == query - 1, indices, indices), tokens)
    asked = Map("asked", lambda before, here: None if "," in (before, here) else before, (previous, tokens))
    once = Pick("once", Select(lambda key, query: key == query, asked, tokens), tokens)
    return Program(Pick("answer", Select(lambda key, query: key == query, asked, once), tokens), _draw, LENGTHS)


def two_hop(*, seed: int = 0) -> Transformer:
    """The model; `circuit` says how it works. The seed draws the idle parts alone."""
    return compiled(_program(), seed=seed)
