"""What methods share: rows of averaged maps, components, controls."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import cutaway as cut
from cutaway.errors import PromptError
from cutaway.methods import base
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Pair, Task

Known = tuple[LanguageModel, Task]


def test_buckets_name_every_token_around_the_subject(planted: Known) -> None:
    lm, task = planted
    pair = Pair(cut.Prompt.mark("today i met elena and the colour is", subject="i met elena"), task.pairs[0].base, "red", "pink")
    tokens = lm.tokens(pair.base)
    rows = [base.BUCKETS[r].format("subject") for r in base._buckets(tokens, "subject")]
    assert rows == ["before subject"] * 2 + ["first subject", "middle subject", "last subject", "first after"] + ["further"] * 2 + ["last"]


def test_a_subject_of_one_token_is_its_last(planted: Known) -> None:
    lm, task = planted
    rows = [base.BUCKETS[r].format("subject") for r in base._buckets(lm.tokens(task.pairs[0].base), "subject")]
    assert "first subject" not in rows and rows.count("last subject") == 1


def test_averaged_takes_each_example_once_per_row() -> None:
    first, second = np.arange(6.0).reshape(1, 3, 2), 10 * np.arange(4.0).reshape(1, 2, 2)
    maps = base.averaged([first, second], [[0, 0, 1], [1, 2]], 3)
    assert maps[0, 0].tolist()[:2] == [[1.0, 2.0], [4.0, 5.0]] and np.isnan(maps[0, 0, 2]).all()
    mean, low, high = base.bounds_over_present(maps, 0)
    assert mean[0].tolist() == [[1.0, 2.0], [2.0, 7.5], [20.0, 30.0]]
    assert np.isnan(low[0, 0]).all() and (low[0, 1] <= mean[0, 1]).all() and (high[0, 1] >= mean[0, 1]).all()


def test_noise_of_the_same_length_has_it_and_another_direction() -> None:
    difference = torch.randn(4, 3, 64, generator=torch.Generator().manual_seed(0))
    noise = base.same_length_noise(difference, torch.Generator().manual_seed(1))
    assert torch.allclose(noise.norm(dim=-1), difference.norm(dim=-1), atol=1e-5)
    assert torch.cosine_similarity(noise, difference, dim=-1).abs().max() < 0.5


def test_components_are_all_heads_and_mlps(planted: Known, induction: Known) -> None:
    assert len(base.components(planted[0])) == 3 * (4 + 1)
    attention_only = base.components(induction[0])
    assert len(attention_only) == 2 * induction[0].sizes.n_heads and all(part.head is not None for part in attention_only)


def test_sides_of_different_lengths_are_refused(planted: Known) -> None:
    lm, task = planted
    pair = dataclasses.replace(task.pairs[0], counterfactual=cut.Prompt("this is felix"))
    with pytest.raises(PromptError, match="tokens"):
        base.examples(lm, task.with_pairs([pair]), "probability")


def test_provenance_counts_forwards_and_names_versions(planted: Known) -> None:
    lm, task = planted
    result = cut.locate.direct_effect(lm, task)
    assert result.provenance.forwards == len(task) * 3  # both sides, and one read of every part
    assert result.provenance.n == len(task) and set(result.provenance.versions) == {"cutaway", "torch", "transformers"}
