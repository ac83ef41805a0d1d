"""Which method does best over tasks and models?

Puts the tables of several runs of a track side by side: one row an entry, one column a task and model.

Source:
    Mueller et al. 2025, arXiv 2504.13151, tables 2 and 3.

Example:
    >>> import cutaway as cut, tempfile
    >>> path = cut.mib.circuits(cut.open("induction_lm"), "induction:n=8,length=6", methods=("circuits.eap",)).save(tempfile.mkdtemp() + "/table")
    >>> cut.mib.leaderboard([str(path)]).columns
    ('CPR of induction on induction_lm',)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cutaway.errors import InputError, UnknownNameError
from cutaway.results.base import load
from cutaway.results.scores import Scores


def leaderboard(tables: Sequence[str], *, column: str | None = None) -> Scores:
    """The tables of one track, saved by `circuits` or `variables`, in one.

    column: what is compared, such as CMD; without it, the first of the first table. Entries that a table does not have are NaN there.
    Raises InputError for no table or tables of different tracks, UnknownNameError for a column, StorageError.
    """
    found = [load(path) for path in tables]
    made = [one for one in found if isinstance(one, Scores)]
    tracks = {one.provenance.method for one in found}
    if not made or len(made) < len(found) or len(tracks) > 1:
        works = "tables of mib.circuits, or of mib.variables"
        raise InputError("A leaderboard.", f"results of {', '.join(sorted(tracks)) or 'nothing'}", works)
    column = column or made[0].columns[0]
    for one in made:
        if column not in one.columns:
            raise UnknownNameError("column", column, one.columns)
    rows = tuple(dict.fromkeys(row for one in made for row in one.rows))
    bounds = [np.full((len(rows), len(made)), np.nan) for _ in range(3)]
    for i, one in enumerate(made):
        place = [rows.index(row) for row in one.rows]
        for table, of in zip(bounds, (one.values, one.low, one.high), strict=True):
            if of is not None:
                table[place, i] = of[:, one.columns.index(column)]
    return Scores(
        title=f"{made[0].title}: {column}",
        question="Which method does best over tasks and models?",
        limits="Intervals are over the texts of one task each; they do not say what another task would show.",
        provenance=replace(made[0].provenance, arguments={"tables": list(tables), "column": column}, task="", model=""),
        controls=tuple(control for one in made for control in one.controls),
        rows=rows,
        columns=tuple(f"{column} of {one.provenance.task.partition(':')[0]} on {one.provenance.model}" for one in made),
        units=(made[0].units[made[0].columns.index(column)],) * len(made),
        values=bounds[0],
        low=bounds[1],
        high=bounds[2],
    )
