from __future__ import annotations

import random
from pathlib import Path

import pytest

from cutaway.tasks.entity_tracking import WORDS
from cutaway.zoo import entity_base_lm as module
from cutaway.zoo.entity_base_lm import CONFIG, VOCAB, draw, entity_base_lm, story, train
from cutaway.zoo.recipe import accuracy

SEED = 10_000
"""Texts from here on were not drawn in training."""


def test_it_is_right_more_often_than_by_chance_and_often_wrong() -> None:
    model, rng = entity_base_lm(), random.Random(SEED)
    assert 0.6 < accuracy(model, [draw(rng) for _ in range(100)]) < 0.85
    first = [(words, answers[:1]) for words, answers in (story(rng, 5) for _ in range(100))]
    assert 0.4 < accuracy(model, first) < 0.85


def test_its_words_are_those_of_its_task() -> None:
    assert set(WORDS) <= set(VOCAB)


def test_shape_of_the_file() -> None:
    path = Path(module.__file__).with_suffix(".safetensors")
    assert path.stat().st_size < 1_000_000
    assert entity_base_lm().config == CONFIG and not entity_base_lm().training


@pytest.mark.slow
def test_training_starts_to_learn() -> None:
    losses: list[float] = []
    train(seed=1, steps=10, progress=lambda step, loss: losses.append(loss))
    assert len(losses) == 10 and min(losses[-3:]) < losses[0] - 0.05
