from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cutaway.errors import InputError
from cutaway.zoo import induction_lm as module
from cutaway.zoo.base import Transformer
from cutaway.zoo.induction_lm import VOCAB, induction_lm, repeats, train

LENGTH = 25
HEADS = tuple(itertools.product(range(2), range(8)))
SEED = 1234
"""Lists from here on were not trained on: 63! / 38! of them exist."""


@pytest.fixture(scope="module")
def model() -> Transformer:
    return induction_lm()


@pytest.fixture(scope="module")
def lists() -> Tensor:
    return repeats(128, LENGTH, seed=SEED)


@pytest.fixture(scope="module")
def shuffled(lists: Tensor) -> Tensor:
    """The control: the second time round, the same words in another order."""
    order = torch.rand(len(lists), LENGTH, generator=torch.Generator().manual_seed(SEED)).argsort(1)
    return torch.cat((lists[:, : LENGTH + 1], lists[:, LENGTH + 1 :].gather(1, order)), 1)


@torch.no_grad()
def _patterns(model: Transformer, ids: Tensor) -> Tensor:
    """(layer, head, query, key), mean over texts."""
    seen: list[Tensor] = []
    hooks = [block.attn.pattern.register_forward_hook(lambda _, args, output: seen.append(output.mean(0))) for block in model.blocks]
    model(ids)
    for hook in hooks:
        hook.remove()
    return torch.stack(seen)


def _attention(model: Transformer, ids: Tensor, back: int) -> Tensor:
    """(layer, head): mean attention of the list's second round to the token so many before."""
    queries = torch.arange(LENGTH + 1, 2 * LENGTH + 1)
    return _patterns(model, ids)[:, :, queries, queries - back].mean(-1)


def _prefix_matching(model: Transformer, ids: Tensor) -> Tensor:
    return _attention(model, ids, LENGTH - 1)


@contextmanager
def _without(model: Transformer, heads: Iterable[tuple[int, int]]) -> Iterator[None]:
    def zero(layer: int, args: tuple[Tensor]) -> tuple[Tensor]:
        z = args[0].unflatten(2, (8, -1)).clone()
        z[:, :, [h for i, h in gone if i == layer]] = 0
        return (z.flatten(2),)

    gone = list(heads)
    hooks = [
        block.attn.o_proj.register_forward_pre_hook(lambda _, args, layer=layer: zero(layer, args))
        for layer, block in enumerate(model.blocks)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _copying(model: Transformer, ids: Tensor, without: Iterable[tuple[int, int]] = ()) -> float:
    """Share of the second round's words, from its second on, that are the best guess before they come."""
    with _without(model, without):
        guesses = model(ids)[:, LENGTH + 1 : -1].argmax(-1)
    return (guesses == ids[:, LENGTH + 2 :]).float().mean().item()


def _induction_heads(model: Transformer, ids: Tensor) -> list[tuple[int, int]]:
    scores = _prefix_matching(model, ids)
    return [head for head in HEADS if scores[head] >= 0.5]


def test_it_copies_lists_it_has_not_seen_and_not_their_shuffles(model: Transformer, lists: Tensor, shuffled: Tensor) -> None:
    assert _copying(model, lists) >= 0.95
    assert _copying(model, shuffled) < 0.1


def test_heads_of_layer_1_match_prefixes_and_the_rest_do_not(model: Transformer, lists: Tensor, shuffled: Tensor) -> None:
    scores = _prefix_matching(model, lists)
    found = _induction_heads(model, lists)
    assert 1 <= len(found) <= 4 and {layer for layer, _ in found} == {1}
    assert all(scores[head] < 0.25 for head in HEADS if head not in found)
    assert _prefix_matching(model, shuffled).max() < 0.15


def test_one_head_of_layer_0_looks_at_the_previous_token(model: Transformer, lists: Tensor, shuffled: Tensor) -> None:
    for ids in (lists, shuffled):  # it goes by place, so the order of words does not matter to it
        scores = _attention(model, ids, 1)
        first, second = scores[0].topk(2).values
        assert first >= 0.5 and second < 0.25
        assert scores[1].max() < 0.25


@pytest.mark.slow
def test_knocking_out_the_found_heads_ends_copying_and_as_many_others_do_not(model: Transformer, lists: Tensor) -> None:
    induction = _induction_heads(model, lists)
    previous = (0, int(_attention(model, lists, 1)[0].argmax()))
    assert _copying(model, lists, induction) < 0.2
    assert _copying(model, lists, [previous]) < 0.2
    others = [head for head in HEADS if head not in (*induction, previous)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        chosen = [others[i] for i in torch.randperm(len(others), generator=generator)[: len(induction)]]
        assert _copying(model, lists, chosen) > 0.8


@torch.no_grad()
def test_the_other_texts_are_foreseen_by_topic(model: Transformer) -> None:
    """Texts of two topics without repeats: better than a guess among all words, and than the same words without their context."""
    generator = torch.Generator().manual_seed(SEED)
    topics = torch.rand(256, 7, generator=generator).argsort(1)[:, :2]
    words = topics.gather(1, torch.randint(2, (256, 60), generator=generator)) * 9 + torch.randint(9, (256, 60), generator=generator) + 1
    ids = torch.cat((torch.zeros(256, 1, dtype=torch.long), words), 1)
    loss = F.cross_entropy(model(ids)[:, 40:-1].flatten(0, 1), ids[:, 41:].flatten()).item()
    assert loss < math.log(63) - 0.6
    assert loss > math.log(18) - 0.05  # nobody can do better than to know the two topics


def test_shape_of_the_file(model: Transformer) -> None:
    path = Path(module.__file__).with_suffix(".safetensors")
    assert path.stat().st_size < 1_000_000
    assert len(set(VOCAB)) == 64 and VOCAB[0] == "<bos>" and all(word.isalpha() and word.islower() for word in VOCAB[1:])
    assert model.config == module.CONFIG and not model.training


def test_lists_are_different_words_twice() -> None:
    ids = repeats(5, 31, seed=2)
    assert ids.shape == (5, 63) and (ids[:, 0] == 0).all() and (ids[:, 1:] > 0).all()
    assert torch.equal(ids[:, 1:32], ids[:, 32:]) and all(len(set(row.tolist())) == 31 for row in ids[:, 1:32])
    with pytest.raises(InputError, match="1 to 31"):
        repeats(1, 32)


@pytest.mark.slow
def test_training_starts_to_learn() -> None:
    losses: list[float] = []
    train(seed=1, steps=20, progress=lambda step, loss: losses.append(loss))
    assert len(losses) == 20
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.slow
def test_training_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = train(seed=1, steps=2), train(seed=1, steps=2), train(seed=2, steps=2)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.embed.weight, other.embed.weight)
