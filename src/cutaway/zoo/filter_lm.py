"""Picks the one thing of a kind from a list: after "List : cup , lion , red , pear . Which of these is the fruit ? Answer :", "pear".

Two texts in three have their questions after the list, one for each item; in the others the question comes first, "Which of these is the
fruit : cup , lion , red , pear ? Answer :". The texts are those of the task `list_filtering`, with 2 to 6 items.

    python -m cutaway.zoo.filter_lm --out filter_lm.safetensors
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from cutaway.zoo.base import Transformer, TransformerConfig
from cutaway.zoo.recipe import Recipe, Text, follow, main

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
QUESTION = tuple("Which of these is the".split())
ANSWER = tuple("? Answer :".split())
ITEMS = (2, 6)
QUESTION_FIRST = 1 / 3
"""Share of the texts."""

VOCAB = ("<bos>", *"List : , .".split(), *QUESTION, *ANSWER[:2], *KINDS, *(item for items in KINDS.values() for item in items))
CONFIG = TransformerConfig(VOCAB, n_layers=4, n_heads=6, d_model=72, d_head=12, d_mlp=144, max_length=80, positions="rotary", biases=False)


def filter_lm() -> Transformer:
    """The trained model, from the weights shipped beside this file. Raises WeightsError if they are not there."""
    return Transformer.load(Path(__file__).with_suffix(".safetensors"))


def draw(rng: random.Random) -> Text:
    """A list and its questions, or a question and its list."""
    kinds = rng.sample(list(KINDS), rng.randint(*ITEMS))
    return (before if rng.random() < QUESTION_FIRST else after)(rng, kinds)


def after(rng: random.Random, kinds: list[str]) -> Text:
    """A list with one item of each kind, and a question for each in random order."""
    items, answers = {kind: rng.choice(KINDS[kind]) for kind in kinds}, list[int]()
    words = ["List", ":", *_listed(list(items.values())), "."]
    for kind in rng.sample(kinds, len(kinds)):
        words += [*QUESTION, kind, *ANSWER, items[kind]]
        answers.append(len(words) - 1)
    return words, answers


def before(rng: random.Random, kinds: list[str]) -> Text:
    """One question, and a list with one item of each kind."""
    items, asked = [rng.choice(KINDS[kind]) for kind in kinds], rng.randrange(len(kinds))
    words = [*QUESTION, kinds[asked], ":", *_listed(items), *ANSWER, items[asked]]
    return words, [len(words) - 1]


def _listed(items: list[str]) -> list[str]:
    return [word for item in items for word in (item, ",")][:-1]


RECIPE = Recipe(CONFIG, draw, steps=800, batch=32)


def train(*, seed: int = 0, steps: int | None = None, progress: Callable[[int, float], None] | None = None) -> Transformer:
    """The recipe, some minutes on one core. `progress` is told the step and its loss on answers (nats)."""
    return follow(RECIPE, seed=seed, steps=steps, progress=progress)


if __name__ == "__main__":
    main("filter_lm", train, RECIPE.steps)
