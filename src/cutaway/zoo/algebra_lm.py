"""Multiplies in small groups whose elements have other letters each time: after "Facts : b d = k , d d = b , b d =", "k".

It was trained on texts of 24 products with factors drawn at random, in the cyclic groups of 4 to 6 elements and the dihedral group of 6. The
answers that its loss is about are those that have been given before, as x y or, where order does not matter, as y x; all others count as
any word does. The texts are those of the task `algebra`: its routes `copy` and `commuted` are what the model has learned, and identities,
associativity and cancellation are not.

    python -m cutaway.zoo.algebra_lm --out algebra_lm.safetensors
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from cutaway.zoo.base import Transformer, TransformerConfig
from cutaway.zoo.recipe import Recipe, Text, follow, main

LETTERS = tuple("bcdfghjkmnpqrstv")
FACTS = 24
FEW = 0.6
"""Share of the texts in which only the first six letters occur: where all are as frequent, learning to look up takes very much longer."""
VOCAB = ("<bos>", *"Facts : = ,".split(), *LETTERS)
CONFIG = TransformerConfig(VOCAB, n_layers=3, n_heads=4, d_model=64, d_head=32, d_mlp=128, max_length=128, positions="rotary")

Product = Callable[[int, int], int]


def _cyclic(order: int) -> Product:
    return lambda a, b: (a + b) % order


def _dihedral(a: int, b: int) -> int:
    """Of the triangle: 0 to 2 are rotations, 3 to 5 rotations of what was reflected before."""
    turned = a % 3 + (-(b % 3) if a >= 3 else b % 3)
    return turned % 3 + 3 * ((a >= 3) ^ (b >= 3))


GROUPS: tuple[tuple[int, Product], ...] = ((4, _cyclic(4)), (5, _cyclic(5)), (6, _cyclic(6)), (6, _dihedral))
"""Number of elements, and their product; element 0 is the identity."""


def algebra_lm() -> Transformer:
    """The trained model, from the weights shipped beside this file. Raises WeightsError if they are not there."""
    return Transformer.load(Path(__file__).with_suffix(".safetensors"))


def draw(rng: random.Random) -> Text:
    """Products in one group."""
    order, product = rng.choice(GROUPS)
    letters, words, answers = rng.sample(LETTERS[: 6 if rng.random() < FEW else None], order), ["Facts", ":"], list[int]()
    given = set[tuple[int, int]]()
    for _ in range(FACTS):
        left, right = rng.randrange(order), rng.randrange(order)
        words += [letters[left], letters[right], "=", letters[product(left, right)], ","]
        if (left, right) in given or ((right, left) in given and product(left, right) == product(right, left)):
            answers.append(len(words) - 2)
        given.add((left, right))
    return words[:-1], answers


RECIPE = Recipe(CONFIG, draw, steps=1500, batch=20, learning_rate=4e-3, matrices=0.02, back=(1, 2, 3))


def train(*, seed: int = 0, steps: int | None = None, progress: Callable[[int, float], None] | None = None) -> Transformer:
    """The recipe, some minutes on one core. `progress` is told the step and its loss on answers (nats)."""
    return follow(RECIPE, seed=seed, steps=steps, progress=progress)


if __name__ == "__main__":
    main("algebra_lm", train, RECIPE.steps)
