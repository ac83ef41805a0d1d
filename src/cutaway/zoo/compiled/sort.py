"""Says a list in the order of the alphabet: after "c a c = a", "c". Compiled."""

from __future__ import annotations

import random

from cutaway.zoo.base import Transformer
from cutaway.zoo.compiled.base import Map, Pick, Program, Select, Tokens, count
from cutaway.zoo.compiled.compiler import compiled

LETTERS = tuple("abcde")
LENGTHS = tuple(range(5, 13))


def _draw(rng: random.Random, length: int) -> list[str]:
    said = rng.randrange((length - 1) // 2 + (length - 1) % 2)
    letters = rng.choices(LETTERS, k=length - 1 - said)
    return [*letters, "=", *sorted(letters)[:said]]


def _next(key: tuple[str, int], query: tuple[str, bool]) -> int:
    """The same letter if there is more of it in the list; else the first of those after it. "=" stands before all letters."""
    letter, part = key
    last, more = query
    if part or letter == "=":
        return 0
    if more and last != "=":
        return int(letter == last)
    return len(LETTERS) - LETTERS.index(letter) if last == "=" or letter > last else 0


def _program() -> Program:
    tokens, most = Tokens("tokens", (*LETTERS, "=")), LENGTHS[-1]
    part = count("part", Select(lambda key, query: int(key == "="), tokens), most=1)
    word = Map("word in part", lambda word, part: (word, part), (tokens, part))
    listed = count("listed", Select(lambda key, query: int(key[0] == query[0] and not key[1]), word, word), most)
    said = count("said", Select(lambda key, query: int(key[0] == query[0] and key[1]), word, word), most)
    more = Map("more", lambda listed, said: listed > said, (listed, said))
    last = Map("last", lambda word, more: (word, more), (tokens, more))
    return Program(Pick("answer", Select(_next, word, last), tokens), _draw, LENGTHS)


def sort(*, seed: int = 0) -> Transformer:
    """The model; `circuit` says how it works. The seed draws the idle parts alone."""
    return compiled(_program(), seed=seed)
