"""The circuit track on models whose circuit is known, and what a folder and a saved result do in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cutaway as cut
from cutaway.benchmarks.mib.circuits import MEDIATORS
from cutaway.benchmarks.mib.entries import halves, methods
from cutaway.errors import InputError, StorageError
from cutaway.results.trajectory import Trajectory
from cutaway.tasks.base import find_task

MODEL, TASK = "compiled.reverse", "known_circuit:n=8"
EXACT = "circuits.edge_patching"


def test_every_method_that_scores_edges_or_parts_enters_by_what_it_declares() -> None:
    entered = methods("Mediator", MEDIATORS)
    assert {"circuits.eap", "circuits.eap_ig", EXACT, "circuits.mask", "circuits.flow_routes", "locate.component_patching"} <= {*entered}
    assert not {"circuits.peap", "circuits.faithfulness", "locate.das", "read.logit_lens"} & {*entered}


@pytest.mark.slow
def test_a_known_circuit_is_found_and_a_random_one_is_not(tmp_path: Path) -> None:
    table = cut.mib.circuits(cut.open(MODEL), TASK, methods=(EXACT, "circuits.eap", "locate.component_patching"), to=str(tmp_path))
    cell = {(row, column): table.values[i, j] for i, row in enumerate(table.rows) for j, column in enumerate(table.columns)}
    assert table.rows[-1] == "random" and table.columns == ("CPR", "CMD", "AUROC")
    for name in (EXACT, "circuits.eap"):
        assert cell[name, "AUROC"] == 1 and cell[name, "CMD"] < 0.05 < 0.5 < cell["random", "CMD"]
        assert cell[name, "CPR"] > 0.9 > cell["random", "CPR"]
    assert cell["random", "CMD"] > cell["locate.component_patching", "CMD"] > cell[EXACT, "CMD"]
    curve = cut.load(tmp_path / f"{EXACT}.curve.json")
    assert isinstance(curve, Trajectory)
    (series,) = curve.series[0]
    assert series.value[-1] == 1 and abs(series.value[0]) < 1
    (control,) = table.controls
    assert control.found.value == cell[min(table.rows[:-1], key=lambda r: cell[r, "CMD"]), "CMD"] < control.trivial.low


@pytest.mark.slow
def test_a_run_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    lm = cut.open(MODEL)
    first = cut.mib.circuits(lm, TASK, methods=("circuits.eap",), to=str(tmp_path))
    again = cut.mib.circuits(lm, TASK, methods=("circuits.eap", EXACT), to=str(tmp_path))
    assert np.array_equal(again.values[[0, 2]], first.values)
    lone = cut.mib.circuits(lm, TASK, methods=(EXACT,))
    assert again.provenance.forwards < lone.provenance.forwards + first.provenance.forwards
    with pytest.raises(StorageError, match="another folder"):
        cut.mib.circuits(lm, TASK, methods=("circuits.eap",), to=str(tmp_path), ablation="zero")


def test_a_saved_result_enters_as_the_method_that_made_it(tmp_path: Path) -> None:
    lm = cut.open(MODEL)
    finding, _ = halves(find_task(TASK, lm))
    theirs = cut.circuits.eap(lm, finding).save(tmp_path / "theirs")
    table = cut.mib.circuits(lm, TASK, methods=(str(theirs), "circuits.eap"))
    assert np.array_equal(table.values[0], table.values[1])
    with pytest.raises(InputError, match="edges of this model"):
        cut.mib.circuits(cut.open("induction_lm"), "induction:n=4,length=6", methods=(str(theirs),))
