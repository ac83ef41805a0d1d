"""A graph as layers over heads, or over places of the prompt: parts as dots, the edges that matter most as curves between them.

On a page, and without any script: how many edges are drawn is chosen, a part that is chosen shows what it reads and what reads it, and stays shown
where it is pinned. In a terminal: the first edges as a table.
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.text import Text

from cutaway.address import Address
from cutaway.results.graph import Graph
from cutaway.views import _palette
from cutaway.views.base import View, closing, columns, heading, number, plain, render, short, terminal

MOST = 15
"""Edges in a terminal."""
DRAWN, DRAWN_BY_PLACE = 250, 120
"""Edges in a picture; where parts stand at places, which takes more room."""
_STOPS, _FIRST = (10, 25, 50, 100), 2
"""Numbers of edges that can be chosen on a page, besides all that are drawn; which is chosen at first. The style sheet knows five."""
_STEP, _ROW, _PAD, _LEFT = 26.0, 34.0, 26.0, 62.0
"""Pixels: between parts side by side, between layers, above and below, left of the first part."""
_RISE = {"q": -11.0, "k": -11.0, "v": -11.0, "z": -3.0, "mlp": 8.0}
_RISE_BY_PLACE = _RISE | {"z": 9.0, "mlp": 9.0}
"""How far above the middle of its row a part is drawn: what reads below what writes, where both are drawn."""
_WAYS = {"q": "queries", "k": "keys", "v": "values"}


@dataclass(frozen=True, slots=True)
class _Dot:
    name: str
    label: str
    kind: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class _Curve:
    rank: int
    source: int
    target: int
    score: float
    tip: str
    way: str


@dataclass(frozen=True, slots=True)
class _Drawing:
    """Dots by node, the curves between them, texts (x, y) below columns and left of rows, width and height."""

    dots: dict[int, _Dot]
    curves: list[_Curve]
    columns: list[tuple[str, float]]
    rows: list[tuple[str, float]]
    width: float
    height: float


def text(result: Graph) -> str:
    """The edges that matter most, and how many there are."""
    order = _order(result)
    table = columns("#", "score", "edge", right=(1,))
    for rank, i in enumerate(order[:MOST], 1):
        table.add_row(str(rank), number(float(result.scores[i])), short(result.edge(i), 86))
    lines = [Text(line) for line in [f"{_count(result)}; score: {result.unit}.", "", *closing(result)]]
    return terminal(heading(result), "", table, *lines)


def picture(result: Graph) -> str:
    """SVG, and for every part a list of the edges into and out of it."""
    drawing = _drawn(result)
    edges = max((curve.rank + 1 for curve in drawing.curves), default=0)
    stops = [stop for stop in _STOPS if stop < edges] + [edges]
    curves = [_path(drawing, curve, stops) for curve in drawing.curves]
    reads: dict[int, list[dict[str, Any]]] = defaultdict(list)
    read_by: dict[int, list[dict[str, Any]]] = defaultdict(list)
    bands = dict.fromkeys(drawing.dots, len(stops) - 1)
    for path in curves:
        curve = path["curve"]
        reads[curve.target].append(path | {"name": _with_way(drawing.dots[curve.source], curve)})
        read_by[curve.source].append(path | {"name": _with_way(drawing.dots[curve.target], curve)})
        for node in (curve.source, curve.target):
            bands[node] = min(bands[node], path["band"])
    return render(
        "graph.html",
        # figures that stand on one page must not hear one another's choices
        name=f"g{zlib.crc32(repr((result.nodes, curves)).encode()):08x}",
        drawing=drawing,
        curves=curves,
        bands=bands,
        reads=reads,
        read_by=read_by,
        stops=stops,
        first=min(_FIRST, len(stops) - 1),
        count=_count(result),
        unit=result.unit,
    )


def size(result: Graph) -> tuple[float, float]:
    """Inches."""
    drawing = _drawn(result)
    return max(4.0, min(13.0, drawing.width / 75)), max(3.0, min(14.0, drawing.height / 75 + 0.8))


def paint(result: Graph, figure: Any) -> None:
    """The same with matplotlib."""
    from matplotlib.patches import PathPatch  # late, because it is slow to import
    from matplotlib.path import Path as Route

    drawing = _drawn(result)
    axis = figure.subplots()
    figure.suptitle(short(result.title, 110), fontsize=10, color=_palette.light("ink"))
    for curve in reversed(drawing.curves):
        a, b = drawing.dots[curve.source], drawing.dots[curve.target]
        middle = (a.y + b.y) / 2
        route = Route([(a.x, a.y), (a.x, middle), (b.x, middle), (b.x, b.y)], [Route.MOVETO, *[Route.CURVE4] * 3])
        weight = _weight(curve, drawing)
        colour = _palette.light("negative" if curve.score < 0 else "positive")
        axis.add_patch(PathPatch(route, fill=False, edgecolor=colour, lw=0.3 + 2.2 * weight, alpha=0.25 + 0.65 * weight))
    for dot in drawing.dots.values():
        marker = "s" if dot.kind in ("mlp", "logits", "embed") else "o"
        axis.plot([dot.x], [dot.y], marker, ms=7, mfc="white", mec=_palette.light("ink"), mew=0.8)
        axis.text(dot.x, dot.y, dot.label, ha="center", va="center", fontsize=4.5, color=_palette.light("ink"))
    axis.set_xlim(0, drawing.width)
    axis.set_ylim(drawing.height, 0)
    axis.set_xticks([x for _, x in drawing.columns], [short(name, 14) for name, _ in drawing.columns], rotation=90 if result.places else 0)
    axis.set_yticks([y for _, y in drawing.rows], [name for name, _ in drawing.rows])
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, colors=_palette.light("quiet"), labelsize=6)


def _order(result: Graph) -> list[int]:
    """Scored edges that are kept, those that matter most first."""
    return [int(i) for i in result.ranking() if result.kept[i]]


def _count(result: Graph) -> str:
    kept = int(result.kept[result.scored].sum())
    whole = len(result.scored)
    return f"{whole:,} edges" if kept == whole else f"{kept:,} of {whole:,} edges kept"


def _drawn(result: Graph) -> _Drawing:
    order, owners = _order(result)[: DRAWN_BY_PLACE if result.places else DRAWN], result.owners()
    curves = []
    for rank, i in enumerate(order):
        source, target = int(result.sources[i]), int(result.targets[i])
        address = Address.parse(result.nodes[target])
        way = _WAYS.get(address.point.rpartition(".")[2], "")
        way += ", shared" * (len(owners[target]) > 1)
        tip = f"{result.nodes[source]} → {result.nodes[target]}\n{number(float(result.scores[i]))} {result.unit}"
        curves += [_Curve(rank, source, owner, float(result.scores[i]), tip, way) for owner in owners[target]]
    parts = {n: Address.parse(result.nodes[n]) for n in sorted({n for c in curves for n in (c.source, c.target)})}
    layers = [address.layer for address in (Address.parse(name) for name in result.nodes) if address.layer is not None]
    return _placed(result, parts, curves, max(layers, default=0) + 1)


def _placed(result: Graph, parts: dict[int, Address], curves: list[_Curve], n_layers: int) -> _Drawing:
    row, rise = (_ROW, _RISE) if not result.places else (1.3 * _ROW, _RISE_BY_PLACE)
    row = max(row, min(70.0, 320.0 / (n_layers + 2)))
    heights = {layer: 14.0 + row * (n_layers + 0.5 - layer) for layer in range(-1, n_layers + 1)}
    cells: dict[tuple[int, str, bool], list[int]] = defaultdict(list)
    for node, address in parts.items():
        cells[_row(address, n_layers), _column(result, address), _kind(address) in _WAYS].append(node)
    names = list(result.places) or _head_columns(result)
    widths = {name: max(_STEP * _fullest(cells, name), 6.0 * len(name)) + 8 for name in names}
    starts = dict(zip(names, np.cumsum([_LEFT, *widths.values()])[:-1].tolist(), strict=True))
    width = _LEFT + sum(widths.values()) + 12
    dots = {}
    for (layer, column, _), nodes in cells.items():
        room = widths.get(column, _STEP * len(nodes))
        left = starts.get(column, (_LEFT + width - room) / 2)
        for i, node in enumerate(sorted(nodes, key=lambda n: (parts[n].head or 0, parts[n].point))):
            kind, x = _kind(parts[node]), left + room * (i + 0.5) / len(nodes)
            y = heights[layer] - rise.get(kind, 0.0)
            dots[node] = _Dot(str(parts[node]), _label(parts[node], kind), kind, round(x, 1), round(y, 1))
    across = [(name, starts[name] + widths[name] / 2) for name in names]
    down = [("logits", heights[n_layers]), *((str(i), heights[i]) for i in range(n_layers)), ("embed", heights[-1])]
    return _Drawing(dots, curves, across, down, width, heights[-1] + row / 2 + _PAD)


def _head_columns(result: Graph) -> list[str]:
    addresses = [Address.parse(name) for name in result.nodes]
    heads = max([a.head for a in addresses if a.head is not None], default=-1) + 1
    return [*(str(h) for h in range(heads)), *["MLP"] * any(_kind(a) == "mlp" for a in addresses)]


def _fullest(cells: dict[tuple[int, str, bool], list[int]], name: str) -> int:
    return max([len(nodes) for (_, column, _), nodes in cells.items() if column == name], default=1)


def _row(address: Address, n_layers: int) -> int:
    return address.layer if address.layer is not None else (-1 if address.point == "embed" else n_layers)


def _column(result: Graph, address: Address) -> str:
    """Name of a part's column; empty for the middle."""
    if result.places:
        return str(address.pos) if address.pos is not None else result.places[-1]
    return str(address.head) if address.head is not None else ("MLP" if ".mlp." in address.point else "")


def _kind(address: Address) -> str:
    return "mlp" if ".mlp." in address.point else address.point.rpartition(".")[2]


def _label(address: Address, kind: str) -> str:
    if kind in ("mlp", "embed", "logits"):
        return kind[0].upper()
    return f"{'' if kind == 'z' else kind}{address.head if address.head is not None else ''}"


def _weight(curve: _Curve, drawing: _Drawing) -> float:
    """Size of a score in [0, 1] beside the largest; by its root, so that small ones are seen."""
    largest = max((abs(c.score) for c in drawing.curves), default=0.0)
    return math.sqrt(abs(curve.score) / largest) if largest > 0 else 0.0


def _path(drawing: _Drawing, curve: _Curve, stops: list[int]) -> dict[str, Any]:
    a, b = drawing.dots[curve.source], drawing.dots[curve.target]
    middle, weight = (a.y + b.y) / 2, _weight(curve, drawing)
    return {
        "d": f"M{a.x} {a.y}C{a.x} {middle:.1f} {b.x} {middle:.1f} {b.x} {b.y}",
        "width": f"{0.6 + 3.4 * weight:.2f}",
        "shade": f"{0.25 + 0.65 * weight:.2f}",
        "negative": curve.score < 0,
        "curve": curve,
        "band": next(i for i, stop in enumerate(stops) if curve.rank < stop),
        "number": number(curve.score),
    }


def _with_way(dot: _Dot, curve: _Curve) -> str:
    return plain(dot.name) + (f" ({curve.way})" if curve.way else "")


graph = View(text, picture, paint, size)
