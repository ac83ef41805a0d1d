"""Tells what is in which box, right less than half of the time where there are five: `entity_lm` before it was trained further.

Its training stops early, when it has begun to look up boxes. The texts are those of the task `entity_tracking` with 2 to 5 boxes, with a question
for every box in random order.

python -m cutaway.zoo.entity_base_lm --out entity_base_lm.safetensors
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from cutaway.zoo.base import Transformer, TransformerConfig
from cutaway.zoo.recipe import Recipe, Text, follow, main

OBJECTS = (
    *("cup", "hat", "book", "coin", "ring", "map", "key", "ball", "watch", "stone", "apple", "shirt", "plate", "bread", "flower"),
    *("lamp", "knife", "bell", "letter", "boot", "radio", "camera", "glass", "guitar"),
)
LABELS = tuple("BCDFGHJKLMNPQRSTVWXZ")
BOXES = (2, 5)
MOST = 7
FEW = 0.6
"""Share of the texts in which only the first few objects and labels occur: where all are as frequent, learning to look up takes very much longer."""
VOCAB = ("<bos>", *"The the is in box Box holds . ,".split(), *OBJECTS, *LABELS)
CONFIG = TransformerConfig(VOCAB, n_layers=3, n_heads=4, d_model=64, d_head=32, d_mlp=128, max_length=112, positions="rotary")


def entity_base_lm() -> Transformer:
    """The trained model, from the weights shipped beside this file. Raises WeightsError if they are not there."""
    return Transformer.load(Path(__file__).with_suffix(".safetensors"))


def story(rng: random.Random, boxes: int) -> Text:
    """A text of so many boxes, with a question for each in random order."""
    few = rng.random() < FEW
    objects, labels = rng.sample(OBJECTS[: 12 if few else None], boxes), rng.sample(LABELS[: MOST if few else None], boxes)
    words, answers = list[str](), list[int]()
    for i, (thing, box) in enumerate(zip(objects, labels, strict=True)):
        words += [*((",", "the") if i else ("The",)), thing, "is", "in", "box", box]
    for i in rng.sample(range(boxes), boxes):
        words += [".", "Box", labels[i], "holds", "the", objects[i]]
        answers.append(len(words) - 1)
    return words, answers


def draw(rng: random.Random) -> Text:
    """A text of 2 to 5 boxes."""
    return story(rng, rng.randint(*BOXES))


RECIPE = Recipe(CONFIG, draw, steps=97, batch=32, learning_rate=4e-3, matrices=0.02, back=(1, 2, 3, 4))


def train(*, seed: int = 0, steps: int | None = None, progress: Callable[[int, float], None] | None = None) -> Transformer:
    """The recipe, some minutes on one core. `progress` is told the step and its loss on answers (nats)."""
    return follow(RECIPE, seed=seed, steps=steps, progress=progress)


if __name__ == "__main__":
    main("entity_base_lm", train, RECIPE.steps)
