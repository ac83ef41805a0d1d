"""Picks the one thing of a kind from a list: after "List : cup , lion , red , pear . Which of these is the fruit ? Answer :", "pear".

Two texts in three have their questions after the list, one for each item; in the others the question comes first, "Which of these is the
fruit : cup , lion , red , pear ? Answer :". The texts are those of the task `list_filtering`, with 2 to 6 items.

Such lists can be answered without a search, by adding up "it is in the list" and "it is a fruit", and this is what training alone comes to. So the
model is also trained by interchanges (Geiger et al. 2022, arXiv:2112.00826): where the question comes after the list, the query that the head
`FILTER` has at the last token decides by itself which item is answered, and where its keys of two items change places, so do the items; where the
question comes first, neither makes a difference. What this one head does is therefore known; all else is left to training.

    python -m cutaway.zoo.filter_lm --out filter_lm.safetensors
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from cutaway.zoo.base import Transformer, TransformerConfig
from cutaway.zoo.recipe import Recipe, Text, encoded, follow, main

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
CONFIG = TransformerConfig(VOCAB, n_layers=3, n_heads=6, d_model=72, d_head=12, max_length=80, positions="rotary")
FILTER = (1, 4)
"""The layer and the head that is trained to hold the kind as a query."""
_INTERCHANGES = 16
"""Prompts a step."""


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
    return [*_prompt(items, kinds[asked], True), items[asked]], [len(_prompt(items, kinds[asked], True))]


def interchange(model: Transformer, rng: random.Random) -> Tensor:
    """Cross-entropy (nats) of the right answers to some prompts in which the head `FILTER` has other queries or keys.

    Queries at the last token are those of a prompt with a list of its own, which asks for another kind that is in both. Keys of the answer and of
    another item are exchanged.
    """
    first, n = rng.random() < QUESTION_FIRST, rng.randint(*ITEMS)
    bases, sources, places, answers = list[Text](), list[Text](), list[tuple[int, int]](), list[int]()
    for _ in range(_INTERCHANGES):
        kinds = rng.sample(list(KINDS), n)
        own, asked = rng.sample(range(n), 2)
        others = [*rng.sample([kind for kind in KINDS if kind != kinds[asked]], n - 1), kinds[asked]]
        rng.shuffle(others)
        items, there = ([rng.choice(KINDS[kind]) for kind in chosen] for chosen in (kinds, others))
        bases.append((_prompt(items, kinds[own], first), []))
        sources.append((_prompt(there, kinds[asked], first), []))
        places.append((1 + bases[-1][0].index(items[own]), 1 + bases[-1][0].index(items[asked])))
        answers.append(VOCAB.index(items[own if first else asked]))
    (base, _), (source, _) = encoded(bases, VOCAB), encoded(sources, VOCAB)
    attn, queries = model.blocks[FILTER[0]].attn, list[Tensor]()
    columns = torch.arange(CONFIG.d_head) + FILTER[1] * CONFIG.d_head

    def put(_: object, __: object, output: Tensor) -> Tensor:
        there = output.clone()
        there[:, -1, columns] = queries[0]
        return there

    def exchange(_: object, __: object, output: Tensor) -> Tensor:
        there, rows, here = output.clone(), torch.arange(len(places))[:, None, None], torch.tensor(places)
        there[rows, here[..., None], columns] = output[rows, here.flip(1)[..., None], columns]
        return there

    with attn.q_proj.register_forward_hook(lambda _, __, output: queries.append(output[:, -1, columns])):
        model(source)
    with attn.q_proj.register_forward_hook(put):
        asked_anew = model(base)[:, -1]
    with attn.k_proj.register_forward_hook(exchange):
        exchanged = model(base)[:, -1]
    wanted = torch.tensor(answers)
    return F.cross_entropy(asked_anew, wanted) + F.cross_entropy(exchanged, wanted)


def _prompt(items: list[str], kind: str, first: bool) -> list[str]:
    if first:
        return [*QUESTION, kind, ":", *_listed(items), *ANSWER]
    return ["List", ":", *_listed(items), ".", *QUESTION, kind, *ANSWER]


def _listed(items: list[str]) -> list[str]:
    return [word for item in items for word in (item, ",")][:-1]


RECIPE = Recipe(CONFIG, draw, steps=800, batch=32, learning_rate=4e-3, matrices=0.02, back=(3,), further=interchange)


def train(*, seed: int = 0, steps: int | None = None, progress: Callable[[int, float], None] | None = None) -> Transformer:
    """The recipe, some minutes on one core. `progress` is told the step and its loss on answers (nats)."""
    return follow(RECIPE, seed=seed, steps=steps, progress=progress)


if __name__ == "__main__":
    main("filter_lm", train, RECIPE.steps)
