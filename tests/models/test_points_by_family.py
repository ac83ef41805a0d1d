from __future__ import annotations

from pathlib import Path

from cutaway import registry
from cutaway.models.families.base import Family
from cutaway.models.points_by_family import by_family

PAGE = Path(__file__).parents[2] / "docs" / "points.md"


def test_the_page_holds_the_table() -> None:
    begin, end = "<!-- points by family: generated from src/cutaway/models/families -->\n\n", "\n\n<!-- end of points by family -->"
    assert PAGE.read_text("utf-8").partition(begin)[2].partition(end)[0] == by_family(), "put what by_family() returns between the markers"


def test_every_family_has_a_row_that_counts_its_points_and_names_what_is_missing() -> None:
    rows = {row.split(" | ")[0].strip("| `"): row.split(" | ") for row in by_family().splitlines()[2:]}
    assert rows.keys() == set(registry.names("models.families"))
    for name, cells in rows.items():
        own = registry.load("models.families", name)
        decoder = isinstance(own, Family)
        assert len(cells) == 5 and int(cells[3]) == len({*own.points, *(["logits"] if decoder else [])})
        assert decoder == (cells[1] == "decoder")
        for why, works in own.missing.values():
            assert why in cells[4] and works in cells[4]


def test_a_part_of_which_all_is_missing_is_said_in_short() -> None:
    row = next(row for row in by_family().splitlines() if row.startswith("| `mamba` "))
    assert "`layers[i].attn.*`" in row and "`layers[i].attn.q`" not in row
    assert "`layers[i].ssm.scan`" in row  # other points of that part are there
    unet = next(row for row in by_family().splitlines() if row.startswith("| `unet2d` "))
    assert "`up[i].attentions[j].blocks[k].*`" in unet and "blocks[k].attn" not in unet
