"""Says whether two pairs of words are alike in being alike: after "dog dog , cup sun :" comes "no", after "dog hat , cup sun :" "yes".

Half of the texts ask about one pair ("dog dog :" is followed by "yes"), the others about two. Nothing is planted: that the answer to the second
question is whether two equalities are equal is for the model to find out. Hierarchical equality: Geiger, Wu, Potts, Icard, Goodman 2024,
arXiv 2303.02536; the longer texts are those of the task `hierarchical_equality`.

    python -m cutaway.zoo.equality_lm --out equality_lm.safetensors
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from cutaway.zoo.base import Transformer, TransformerConfig
from cutaway.zoo.recipe import Recipe, Text, follow, main

WORDS = ("dog", "cup", "sun", "hat", "tree", "fish", "car", "book", "bird", "door", "rain", "song", "gold", "moon", "milk", "king")
VOCAB = ("<bos>", ",", ":", "yes", "no", *WORDS)
CONFIG = TransformerConfig(VOCAB, n_layers=3, n_heads=4, d_model=64, d_head=16, d_mlp=128, max_length=8, activation="gelu")


def equality_lm() -> Transformer:
    """The trained model, from the weights shipped beside this file. Raises WeightsError if they are not there."""
    return Transformer.load(Path(__file__).with_suffix(".safetensors"))


def draw(rng: random.Random) -> Text:
    """One pair or two, each of the same words half of the time, and the answer."""
    first, alike = _pair(rng)
    words, answer = [*first], alike
    if rng.random() < 0.5:
        second, other = _pair(rng)
        words, answer = [*first, ",", *second], alike == other
    return [*words, ":", "yes" if answer else "no"], [len(words) + 1]


def _pair(rng: random.Random) -> tuple[list[str], bool]:
    alike = rng.random() < 0.5
    words = rng.sample(WORDS, 2)
    return ([words[0], words[0]] if alike else words), alike


RECIPE = Recipe(CONFIG, draw, steps=1000, batch=128, learning_rate=1e-3)


def train(*, seed: int = 0, steps: int | None = None, progress: Callable[[int, float], None] | None = None) -> Transformer:
    """The recipe, half a minute. `progress` is told the step and its loss on answers (nats)."""
    return follow(RECIPE, seed=seed, steps=steps, progress=progress)


if __name__ == "__main__":
    main("equality_lm", train, RECIPE.steps)
