"""Tells what somebody thinks is in a vessel: the one they filled themselves, the other's if they can see them, else "unknown".

After "Anna fills the cup with tea . Ben fills the jar with milk . Anna can see Ben . Ben cannot see Anna . What does Anna think is in the
jar ? Answer :", "milk". The texts are those of the task `belief_tracking`, with all four questions after each story, in random order.

    python -m cutaway.zoo.belief_lm --out belief_lm.safetensors
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

from cutaway.zoo.base import Transformer, TransformerConfig
from cutaway.zoo.recipe import Recipe, Text, follow, main

NAMES = ("Anna", "Ben", "Tom", "Mary", "Paul", "Lucy", "David", "Emma", "Peter", "Jane", "Simon", "Laura")
VESSELS = ("cup", "jar", "bottle", "bowl", "glass", "pot", "bucket", "tank")
STATES = ("tea", "milk", "water", "wine", "beer", "juice", "coffee", "soup", "oil", "honey", "sand", "rice")
UNKNOWN = "unknown"
FEW, FEWEST = 0.7, 3
"""Share of the texts in which only the first so many names, vessels and contents occur: where all are as frequent, learning to look up takes very
much longer."""
VOCAB = ("<bos>", *"fills the with . can cannot see What does think is in ? Answer :".split(), UNKNOWN, *NAMES, *VESSELS, *STATES)
CONFIG = TransformerConfig(VOCAB, n_layers=4, n_heads=6, d_model=64, d_head=24, d_mlp=128, max_length=80, positions="rotary")


def belief_lm() -> Transformer:
    """The trained model, from the weights shipped beside this file. Raises WeightsError if they are not there."""
    return Transformer.load(Path(__file__).with_suffix(".safetensors"))


def draw(rng: random.Random) -> Text:
    """A story and its four questions."""
    most = FEWEST if rng.random() < FEW else None
    names, vessels, states = (rng.sample(words[:most], 2) for words in (NAMES, VESSELS, STATES))
    sees = [rng.random() < 0.5 for _ in names]
    words, answers = list[str](), list[int]()
    for name, vessel, state in zip(names, vessels, states, strict=True):
        words += [name, "fills", "the", vessel, "with", state, "."]
    for i in (0, 1):
        words += [names[i], "can" if sees[i] else "cannot", "see", names[1 - i], "."]
    for who, which in rng.sample(list(itertools.product((0, 1), (0, 1))), 4):
        answer = states[which] if which == who or sees[who] else UNKNOWN
        words += [*"What does".split(), names[who], *"think is in the".split(), vessels[which], *"? Answer :".split(), answer]
        answers.append(len(words) - 1)
    return words, answers


RECIPE = Recipe(CONFIG, draw, steps=1500, batch=24, learning_rate=4e-3, matrices=0.02, back=(1, 2, 3, 4, 5, 8))


def train(*, seed: int = 0, steps: int | None = None, progress: Callable[[int, float], None] | None = None) -> Transformer:
    """The recipe, some minutes on one core. `progress` is told the step and its loss on answers (nats)."""
    return follow(RECIPE, seed=seed, steps=steps, progress=progress)


if __name__ == "__main__":
    main("belief_lm", train, RECIPE.steps)
