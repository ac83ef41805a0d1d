"""Batches of pairs of several lengths give what pairs one by one give; a graph's circuit reaches the model's edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cutaway as cut
from cutaway.methods.base import examples
from cutaway.methods.circuits.base import batches, distance, keeping, measured, performance
from cutaway.models.edges import Edges
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task

Known = tuple[LanguageModel, Task]


def test_batches_hold_pairs_of_one_length_and_all_of_them(planted: Known) -> None:
    lm, task = planted
    edges, every = Edges(lm), examples(lm, task, "logit_difference")
    together = batches(edges, every)
    assert sorted(n for batch in together for n in batch.numbers) == list(range(len(every)))
    assert len(together) > 1 and max(len(batch.numbers) for batch in together) > 1
    assert all(not batch.base.padded and len(batch.base) == len(batch.numbers) for batch in together)
    alone = batches(edges, every, budget=1)
    assert len(alone) == len(every)
    keep = [torch.rand(len(edges.senders), len(edges.receivers), generator=torch.Generator().manual_seed(0)), torch.ones(16, 40)]
    by_many, by_one = (measured(edges, some, keep, "counterfactual") for some in (together, alone))
    assert by_many == pytest.approx(by_one, abs=1e-3)
    assert by_many[1] == pytest.approx([example.at_base for example in every], abs=1e-3)


def test_what_a_graph_keeps(planted: Known) -> None:
    lm, _ = planted
    graph = cut.circuits.eap(*planted).top(6)
    keep = keeping(Edges(lm), graph)
    assert int(keep.sum()) == 6 and keep.shape == (16, 40)


def test_areas() -> None:
    at, f = np.array([0.0, 0.5, 1.0]), np.array([[0.0, 1.0, 1.0], [0.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
    assert performance(at, f).tolist() == [0.75, 1.25, 1.0]
    assert distance(at, f).tolist() == [0.25, 0.75, 0.0]
