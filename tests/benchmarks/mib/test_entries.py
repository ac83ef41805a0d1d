"""What enters a track: pairs in two halves, methods with options."""

from __future__ import annotations

import pytest

import cutaway as cut
from cutaway.benchmarks.mib.entries import Entry, halves
from cutaway.errors import InputError, UnknownNameError
from cutaway.tasks.base import Task, find_task


def texts(task: Task) -> set[tuple[str, str]]:
    return {(pair.base.text, pair.counterfactual.text) for pair in task.pairs}


def test_halves_share_no_pair() -> None:
    task = find_task("induction:n=9,length=6", cut.open("induction_lm"))
    finding, judging = halves(task)
    assert (len(finding), len(judging)) == (4, 5) and not texts(finding) & texts(judging)
    with pytest.raises(InputError, match="four or more"):
        halves(task.with_pairs(task.pairs[:1] * 9))


@pytest.mark.parametrize(("spec", "error"), [("circuits.eapp", UnknownNameError), ("circuits.eap_ig:stepz=3", InputError)])
def test_an_entry_that_is_not_understood_is_refused(spec: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        Entry(spec)


def test_options_of_an_entry_win_over_the_tracks_own() -> None:
    lm = cut.open("induction_lm")
    task = find_task("induction:n=4,length=6", lm)
    found = Entry("circuits.eap_ig:steps=2,along=activations").run(lm, task, {"seed": 4, "steps": 7, "sizes": (1,)})
    assert found.provenance.seed == 4 and found.provenance.arguments["steps"] == 2 and found.provenance.arguments["along"] == "activations"
