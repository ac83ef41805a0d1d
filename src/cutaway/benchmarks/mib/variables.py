"""Which method finds where the model holds a variable of the task's causal model?

Every method looks for the variable in each layer, on one half of the interchanges; where it did best there, it is judged on the other half.

Method:
    The base runs with the source's features at one place; interchange accuracy (IIA) is how often the likeliest next token is then the causal model's
    answer for the source's value of the variable. Entries are methods that declare the measure below, with options after a colon, such as
    `locate.dbm:basis=pca`, or the path of a saved featurizer as the basis. The full vector is the entry `locate.interchange`.

Measure:
    interchange accuracy

Source:
    Mueller et al. 2025, arXiv 2504.13151 (causal variable localisation track); Geiger et al. 2024, arXiv 2301.04709.

Returns:
    Scores: a row an entry; columns: IIA at the place that did best in training; the best place's on the half that judges (chosen there, so on
    the high side); the IIA of the method's first control at the former, such as random directions, as many; and of the base as it is. Intervals over
    the interchanges that judge.

Does not show:
    Whether the model uses the variable on other texts; a variable held at several positions at once.

Example:
    >>> import cutaway as cut
    >>> table = cut.mib.variables(cut.open("induction_lm"), "induction:n=8,length=6", methods=("locate.interchange",))
    >>> table.rows
    ('locate.interchange',)
"""

from __future__ import annotations

from functools import partial

import numpy as np

from cutaway.benchmarks.mib.entries import Entry, Folder
from cutaway.benchmarks.mib.entries import methods as methods_that
from cutaway.errors import InputError
from cutaway.methods.base import Started
from cutaway.models.language import LanguageModel
from cutaway.results.base import Interval
from cutaway.results.grid import Grid
from cutaway.results.scores import Scores
from cutaway.tasks.base import Task, find_task

MEASURES = ("interchange accuracy",)
BASES = ("neurons", "pca")
COLUMNS = ("IIA", "best layer", "rival", "nothing")


def variables(
    lm: LanguageModel,
    task: Task | str,
    *,
    variable: str | None = None,
    methods: tuple[str, ...] = (),
    positions: tuple[str, ...] = ("last",),
    layers: tuple[int, ...] = (),
    to: str | None = None,
    seed: int = 0,
) -> Scores:
    """Interchange accuracy of entries for one variable; see the module.

    variable: one of the task's causal model; without it, all that tells the two sides of a pair apart. methods: entries; without them, every
    method that declares the measure, with masks on neurons and on principal components. positions: where in the prompt, roles, numbers or
    `last`. layers: none for all. to: a folder that keeps each entry's grid, and in which an interrupted run goes on. seed: of the halves, of
    training and of intervals.
    Raises InputError, PromptError, StorageError, UnknownNameError.
    """
    task = find_task(task, lm)
    arguments = {"variable": variable, "methods": methods, "positions": positions, "layers": layers, "to": to}
    started = Started(lm, "mib.variables", task, seed, arguments)
    entries = [Entry(spec) for spec in methods or entrants()]
    where = {"variable": variable, "positions": positions, "layers": layers}
    folder = Folder(to)
    grids: dict[str, Grid] = {}
    for entry in entries:
        like = {"model": lm.name, "revision": lm.revision, "task": str(task)}
        made = folder.found_or(entry.file_name, like, partial(entry.run, lm, task, {**where, "seed": seed}))
        if not isinstance(made, Grid) or not made.unit.startswith(MEASURES) or made.provenance.arguments.get("variable") != variable:
            found = f"a {type(made).__name__} of {made.provenance.method}, of the variable {made.provenance.arguments.get('variable')}"
            raise InputError(f"{entry.spec} in the table of the variable {variable}.", found, ", ".join(entrants()))
        grids[entry.spec] = made
    return _table(grids, started)


def entrants() -> tuple[str, ...]:
    """All methods that declare the measure, masks with each basis."""
    found = methods_that("Measure", MEASURES)
    return tuple(spec for name in found for spec in ([f"{name}:basis={basis}" for basis in BASES] if name == "locate.dbm" else [name]))


def _table(grids: dict[str, Grid], started: Started) -> Scores:
    cells = [[grid.controls[0].found, _best(grid), grid.controls[0].trivial, _untouched(grid)] for grid in grids.values()]
    bounds = [np.array([[getattr(cell, end) for cell in row] for row in cells]) for end in ("value", "low", "high")]
    winner = max(grids.values(), key=lambda grid: grid.controls[0].found.value)
    return Scores(
        title="MIB causal variable track",
        question="Which method finds where the model holds the variable?",
        limits="At one position at a time, and on texts of the same kind as those it was found on.",
        provenance=started.provenance(),
        controls=winner.controls,
        rows=tuple(grids),
        columns=COLUMNS,
        units=(MEASURES[0],) * len(COLUMNS),
        values=bounds[0],
        low=bounds[1],
        high=bounds[2],
    )


def _best(grid: Grid) -> Interval:
    row, column = np.unravel_index(int(grid.values[0].argmax()), grid.values[0].shape)
    value = float(grid.values[0, row, column])
    low, high = (value if bound is None else float(bound[0, row, column]) for bound in (grid.low, grid.high))
    return Interval(value, low, high, grid.controls[0].found.n)


def _untouched(grid: Grid) -> Interval:
    return next((control.trivial for control in grid.controls if control.name == "no interchange"), Interval(np.nan, np.nan, np.nan, 0))
