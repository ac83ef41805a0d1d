"""Says of the brackets so far whether they are closed, still open, or can no longer be: after "( ) (", "open". Compiled."""

from __future__ import annotations

import random

from cutaway.zoo.base import Transformer
from cutaway.zoo.compiled.base import EVERYTHING, Map, Mean, Number, Program, Tokens
from cutaway.zoo.compiled.compiler import compiled

LENGTHS = tuple(range(2, 13))


def _draw(rng: random.Random, length: int) -> list[str]:
    words, depth = list[str](), 0
    for _ in range(length):
        words.append("(" if rng.random() < (0.9 if depth == 0 else 0.4) else ")")
        depth += 1 if words[-1] == "(" else -1
    return words


def _program() -> Program:
    step = Number("step", lambda word: 1 if word == "(" else -1, (Tokens("tokens", ("(", ")")),))
    depth = Mean("mean step", EVERYTHING, step, most=LENGTHS[-1])
    is_closed = Map("is closed", lambda depth: depth == 0, (depth,))
    below = Number("is below", lambda depth: int(depth < 0), (depth,))
    is_broken = Map("is broken", lambda share: share > 0, (Mean("share below", EVERYTHING, below, most=LENGTHS[-1]),))
    state = Map("answer", lambda broken, closed: "broken" if broken else "closed" if closed else "open", (is_broken, is_closed))
    return Program(state, _draw, LENGTHS)


def brackets(*, seed: int = 0) -> Transformer:
    """The model; `circuit` says how it works. The seed draws the idle parts alone."""
    return compiled(_program(), seed=seed)
