"""The causal variable track where the variable, and the directions it stands in, are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cutaway as cut
from cutaway.benchmarks.mib.variables import BASES, entrants
from cutaway.errors import InputError
from cutaway.tasks.base import find_task

TASK = "hierarchical_equality:examples=false,n=60"


def test_every_method_that_measures_interchange_accuracy_enters_and_masks_with_each_basis() -> None:
    assert {"locate.interchange", "locate.das", "locate.boundless_das", *(f"locate.dbm:basis={b}" for b in BASES)} <= {*entrants()}


def test_the_whole_state_is_enough_where_it_holds_the_variable_alone(tmp_path: Path) -> None:
    lm = cut.open("equality_lm")
    task, chosen = find_task(TASK, lm), ("locate.interchange", "locate.dbm:basis=pca,steps=30")
    table = cut.mib.variables(lm, task, variable="left", methods=chosen, positions=("x.last",), layers=(0, 1), to=str(tmp_path))
    assert table.rows == chosen and table.columns == ("IIA", "best layer", "rival", "nothing")
    assert table.values[0, 0] == 1 and (table.values[:, 1] >= table.values[:, 0]).all()
    assert (table.values[:, 0] > table.values[:, 3]).all() and (table.values[:, 0] >= table.values[:, 2]).all()
    assert (
        table.low is not None
        and table.high is not None
        and (table.low <= table.values + 1e-9).all()
        and (table.values <= table.high + 1e-9).all()
    )
    again = cut.mib.variables(lm, task, variable="left", methods=chosen, positions=("x.last",), layers=(0, 1), to=str(tmp_path))
    assert np.array_equal(again.values, table.values) and again.provenance.forwards == 0


def test_a_result_about_something_else_is_refused(tmp_path: Path) -> None:
    lm = cut.open("induction_lm")
    theirs = cut.locate.component_patching(lm, "induction:n=4,length=6").save(tmp_path / "theirs")
    with pytest.raises(InputError, match="component_patching"):
        cut.mib.variables(lm, "induction:n=4,length=6", methods=(str(theirs),))
