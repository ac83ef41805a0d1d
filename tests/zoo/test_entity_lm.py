from __future__ import annotations

import random
from pathlib import Path

import torch

import cutaway as cut
from cutaway.tasks.entity_tracking import entity_tracking
from cutaway.zoo import entity_lm as module
from cutaway.zoo.entity_base_lm import CONFIG, entity_base_lm, story
from cutaway.zoo.entity_lm import draw, entity_lm, train
from cutaway.zoo.recipe import accuracy

SEED = 10_000
"""Texts from here on were not drawn in training."""


def test_it_answers_texts_it_has_not_seen_and_the_base_model_does_not() -> None:
    rng = random.Random(SEED)
    assert accuracy(entity_lm(), [draw(rng) for _ in range(60)]) >= 0.95
    seven = [story(rng, 7) for _ in range(60)]
    assert accuracy(entity_lm(), seven) >= accuracy(entity_base_lm(), seven) + 0.2


def test_it_answers_its_task() -> None:
    lm = cut.open("entity_lm")
    task = entity_tracking(lm, boxes=7, n=40, seed=SEED, known=False)
    guesses = lm.next_logits([pair.base for pair in task.pairs]).argmax(-1).tolist()
    right = [lm.token_text(guess) == pair.answer for guess, pair in zip(guesses, task.pairs, strict=True)]
    assert sum(right) >= 0.95 * len(right)


def test_shape_of_the_file() -> None:
    path = Path(module.__file__).with_suffix(".safetensors")
    assert path.stat().st_size < 1_000_000
    assert entity_lm().config == CONFIG and not entity_lm().training


def test_training_starts_from_the_base_model() -> None:
    base = entity_base_lm()
    assert all(torch.equal(a, b) for a, b in zip(train(steps=0).parameters(), base.parameters(), strict=True))
    assert not torch.equal(train(steps=1).embed.weight, base.embed.weight)
