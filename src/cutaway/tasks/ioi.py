"""Indirect object identification: two people are named, one of them again as the giver, and the next word is the other one.

"When Mary and John went to the shop, John gave a book to" -> " Mary". The counterfactual names Mary as the giver, so that its answer
is " John": nothing else differs. Roles: `io` and `s`, the indirect object and the subject where they are first named, in either order;
`s_2`, the giver; `place`, `object`. In the counterfactual the roles keep the positions that they have in the base.

Causal model: the giver is found among the people, which gives a `position`, and the answer is whoever stands in the other one. A position that
is put into another prompt leads to one of that prompt's own people. Its prompts name the roles by their order, `first` and `second`.
Wang et al. 2022, arXiv 2211.00593.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from cutaway.errors import PromptError
from cutaway.models.language import LanguageModel
from cutaway.models.prompt import Prompt
from cutaway.tasks.base import Pair, Task, count_at_least, take
from cutaway.tasks.behaviour import Behaviour
from cutaway.tasks.causal_model import CausalModel, Settings, caused, one_of, some_of

_ORDERS = ("{io} and {s}", "{s} and {io}")
_TEMPLATES = (
    "When {people} went to the {place}, {s_2} gave a {object} to",
    "After {people} had met at the {place}, {s_2} handed a {object} to",
    "While {people} were waiting at the {place}, {s_2} offered a {object} to",
    "Yesterday {people} walked to the {place}, where {s_2} passed a {object} to",
    "Once {people} came home from the {place}, {s_2} decided to give a {object} to",
    "Last week {people} worked together at the {place}. In the end {s_2} sent a {object} to",
)
_PLACES = ("shop", "school", "station", "park", "library", "market", "office", "museum", "hospital", "garden", "beach", "farm")
_OBJECTS = ("book", "letter", "ring", "drink", "flower", "ticket", "map", "picture", "key", "coin", "hat", "lamp")
_NAMES = tuple(
    """Mary John Tom James Dan Sarah Anna Paul Mark Kate David Peter Laura Susan Emily Jack Michael Robert Alice Henry George Helen Martin
    Lisa Jane Sam Ben Adam Simon Lucy Emma Rachel Andrew Kevin Brian Linda Jessica Amy Maria Steve""".split()
)
_TRIES = 5
"""Pairs made for each one wanted, before it is accepted that the model knows fewer."""


def behaviour(names: Sequence[str] = _NAMES) -> Behaviour:
    """The behaviour on some names."""
    model = CausalModel(
        {
            "template": one_of(_TEMPLATES),
            "place": one_of(_PLACES),
            "object": one_of(_OBJECTS),
            "people": some_of(names, 2),
            "giver": one_of((0, 1)),
            "position": caused(lambda giver: giver),
            "answer": caused(lambda people, position: people[1 - position]),
        }
    )
    return Behaviour(model, _wording, ("giver",), ("template",))


def ioi(lm: LanguageModel, *, n: int = 50, seed: int = 0, known: bool = True) -> Task:
    """At most n pairs, half of them with the indirect object named first (ABBA), half with the subject first (BABA).

    Only names that are one token are used. known: keep only pairs that the model gets right (likeliest next token), on both sides.
    Raises PromptError if fewer than two names are one token, or if no pair is left.
    """
    count_at_least("n", n, 1)
    names = [name for name in _NAMES if lm.first_token(f" {name}") == f" {name}"]
    if len(names) < 2:
        raise PromptError("Names of one token.", f"{', '.join(names) or 'none'} of {len(_NAMES)}", "a tokenizer with whole names")
    pairs = take(_made(names, random.Random(seed), _TRIES * n), lm, n=n, known=known)
    return Task("ioi", pairs, {"n": n, "seed": seed, "known": known}, role="s_2", behaviour=behaviour(names))


def _wording(s: Settings) -> tuple[str, Mapping[str, str]]:
    first, second = s["people"]
    roles = {"first": first, "second": second, "s_2": s["people"][s["giver"]], "place": s["place"], "object": s["object"]}
    return s["template"].replace("{people}", "{first} and {second}"), roles


def _made(names: Sequence[str], rng: random.Random, count: int) -> Iterator[Pair]:
    for i in range(count):
        template = rng.choice(_TEMPLATES).replace("{people}", _ORDERS[i % 2])
        io, s = rng.sample(names, 2)
        same = {"io": io, "s": s, "place": rng.choice(_PLACES), "object": rng.choice(_OBJECTS)}
        yield Pair(Prompt.fill(template, s_2=s, **same), Prompt.fill(template, s_2=io, **same), f" {io}", f" {s}")
