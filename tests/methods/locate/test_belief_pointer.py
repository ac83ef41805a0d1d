"""Lookback in the model of belief stories: what is asked about is carried before the answer is, and leads to a third answer in another story.

Prakash et al. 2025, arXiv 2505.14685. The small model points by the names of person and vessel, not by their order in the story.
"""

from __future__ import annotations

import numpy as np
import pytest

import cutaway as cut
from cutaway.mediators.swap import swap
from cutaway.methods.locate._alignment import UNIT
from cutaway.models.language import LanguageModel
from cutaway.results.grid import Grid
from cutaway.tasks.base import find_task
from cutaway.tasks.behaviour import Interchange, interchanges

POINTER, PAYLOAD = 0, [1, 2, 3]
"""Layers after which the last token holds the address, and the answer."""
ONE_CAST = "belief_tracking:one_cast=true"


@pytest.fixture(scope="module")
def believer() -> LanguageModel:
    return cut.open("belief_lm")


def accuracies(lm: LanguageModel, task: str, variable: str) -> np.ndarray:
    """Of the last token's state: (source's own or another's, layer)."""
    grid = cut.locate.interchange(lm, task, variable=variable, positions=("last",))
    assert grid.unit == UNIT
    return grid.values[:, 0]


@pytest.mark.slow
def test_the_address_is_carried_before_the_answer(believer: LanguageModel) -> None:
    address, another = accuracies(believer, f"{ONE_CAST},n=40", "address")
    assert address[POINTER] >= 0.95 and address[PAYLOAD].max() <= 0.3
    assert another.max() <= 0.5
    answer, _ = accuracies(believer, f"{ONE_CAST},n=40", "answer")
    assert answer[POINTER] <= 0.3 and answer[PAYLOAD].min() >= 0.9


@pytest.mark.slow
def test_a_pointer_leads_to_a_third_answer(believer: LanguageModel) -> None:
    """The base's other word, which neither of the two would answer; a state of another role does not lead there, nor one of other people."""
    lm = believer
    every = third(lm, f"{ONE_CAST},unknown=false")
    shared, strangers = answered(lm, every, "last"), answered(lm, third(lm, "belief_tracking:unknown=false"), "last")
    assert shared[POINTER] >= 0.8 and shared[PAYLOAD].max() <= 0.1
    assert strangers[POINTER] <= 0.3, "by name, not by place"
    for role in ("state_1.last", "asked_name.last", "sight_2.last"):
        assert answered(lm, every, role).max() <= 0.05


@pytest.mark.slow
def test_few_components_carry_the_address(believer: LanguageModel) -> None:
    grid = cut.locate.dbm(believer, f"{ONE_CAST},n=200", variable="address", layers=(POINTER,), basis="pca")
    mask, full, random = grid.values[:, 0, 0]
    assert mask >= 0.9 * full and full >= 0.95 and random <= 0.65
    assert features(grid) <= 0.25 * believer.sizes.d_model


def third(lm: LanguageModel, task: str) -> list[Interchange]:
    """Interchanges of the pointer after which the answer is that of neither."""
    every = [one for one in interchanges(find_task(task, lm), lm, "pointer", n=100) if one.answer not in one.own]
    assert len(every) >= 30
    return every


def answered(lm: LanguageModel, every: list[Interchange], role: str) -> np.ndarray:
    """How often the base is answered with its other word when its last token has the source's state of a role, for each layer."""
    bases, sources = lm.tokens([one.base for one in every]), lm.tokens([one.source for one in every])
    rates = []
    for layer in range(lm.sizes.n_layers):
        at = f"layers[{layer}].output"
        there = lm.run(sources, read=[f"{at}[pos={role}]"])[f"{at}[pos={role}]"]
        said = lm.last(lm.run(bases, edits=[(f"{at}[pos=last]", swap(there))]).output).argmax(-1).tolist()
        rates.append(np.mean([token == lm.token_id(one.answer) for token, one in zip(said, every, strict=True)]))
    return np.array(rates)


def features(grid: Grid) -> int:
    assert grid.cells is not None
    return int(grid.cells[0][0][0].partition("/")[2])
