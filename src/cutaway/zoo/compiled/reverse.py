"""Says a list backwards: after "c a d = d", "a". Compiled."""

from __future__ import annotations

import random

from cutaway.zoo.base import Transformer
from cutaway.zoo.compiled.base import Indices, Map, Pick, Program, Select, Tokens
from cutaway.zoo.compiled.compiler import compiled

LETTERS = tuple("abcdef")
LENGTHS = tuple(range(4, 13))


def _draw(rng: random.Random, length: int) -> list[str]:
    said = rng.randrange((length - 1) // 2 + (length - 1) % 2)
    letters = rng.choices(LETTERS, k=length - 1 - said)
    return [*letters, "=", *letters[::-1][:said]]


def _program() -> Program:
    tokens, indices = Tokens("tokens", (*LETTERS, "=")), Indices("indices", LENGTHS[-1])
    end = Pick("end", Select(lambda key, query: key == "=", tokens), indices)
    source = Map("source", lambda end, here: 2 * end - here - 1 if 2 * end - here > 1 else None, (end, indices))
    return Program(Pick("answer", Select(lambda key, query: key == query, indices, source), tokens), _draw, LENGTHS)


def reverse(*, seed: int = 0) -> Transformer:
    """The model; `circuit` says how it works. The seed draws the idle parts alone."""
    return compiled(_program(), seed=seed)
