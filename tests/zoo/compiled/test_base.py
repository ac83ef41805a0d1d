from __future__ import annotations

from fractions import Fraction

import pytest

from cutaway.errors import InputError
from cutaway.zoo.compiled.base import EVERYTHING, UNCLEAR, Indices, Map, Mean, Number, Pick, Program, Run, Select, Share, Tokens, count

TOKENS = Tokens("tokens", ("a", "b", "c"))
INDICES = Indices("indices", 6)
SAME = Select(lambda key, query: key == query, TOKENS, TOKENS)


def test_words_look_at_themselves_and_earlier_ones() -> None:
    assert Run("abca").of(count("times", SAME, most=6)) == [1, 1, 1, 2]
    assert Run("abca").of(count("all", EVERYTHING, most=6)) == [1, 2, 3, 4]
    assert Run("ab").of(Share("share", EVERYTHING, most=6)) == [Fraction(1, 2), Fraction(1, 3)]


def test_those_wanted_most_are_looked_at() -> None:
    latest = Pick("latest", Select(lambda key, query: key, INDICES), TOKENS)
    assert Run("abc").of(latest) == ["a", "b", "c"]
    first = Pick("first", Select(lambda key, query: 7 - key, INDICES), TOKENS)
    assert Run("abc").of(first) == ["a", "a", "a"]


def test_nothing_to_look_at_is_none_or_zero() -> None:
    no = Select(lambda key, query: 0, TOKENS)
    assert Run("ab").of(Pick("pick", no, TOKENS)) == [None, None]
    ones = Number("one", lambda word: 1, (TOKENS,))
    assert Run("ab").of(Mean("mean", no, ones, most=6)) == [0, 0]
    assert Run("ab").of(count("n", no, most=6)) == [0, 0]


def test_none_goes_through_maps_and_is_zero_as_a_number() -> None:
    only_a = Map("only a", lambda word: word if word == "a" else None, (TOKENS,))
    pair = Map("pair", lambda one, place: (one, place), (only_a, INDICES))
    assert Run("ab").of(pair) == [("a", 1), None]
    assert pair.domain == tuple(("a", i) for i in range(1, 7))
    assert Run("ab").of(Number("one", lambda word: 1, (only_a,))) == [1, 0]


def test_words_that_disagree_make_everything_after_them_unclear() -> None:
    any_word = Pick("any", EVERYTHING, TOKENS)
    assert Run("aab").of(any_word) == ["a", "a", UNCLEAR]
    assert Run("aab").of(Map("again", str.upper, (any_word,))) == ["A", "A", UNCLEAR]
    through = Pick("through", Select(lambda key, query: key == query, any_word, TOKENS), TOKENS)
    assert Run("ab").of(through)[-1] == UNCLEAR


def test_means_are_exact_and_in_their_domain() -> None:
    mean = Mean("mean", EVERYTHING, Number("is a", lambda word: int(word == "a"), (TOKENS,)), most=4)
    found = Run("abca").of(mean)
    assert found == [1, Fraction(1, 2), Fraction(1, 3), Fraction(1, 2)]
    assert set(found) <= set(mean.domain) and min(mean.domain) == 0 and max(mean.domain) == 1


def test_what_depends_on_words_varies() -> None:
    before = Select(lambda key, query: key == query - 1, INDICES, INDICES)
    assert not Pick("place before", before, INDICES).varies
    assert Pick("word before", before, TOKENS).varies
    assert count("times", SAME, most=6).varies


def test_pairs_have_one_length_and_other_answers() -> None:
    program = Program(count("times", SAME, most=6), lambda rng, length: rng.choices("abc", k=length), (3, 6))
    pairs = program.pairs(20, seed=3)
    assert {len(pair.base.split()) for pair in pairs} == {3, 6}
    for pair in pairs:
        assert len(pair.base.split()) == len(pair.counterfactual.split()) and pair.answer != pair.foil
        assert pair.answer == program.answers(pair.base.split())[-1] == str(pair.base.split().count(pair.base[-1]))
    assert pairs == program.pairs(20, seed=3) != program.pairs(20, seed=4)
    with pytest.raises(InputError, match="n=1"):
        program.pairs(0)
