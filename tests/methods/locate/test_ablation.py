"""Knocking out and keeping, where it is known what must happen."""

from __future__ import annotations

import numpy as np
import pytest

import cutaway as cut
from cutaway.errors import InputError
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task
from cutaway.zoo import planted_circuit

Known = tuple[LanguageModel, Task]


def test_without_the_planted_circuit_the_answer_is_gone_and_with_it_alone_it_stays(planted: Known) -> None:
    size = len(planted_circuit.circuit())
    curve = cut.locate.ablation(*planted, ranking=planted_circuit.circuit(), ks=(0, size))
    at = curve.x.tolist().index(size)
    gone, kept = curve.series[0][0].value, curve.series[1][0].value
    assert gone[0] == pytest.approx(curve.levels["untouched"], abs=1e-4)
    assert gone[at] < 0.3 * curve.levels["untouched"]
    assert kept[at] == pytest.approx(curve.levels["untouched"], abs=1e-3)


def test_its_own_ranking_finds_the_planted_circuit(planted: Known) -> None:
    size = len(planted_circuit.circuit())
    curve = cut.locate.ablation(*planted, ks=(size,))
    assert curve.series[1][0].value[0] == pytest.approx(curve.levels["untouched"], abs=1e-3)


@pytest.mark.slow
def test_knocking_out_the_induction_heads_removes_the_copying_and_random_heads_do_not(induction: Known) -> None:
    lm, task = induction
    found = cut.locate.component_patching(lm, task).ranked()
    last = [row for row in found if row.startswith(f"layers[{lm.sizes.n_layers - 1}]")][:3]
    held_out = cut.locate.ablation(lm, "induction:n=24,length=12,seed=5", ranking=tuple(last), ks=(3,), metric="accuracy")
    heads, random = held_out.series[0]
    assert held_out.levels["untouched"] > 0.9
    assert heads.value[0] < 0.4
    assert random.value[0] > heads.value[0] + 0.3


def test_random_sets_match_layers_and_kinds(planted: Known) -> None:
    import random

    from cutaway.methods.base import components
    from cutaway.methods.locate.ablation import _random_like

    order = components(planted[0])
    taken = _random_like(order, 3, random.Random(0))
    assert [part.layer for part in taken] == [0, 0, 0] and len(set(taken)) == 3
    assert not set(taken[:1]) & set(order[:3]), "heads outside the top while there are any"


def test_everything_kept_is_the_untouched_model(induction: Known) -> None:
    curve = cut.locate.ablation(*induction, ks=(0,), draws=1)
    assert curve.series[1][0].value[-1] == pytest.approx(curve.levels["untouched"], abs=1e-4)
    assert np.allclose(curve.series[0][0].value[-1], curve.series[1][0].value[0], atol=1e-4)


def test_a_ranking_of_something_else_is_refused(planted: Known) -> None:
    with pytest.raises(InputError, match="neither a head nor an MLP"):
        cut.locate.ablation(*planted, ranking=("layers[0].output",))
