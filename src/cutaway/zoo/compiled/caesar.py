"""Moves each letter on in the alphabet by the number that stands before it somewhere: after "a 2 d", "f". Compiled."""

from __future__ import annotations

import random

from cutaway.zoo.base import Transformer
from cutaway.zoo.compiled.base import Map, Pick, Program, Select, Tokens
from cutaway.zoo.compiled.compiler import compiled

LETTERS = tuple("abcdefgh")
KEYS = tuple("1234")
LENGTHS = tuple(range(2, 9))


def _draw(rng: random.Random, length: int) -> list[str]:
    words = rng.choices(LETTERS, k=length)
    words[rng.randrange(length - 1)] = rng.choice(KEYS)
    return words


def _moved(letter: str, key: str) -> str | None:
    return LETTERS[(LETTERS.index(letter) + int(key)) % len(LETTERS)] if letter in LETTERS else None


def _program() -> Program:
    tokens = Tokens("tokens", (*KEYS, *LETTERS))
    key = Pick("key", Select(lambda key, query: key in KEYS, tokens), tokens)
    return Program(Map("answer", lambda letter, key: _moved(letter, key) if key in KEYS else None, (tokens, key)), _draw, LENGTHS)


def caesar(*, seed: int = 0) -> Transformer:
    """The model; `circuit` says how it works. The seed draws the idle parts alone."""
    return compiled(_program(), seed=seed)
