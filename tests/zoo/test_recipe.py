from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from cutaway.zoo.base import TransformerConfig
from cutaway.zoo.recipe import Recipe, Text, accuracy, begun, encoded, follow

VOCAB = ("<bos>", *"abcd")
CONFIG = TransformerConfig(VOCAB, n_layers=1, n_heads=2, d_model=16, d_head=8, max_length=8)


def _draw(rng: random.Random) -> Text:
    """A letter, some others, and the letter again."""
    words = rng.choices("abcd", k=rng.randint(2, 4))
    return [*words, words[0]], [len(words)]


RECIPE = Recipe(CONFIG, _draw, steps=80, batch=32, learning_rate=1e-2)


def test_texts_are_padded_on_the_right_and_answers_marked() -> None:
    ids, answers = encoded([(list("abc"), [1, 2]), (["d"], [0])], VOCAB)
    assert ids.tolist() == [[0, 1, 2, 3], [0, 4, 0, 0]]
    assert answers.tolist() == [[False, False, True, True], [False, True, False, False]]


def test_what_else_is_minimised_is() -> None:
    def size(recipe: Recipe) -> float:
        return follow(recipe, seed=1, steps=5).unembed.weight.norm().item()

    small = replace(RECIPE, further=lambda model, rng: 100 * model.unembed.weight.square().sum())
    assert size(small) < size(RECIPE)


def test_it_learns_and_can_be_trained_further() -> None:
    losses: list[float] = []
    model = follow(RECIPE, seed=1, progress=lambda step, loss: losses.append(loss))
    texts = [_draw(random.Random(i)) for i in range(1000, 1100)]
    assert len(losses) == 80 and losses[-1] < losses[0] / 2 and not model.training
    before = accuracy(model, texts)
    assert before > 0.6
    further = follow(RECIPE, seed=2, steps=20, start=model)
    assert further is model and accuracy(model, texts) > 0.6


def test_accuracy_counts_answers() -> None:
    model = follow(RECIPE, steps=0)
    model.unembed.weight.data.zero_()
    model.unembed.bias.data[VOCAB.index("b")] = 1.0
    assert accuracy(model, [(list("aab"), [0, 2]), (list("bb"), [1])]) == pytest.approx(2 / 3)


def test_training_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = (follow(RECIPE, seed=seed, steps=3) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.embed.weight, other.embed.weight)


def test_heads_start_out_looking_back() -> None:
    config = TransformerConfig(VOCAB, n_layers=1, n_heads=3, d_model=48, d_head=16, max_length=16, positions="rotary")
    model, seen = begun(Recipe(config, _draw, steps=0, back=(1, 4))), list[torch.Tensor]()
    model.layers[0].attn.pattern.register_forward_hook(lambda _, args, output: seen.append(output))  # type: ignore[union-attr]
    with torch.no_grad():
        model(torch.randint(5, (8, 16), generator=torch.Generator().manual_seed(0)))
    for head, back in enumerate((1, 4)):
        queries = torch.arange(back, 16)
        assert seen[0][:, head, queries, queries - back].min() > 0.8
    assert seen[0][:, 2, 8:].mean(0).amax() < 0.8  # the third is left as it was drawn
