"""Tables side by side: every cell where it belongs, and what is missing left open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cutaway as cut
from cutaway.errors import InputError, UnknownNameError
from cutaway.results.base import Provenance
from cutaway.results.scores import Scores


def table(path: Path, task: str, rows: tuple[str, ...], method: str = "mib.circuits") -> str:
    values = np.arange(2.0 * len(rows)).reshape(len(rows), 2)
    made = Scores(
        title="MIB circuit track",
        provenance=Provenance(method=method, model="m", task=task),
        rows=rows,
        columns=("CPR", "CMD"),
        units=("a", "b"),
        values=values,
        low=values - 1,
        high=values + 1,
    )
    return str(made.save(path / task))


def test_rows_of_all_tables_and_a_column_for_each(tmp_path: Path) -> None:
    both = [table(tmp_path, "one", ("x", "y")), table(tmp_path, "two", ("y", "z"))]
    found = cut.mib.leaderboard(both, column="CMD")
    assert found.rows == ("x", "y", "z") and found.columns == ("CMD of one on m", "CMD of two on m") and found.units == ("b", "b")
    np.testing.assert_array_equal(found.values, [[1, np.nan], [3, 1], [np.nan, 3]])
    np.testing.assert_array_equal(found.low, found.values - 1)
    assert cut.mib.leaderboard(both).columns[0].startswith("CPR")


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    one, other = table(tmp_path, "one", ("x",)), table(tmp_path, "two", ("x",), "mib.variables")
    for tables in ([], [one, other]):
        with pytest.raises(InputError):
            cut.mib.leaderboard(tables)
    with pytest.raises(UnknownNameError, match="CMD"):
        cut.mib.leaderboard([one], column="CDM")
