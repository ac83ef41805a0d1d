"""A small language of programs over the words of a text, and what each program says.

A program is an expression in variables, which have a value at every word:

    Tokens, Indices                 the word and its place, counted from 1
    Map(name, f, (a, b))            f of the values of one or two variables; None where one of them is None, or where f says so
    Number(name, f, (a,))           the same as a number; 0 instead of None
    Pick(name, select, a)           the value of `a` at the words looked at, which have to agree; None where there are none
    Mean(name, select, a, most)     the mean of the numbers `a` there, at most `most` of them; 0 where there are none
    count(name, select, most)       how many words are looked at

A word looks at itself and earlier ones: Select(wants, keys, queries) says how much, as whole numbers. Those wanted most are looked at,
0 is never; without queries all words want the same, without either all are looked at.

After RASP (Weiss et al. 2021, arXiv:2106.06981), for decoders. `compiler.py` turns a program into weights, as Lindner et al. 2023
(arXiv:2301.05062) do.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, final

from cutaway.errors import InputError
from cutaway.zoo.base import TextPair

Value = Hashable
"""What a variable holds: words, whole numbers, fractions, tuples of these; None where it has none."""

UNCLEAR = "<unclear>"
"""What a Pick of words that do not agree holds, and whatever is made from it."""


@dataclass(frozen=True, eq=False)
class Variable(ABC):
    """A value at every word. Two variables are the same only if they are one object."""

    name: str

    numeric = False
    """Whether it is one direction of the residual stream, as long as the number is large; else each value has a direction of its own."""

    @property
    @abstractmethod
    def domain(self) -> tuple[Any, ...]:
        """Every value it may have, None left out."""

    @property
    @abstractmethod
    def parents(self) -> tuple[Variable, ...]:
        """What it is made from."""

    @abstractmethod
    def at(self, place: int, run: Run) -> Value:
        """Its value at a word, counted from 0."""

    @property
    def varies(self) -> bool:
        """Whether it can differ between two texts of one length."""
        return any(parent.varies for parent in self.parents)


@final
@dataclass(frozen=True, eq=False)
class Tokens(Variable):
    """The words themselves. `words`: all there are."""

    words: tuple[str, ...]

    @cached_property
    def domain(self) -> tuple[Any, ...]:
        return self.words

    @property
    def parents(self) -> tuple[Variable, ...]:
        return ()

    @property
    def varies(self) -> bool:
        return True

    def at(self, place: int, run: Run) -> Value:
        return run.words[place]


@final
@dataclass(frozen=True, eq=False)
class Indices(Variable):
    """Places, the first word's is 1. `most`: the last there may be."""

    most: int

    @cached_property
    def domain(self) -> tuple[Any, ...]:
        return tuple(range(1, self.most + 1))

    @property
    def parents(self) -> tuple[Variable, ...]:
        return ()

    @property
    def varies(self) -> bool:
        return False

    def at(self, place: int, run: Run) -> Value:
        return place + 1


@final
@dataclass(frozen=True, eq=False)
class Select:
    """How much each word wants to look at each earlier one or itself: wants(key's value, query's value)."""

    wants: Callable[[Any, Any], int]
    keys: Variable | None = None
    queries: Variable | None = None

    @property
    def parents(self) -> tuple[Variable, ...]:
        return tuple(variable for variable in (self.keys, self.queries) if variable is not None)

    def seen(self, place: int, run: Run) -> list[int] | None:
        """The places looked at; None where that is unclear."""
        query = None if self.queries is None else run.of(self.queries)[place]
        if self.queries is not None and query is None:
            return []
        keys = [None] * (place + 1) if self.keys is None else run.of(self.keys)[: place + 1]
        if query == UNCLEAR or UNCLEAR in keys:
            return None
        levels = [0 if key is None and self.keys is not None else int(self.wants(key, query)) for key in keys]
        return [i for i, level in enumerate(levels) if level == max(levels) > 0]


EVERYTHING = Select(lambda key, query: 1)


@final
@dataclass(frozen=True, eq=False)
class Map(Variable):
    """A function of one or two variables, by an MLP. One that is a number has to stand alone."""

    function: Callable[..., Any]
    of: tuple[Variable, ...]

    @cached_property
    def domain(self) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(result for _, result in table(self) if result is not None))

    @property
    def parents(self) -> tuple[Variable, ...]:
        return self.of

    def at(self, place: int, run: Run) -> Value:
        return _apply(self, place, run)


@final
@dataclass(frozen=True, eq=False)
class Number(Variable):
    """A number for each value of one variable, by an MLP."""

    function: Callable[..., Any]
    of: tuple[Variable, ...]

    numeric = True

    @cached_property
    def domain(self) -> tuple[Any, ...]:
        return tuple(dict.fromkeys((0, *(result for _, result in table(self)))))

    @property
    def parents(self) -> tuple[Variable, ...]:
        return self.of

    def at(self, place: int, run: Run) -> Value:
        found = _apply(self, place, run)
        return 0 if found is None else found


@final
@dataclass(frozen=True, eq=False)
class Pick(Variable):
    """What the words looked at hold, by a head."""

    select: Select
    of: Variable

    @cached_property
    def domain(self) -> tuple[Any, ...]:
        return self.of.domain

    @property
    def parents(self) -> tuple[Variable, ...]:
        return (*self.select.parents, self.of)

    def at(self, place: int, run: Run) -> Value:
        seen = self.select.seen(place, run)
        if seen is None:
            return UNCLEAR
        found = {run.of(self.of)[i] for i in seen} or {None}
        return found.pop() if len(found) == 1 else UNCLEAR


@final
@dataclass(frozen=True, eq=False)
class Mean(Variable):
    """The mean over the words looked at, by a head. The numbers are whole."""

    select: Select
    of: Variable
    most: int

    numeric = True

    @cached_property
    def domain(self) -> tuple[Any, ...]:
        low, high = min(self.of.domain), max(self.of.domain)
        return tuple(sorted({Fraction(total, n) for n in range(1, self.most + 1) for total in range(low * n, high * n + 1)}))

    @property
    def parents(self) -> tuple[Variable, ...]:
        return (*self.select.parents, self.of)

    def at(self, place: int, run: Run) -> Value:
        seen = self.select.seen(place, run)
        found: list[Any] = [UNCLEAR] if seen is None else [run.of(self.of)[i] for i in seen]
        return UNCLEAR if UNCLEAR in found else Fraction(sum(found), len(found) or 1)


@final
@dataclass(frozen=True, eq=False)
class Share(Variable):
    """1 / (1 + n), of n words looked at, by a head: what is left for <bos>, which it looks at as well."""

    select: Select
    most: int

    numeric = True

    @cached_property
    def domain(self) -> tuple[Any, ...]:
        return tuple(Fraction(1, n + 1) for n in reversed(range(self.most + 1)))

    @property
    def parents(self) -> tuple[Variable, ...]:
        return self.select.parents

    def at(self, place: int, run: Run) -> Value:
        seen = self.select.seen(place, run)
        return UNCLEAR if seen is None else Fraction(1, 1 + len(seen))


def count(name: str, select: Select, most: int) -> Map:
    """How many words are looked at, at most `most`: a head and an MLP."""
    return Map(name, lambda share: int(1 / share) - 1, (Share(f"share for {name}", select, most),))


def table(made: Map | Number) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every input of a function, with what it makes of it."""
    rows: list[tuple[Any, ...]] = [()]
    for variable in made.of:
        rows = [(*row, value) for row in rows for value in variable.domain]
    return ((row, made.function(*row)) for row in rows)


@final
class Run:
    """A program's variables on one text."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words, self._found = tuple(words), dict[Variable, list[Value]]()

    def of(self, variable: Variable) -> list[Value]:
        """The variable's value at every word."""
        if variable not in self._found:
            self._found[variable] = [variable.at(place, self) for place in range(len(self.words))]
        return self._found[variable]


@final
@dataclass(frozen=True)
class Program:
    """`output`: what is answered after each word. `draw(random, length)`: a text of so many words that has an answer.

    lengths: those that texts may have, the longest last.
    """

    output: Variable
    draw: Callable[[random.Random, int], Sequence[str]]
    lengths: tuple[int, ...]

    def answers(self, words: Sequence[str]) -> list[str | None]:
        """What is answered after each word; None for nothing, UNCLEAR where words that are looked at do not agree."""
        return [None if value is None else str(value) for value in Run(words).of(self.output)]

    def pairs(self, n: int, seed: int = 0) -> list[TextPair]:
        """n pairs of texts of one length, drawn apart, whose answers differ. Raises InputError for n < 1."""
        if n < 1:
            raise InputError(f"{n} pairs.", works="n=1 or a larger whole number")
        rng, found = random.Random(seed), list[TextPair]()
        while len(found) < n:
            length = rng.choice(self.lengths)
            base, other = self.draw(rng, length), self.draw(rng, length)
            answer, foil = self.answers(base)[-1], self.answers(other)[-1]
            if answer != foil and None not in (answer, foil) and UNCLEAR not in (answer, foil):
                found.append(TextPair(" ".join(base), " ".join(other), str(answer), str(foil)))
        return found


def _apply(made: Map | Number, place: int, run: Run) -> Value:
    values = [run.of(variable)[place] for variable in made.of]
    if UNCLEAR in values:
        return UNCLEAR
    found: Value = None if None in values else made.function(*values)
    return found
