from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cutaway.results.grid import Grid

Draw = Callable[..., Any]


def small(table: list[list[float]], **changes: Any) -> Grid:
    from cutaway.results.base import Provenance

    array = np.array([table], float)
    array = changes.get("values", array)
    fields: dict[str, Any] = {
        "title": "Small",
        "provenance": Provenance("test", "none"),
        "row_axis": "token",
        "column_axis": "layer",
        "rows": tuple(f" r{i}" for i in range(array.shape[1])),
        "columns": tuple(str(i) for i in range(array.shape[2])),
        "panels": ("",),
        "values": array,
        "unit": "logits",
        "diverging": True,
    }
    return Grid(**(fields | changes))


@pytest.mark.slow
def test_words_of_a_lens(lens_grid: Grid, draw: Draw) -> None:
    text, document, _ = draw(lens_grid)
    assert "of 31 shown" in text and "30" in text.splitlines()[5]
    cells = document.all("td", "on") + [
        e for e in document.all("td") if "on" not in e.attributes.get("class", "") and e.attributes.get("style")
    ]
    assert len(cells) == lens_grid.values.size
    assert any("Paris" in cell.text for cell in cells)
    assert len(document.all("div", "panel")) == 1 and len(document.all("div", "words")) == 1


def test_a_cell_says_its_place_value_and_interval(effect_grid: Grid, draw: Draw) -> None:
    text, document, _ = draw(effect_grid)
    tips = {e.attributes["title"] for e in document.all("td") if "title" in e.attributes}
    value, low, high = (float(a[0, 4, 9]) for a in (effect_grid.values, effect_grid.low, effect_grid.high))  # type: ignore[index]
    assert f"token ·Tower, layer 9\n{value:.3f} [{low:.3f}, {high:.3f}] {effect_grid.unit}" in tips
    assert all(panel in text for panel in effect_grid.panels)
    assert len(document.all("td", "top")) == 3, "the largest value of each panel is outlined"


def test_colour_is_the_fraction_of_the_scale(draw: Draw) -> None:
    _, document, _ = draw(small([[0.0, 1.0, -2.0]]))
    cells = [e for e in document.all("td") if "style" in e.attributes]
    assert [c.attributes["style"] for c in cells] == ["--t:0%", "--t:50%", "--t:100%"]
    assert [c.attributes.get("class", "") for c in cells] == ["", "", "n on top"]


def test_largest_of_each_row_in_a_terminal(effect_grid: Grid) -> None:
    row = next(line for line in effect_grid.text().splitlines() if line.startswith("·Tower"))
    assert row.endswith(f"{effect_grid.values[0, 4].max():.3f}")
    assert set("▅▆▇█") & set(row)


def test_few_columns_are_printed_as_numbers(draw: Draw) -> None:
    text, _, _ = draw(small([[0.5, -1.25], [2.0, 0.0]]))
    assert "0.500  −1.25" in text


def test_many_rows_are_cut_and_the_text_says_so(draw: Draw) -> None:
    values = [[float(i), 0.0] for i in range(100)]
    text, document, _ = draw(small(values))
    assert "52 of 100 rows" in text and "·r99" in text and "·r1 " not in text
    assert len(document.all("tr")) == 102


def test_missing_values_are_hatched_and_never_zero(draw: Draw) -> None:
    text, document, _ = draw(small([[np.nan, 1.0] + [np.nan] * 10]))
    assert len(document.all("td", "none")) == 11
    assert "not measured" in document.all("p", "key")[0].text
    assert "█" in text


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_nothing_to_see(draw: Draw, value: float) -> None:
    text, _, _ = draw(small([[value] * 12] * 2))
    assert ("Largest" in text) == (value == 0.0)


def test_one_row_one_column(draw: Draw) -> None:
    text, document, _ = draw(small([[3.0]]))
    assert "3.00" in text and len(document.all("td", "top")) == 1


def test_several_panels_of_one_row(draw: Draw) -> None:
    values = np.arange(52, dtype=float).reshape(4, 1, 13)
    names = tuple(str(i) for i in range(13))
    _, document, _ = draw(small([[0.0]], values=values, panels=("a", "b", "c", "d"), rows=(" x",), columns=names))
    assert [e.text for e in document.all("p", "name")] == ["a", "b", "c", "d"]


def test_long_labels(draw: Draw) -> None:
    long = "a very long label that goes on and on without end " * 4
    text, _, _ = draw(small([[1.0, 2.0], [3.0, 4.0]], rows=(long, " b"), columns=(long, "c"), title=long, panels=(long,)))
    assert "…" in text


def test_labels_are_shown_not_run(draw: Draw, hostile: str) -> None:
    cells = (((hostile, "b"),),)
    grid = small(
        [[1.0, 2.0]], rows=(hostile,), columns=(hostile, "c"), panels=(hostile,), cells=cells, title=f"T {hostile}", limits=hostile
    )
    text, document, _ = draw(grid)
    assert not document.all("script")
    assert "49" not in text and "[bold]" in grid.html()
    assert any('<script>alert("x")</script>&amp;' in e.text for e in document.all("td"))
