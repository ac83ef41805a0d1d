from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

import cutaway as cut
from cutaway.tasks.list_filtering import WORDS, list_filtering
from cutaway.zoo import filter_lm as module
from cutaway.zoo.filter_lm import CONFIG, KINDS, VOCAB, after, before, filter_lm, train
from cutaway.zoo.recipe import Text, accuracy

SEED = 10_000
"""Texts from here on were not drawn in training."""


@pytest.mark.parametrize("write", [after, before])
def test_it_answers_texts_it_has_not_seen(write: Callable[[random.Random, list[str]], Text]) -> None:
    rng = random.Random(SEED)
    assert accuracy(filter_lm(), [write(rng, rng.sample(list(KINDS), 5)) for _ in range(60)]) >= 0.95


def test_it_answers_its_task() -> None:
    assert set(WORDS) <= set(VOCAB)
    lm = cut.open("filter_lm")
    for first in (False, True):
        assert len(list_filtering(lm, n=20, question_first=first, known=True).pairs) == 20


def test_shape_of_the_file() -> None:
    path = Path(module.__file__).with_suffix(".safetensors")
    assert path.stat().st_size < 1_000_000
    assert filter_lm().config == CONFIG and not filter_lm().training


@pytest.mark.slow
def test_training_starts_to_learn() -> None:
    losses: list[float] = []
    train(seed=1, steps=10, progress=lambda step, loss: losses.append(loss))
    assert len(losses) == 10 and min(losses[-3:]) < losses[0] - 0.05
