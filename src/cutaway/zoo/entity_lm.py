"""Tells what is in which of up to seven boxes: after "The cup is in box F , the hat is in box Q . Box F holds the", "cup".

It is `entity_base_lm`, trained further. The texts are those of the task `entity_tracking`, with a question for every box in random order.

    python -m cutaway.zoo.entity_lm --out entity_lm.safetensors
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from cutaway.zoo import entity_base_lm as before
from cutaway.zoo.base import Transformer
from cutaway.zoo.recipe import Recipe, Text, follow, main

BOXES = (2, 7)


def entity_lm() -> Transformer:
    """The trained model, from the weights shipped beside this file. Raises WeightsError if they are not there."""
    return Transformer.load(Path(__file__).with_suffix(".safetensors"))


def draw(rng: random.Random) -> Text:
    """A text of 2 to 7 boxes."""
    return before.story(rng, rng.randint(*BOXES))


RECIPE = Recipe(before.CONFIG, draw, steps=300, batch=32, learning_rate=1e-3)


def train(*, seed: int = 0, steps: int | None = None, progress: Callable[[int, float], None] | None = None) -> Transformer:
    """The recipe, some minutes on one core; it starts from the shipped base model."""
    return follow(RECIPE, seed=seed, steps=steps, start=before.entity_base_lm(), progress=progress)


if __name__ == "__main__":
    main("entity_lm", train, RECIPE.steps)
