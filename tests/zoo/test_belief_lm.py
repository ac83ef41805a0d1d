from __future__ import annotations

import random
from pathlib import Path

import pytest

import cutaway as cut
from cutaway.tasks.belief_tracking import WORDS, belief_tracking
from cutaway.zoo import belief_lm as module
from cutaway.zoo.belief_lm import CONFIG, VOCAB, belief_lm, draw, train
from cutaway.zoo.recipe import accuracy

SEED = 10_000
"""Texts from here on were not drawn in training."""


def test_it_answers_texts_it_has_not_seen() -> None:
    rng = random.Random(SEED)
    assert accuracy(belief_lm(), [draw(rng) for _ in range(60)]) >= 0.95


def test_it_answers_its_task() -> None:
    assert set(WORDS) <= set(VOCAB)
    lm = cut.open("belief_lm")
    task = belief_tracking(lm, n=40, seed=SEED, known=False)
    guesses = lm.next_logits([pair.base for pair in task.pairs]).argmax(-1).tolist()
    right = [lm.token_text(guess) == pair.answer for guess, pair in zip(guesses, task.pairs, strict=True)]
    assert sum(right) >= 0.95 * len(right)


def test_shape_of_the_file() -> None:
    path = Path(module.__file__).with_suffix(".safetensors")
    assert path.stat().st_size < 1_000_000
    assert belief_lm().config == CONFIG and not belief_lm().training


@pytest.mark.slow
def test_training_starts_to_learn() -> None:
    losses: list[float] = []
    train(seed=1, steps=10, progress=lambda step, loss: losses.append(loss))
    assert len(losses) == 10 and min(losses[-3:]) < losses[0] - 0.05
