"""The shipped model answers every question of hierarchical equality; its recipe learns."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

import cutaway as cut
from cutaway.tasks.base import find_task
from cutaway.zoo.equality_lm import CONFIG, RECIPE, VOCAB, WORDS, draw, equality_lm, train
from cutaway.zoo.recipe import accuracy


def test_it_answers_every_question_about_every_kind_of_pairs() -> None:
    model, ids = equality_lm(), {word: i for i, word in enumerate(VOCAB)}
    rng = random.Random(0)
    pairs = [(a, b) for a, b in itertools.product(WORDS, WORDS)]
    asked = [(*rng.choice(pairs), *rng.choice(pairs)) for _ in range(2000)] + [(*p, w, w) for p in pairs for w in ("dog", "king")]
    rows = torch.tensor([[ids[word] for word in ("<bos>", w, x, ",", y, z, ":")] for w, x, y, z in asked])
    wanted = torch.tensor([ids["yes" if (w == x) == (y == z) else "no"] for w, x, y, z in asked])
    with torch.no_grad():
        assert (model(rows)[:, -1].argmax(-1) == wanted).float().mean() > 0.995


def test_texts_are_answered_right() -> None:
    rng, texts = random.Random(0), []
    for _ in range(200):
        words, (place,) = draw(rng)
        texts.append((words, [place]))
        *asked, answer = words
        assert answer in ("yes", "no") and place == len(asked) and asked[-1] == ":"
        pairs = [asked[:2], asked[3:5]] if "," in asked else [asked[:2]]
        alike = [a == b for a, b in pairs]
        assert (answer == "yes") == (alike[0] == alike[-1] if len(pairs) == 2 else alike[0])
    assert accuracy(equality_lm(), texts) > 0.995


def test_it_speaks_the_words_of_the_task() -> None:
    assert equality_lm().config == CONFIG
    task = find_task("hierarchical_equality:examples=false,n=100", cut.open("equality_lm"))
    assert len(task) == 100, "it is right on all of them"
    asked = {word for pair in task.pairs for word in pair.base.text.split()}
    assert asked == {*WORDS, ",", ":"}


def test_the_recipe_is_seeded() -> None:
    one, same = train(steps=2), train(steps=2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))


@pytest.mark.slow
def test_the_recipe_makes_the_model() -> None:
    texts = [draw(random.Random(i)) for i in range(300)]
    assert accuracy(train(steps=RECIPE.steps), texts) > 0.99
