"""Typed-list filtering: of a list of things of different kinds, the one of a named kind ("cup, lion, red, pear. Which is the fruit?" -> " pear").

Causal model: `kind`, what is asked for, is compared with the kind of every item; `position` is where it matches, and the item there is the
answer. The kind of one prompt, put into another, selects from that prompt's own list. The counterfactual asks for another kind that is in the
list. With the question before the list a model can mark the item as it reads it, and needs no comparison at the end. Roles: `item_1`, ...,
`kind`. The kind of prompt follows Sen Sharma et al. 2025 (filter heads), arXiv 2510.26784.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task, count_at_least
from cutaway.tasks.behaviour import Behaviour, causal_task, one_token, vocabulary
from cutaway.tasks.causal_model import CausalModel, Settings, caused, drawn, one_of

KINDS: dict[str, tuple[str, ...]] = {
    "fruit": ("apple", "banana", "orange", "lemon", "cherry", "grape", "peach", "pear", "mango"),
    "animal": ("dog", "horse", "lion", "wolf", "bear", "sheep", "tiger", "rabbit", "monkey"),
    "color": ("red", "blue", "green", "black", "white", "yellow", "purple", "brown", "pink"),
    "tool": ("hammer", "knife", "drill", "axe", "shovel", "brush", "wrench", "needle", "saw"),
    "vehicle": ("car", "truck", "bus", "train", "boat", "ship", "bicycle", "plane", "taxi"),
    "country": ("France", "Spain", "Japan", "China", "India", "Brazil", "Egypt", "Canada", "Italy"),
    "instrument": ("piano", "guitar", "violin", "drum", "flute", "trumpet", "organ", "bass", "bell"),
    "drink": ("tea", "milk", "water", "wine", "beer", "juice", "coffee", "soda", "rum"),
    "garment": ("shirt", "coat", "hat", "dress", "sock", "shoe", "skirt", "jacket", "scarf"),
    "building": ("house", "church", "school", "castle", "hospital", "tower", "temple", "barn", "hotel"),
}
"""Kind -> things of that kind, none of which is of another."""

_LIST_FIRST, _QUESTION_FIRST = "List: {items}. Which of these is the {kind}? Answer:", "Which of these is the {kind}: {items}? Answer:"
WORDS = vocabulary(_LIST_FIRST, _QUESTION_FIRST, ",", *KINDS, *(item for items in KINDS.values() for item in items))
"""All that stands in a prompt, and the answers, where punctuation stands apart."""


def behaviour(items: int = 4, kinds: Mapping[str, Sequence[str]] = KINDS, *, question_first: bool = False) -> Behaviour:
    """The behaviour with a number of items, on some kinds; every item of a list is of another kind."""
    kind_of = {item: kind for kind, listed in kinds.items() for item in listed}

    def draw(rng: random.Random) -> tuple[str, ...]:
        return tuple(rng.choice(kinds[kind]) for kind in rng.sample(list(kinds), items))

    model = CausalModel(
        {
            "items": drawn(draw),
            "asked": one_of(range(items)),
            "kind": caused(lambda items, asked: kind_of[items[asked]]),
            "matches": caused(lambda items, kind: tuple(kind_of[item] == kind for item in items)),
            "position": caused(lambda matches: matches.index(True) if True in matches else None),
            "answer": caused(lambda items, position: None if position is None else items[position]),
        }
    )

    def wording(s: Settings) -> tuple[str, Mapping[str, str]]:
        listed = ", ".join(f"{{item_{i}}}" for i in range(1, items + 1))
        template = _QUESTION_FIRST if question_first else _LIST_FIRST
        return template.replace("{items}", listed), {"kind": s["kind"]} | {f"item_{i}": item for i, item in enumerate(s["items"], 1)}

    return Behaviour(model, wording, ("asked",), valid=lambda s: s["answer"] is not None)


def list_filtering(
    lm: LanguageModel, *, items: int = 4, question_first: bool = False, n: int = 50, seed: int = 0, known: bool = True
) -> Task:
    """At most n pairs of questions about lists of 2 to 10 items; only things of one token are used. question_first: the list comes after it.

    known: keep only pairs that the model gets right (likeliest next token), on both sides. Raises InputError, PromptError if no pair is left.
    """
    count_at_least("items", items, 2)
    whole = set(one_token([item for listed in KINDS.values() for item in listed], lm, least=items))
    kinds = {kind: kept for kind, listed in KINDS.items() if (kept := [item for item in listed if item in whole])}
    arguments = {"items": items, "question_first": question_first, "n": n, "seed": seed, "known": known}
    made = behaviour(items, kinds, question_first=question_first)
    return causal_task("list_filtering", made, lm, role="kind", arguments=arguments)
