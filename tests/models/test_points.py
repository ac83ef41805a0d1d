from __future__ import annotations

from pathlib import Path

import pytest

from cutaway import registry
from cutaway.address import Address
from cutaway.models.families.base import Family
from cutaway.models.points import BY_NAME, KINDS, POINTS, generic, row, standard, table, tables


def test_names_are_addresses_and_differ() -> None:
    assert len(BY_NAME) == len(POINTS)
    for point in POINTS:
        assert Address.parse(point.name.replace("[i]", "[3]")).layer == (3 if "[i]" in point.name else None)
        assert point.meaning and point.dims[0] == "batch"


@pytest.mark.parametrize(
    ("name", "found"), [("layers[12].attn.z", ("layers[i].attn.z", 12)), ("embed", ("embed", 0)), ("logits", ("logits", 0))]
)
def test_row(name: str, found: tuple[str, int]) -> None:
    point, layer = row(name) or (None, -1)
    assert point is BY_NAME[found[0]] and layer == found[1]


@pytest.mark.parametrize("name", ["layers[1]", "layers[1].attn.zz", "attn.z", "layers[i].attn.z[0]", "x.layers[1].attn.z", ""])
def test_no_row(name: str) -> None:
    assert row(name) is None


FAMILIES = [name for name in registry.names("models.families") if isinstance(registry.load("models.families", name), Family)]
LAYOUTS = [name for name in registry.names("models.families") if name not in FAMILIES]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_speaks_of_every_point(family: str) -> None:
    """It says where it is, or why it is not; `logits` is the output of the model unless said otherwise. No model type is claimed twice."""
    own = registry.load("models.families", family)
    assert own.name == family
    asked = {p.name for p in POINTS if p.without is None or (own.ssm and p.name.startswith("layers[i].ssm"))}
    assert {*own.points, *own.missing, "logits"} >= asked and not set(own.points) & set(own.missing)
    assert set(own.points) <= set(BY_NAME)
    others = [registry.load("models.families", name) for name in FAMILIES if name != family]
    assert not [o.name for o in others for t in own.model_types if t in o.model_types and o.config == own.config]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_speaks_of_every_point_of_its_kind(layout: str) -> None:
    own = registry.load("models.families", layout)
    table = {point.name for point in KINDS[own.kind]}
    assert own.name == layout and (own.model_types or own.classes)
    assert set(own.points) | set(own.missing) == table and not set(own.points) & set(own.missing)
    others = [registry.load("models.families", name) for name in LAYOUTS if name != layout]
    claimed = {*own.model_types, *own.classes}
    assert not [o.name for o in others if claimed & {*o.model_types, *o.classes} and o.config == own.config]


@pytest.mark.parametrize("table", KINDS)
def test_names_of_a_kind_are_addresses_and_differ(table: str) -> None:
    names = [point.name for point in KINDS[table]]
    assert len(set(names)) == len(names)
    for point in KINDS[table]:
        numbered = point.name.replace("[i]", "[3]").replace("[j]", "[1]").replace("[k]", "[2]")
        assert Address.parse(numbered).point == numbered and generic(numbered)[0] == point.name
        assert point.meaning and point.dims[0] == "batch" and standard(numbered)


def test_names_that_are_standard_in_no_kind() -> None:
    assert standard("layers") and standard("encoder") and not standard("layers[0].weight") and not standard("weight") and not standard("")


def test_the_page_holds_the_tables() -> None:
    page = (Path(__file__).parents[2] / "docs" / "points.md").read_text("utf-8")
    assert table() in page
    begin, end = "<!-- tables of kinds: generated from src/cutaway/models/points.py -->\n\n", "\n\n<!-- end of the tables -->"
    assert page.partition(begin)[2].partition(end)[0] == tables()
