"""An intervention graph drawn as SVG: down the left what it says to the forward, to the right what it computes in between.

One row a node, in the order of the body. A filled dot reads from the forward, a ring changes it. Resting the pointer on a box shows the whole node
and the line it came from.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cutaway.engine.graph import Graph
    from cutaway.engine.node import Node

_ROW, _LANE, _COLUMN, _BOX, _COLUMNS = 30, 230, 150, 136, 5
_HEIGHT = 20
_STYLE = """
.cutaway-graph { background: #fdfdfc; font: 11px ui-monospace, Menlo, Consolas, monospace; }
.cutaway-graph text { fill: #1f2328; }
.cutaway-graph .dim { fill: #6e7781; }
.cutaway-graph .forward { stroke: #8c959f; stroke-width: 3; }
.cutaway-graph .read { fill: #0b62c4; stroke: #0b62c4; stroke-width: 2; }
.cutaway-graph .change { fill: #fdfdfc; stroke: #bc4c00; stroke-width: 3; }
.cutaway-graph .box { fill: #eef1f4; stroke: #afb8c1; }
.cutaway-graph .kept { fill: #dff2e1; stroke: #3f8f4a; }
.cutaway-graph .edge { fill: none; stroke: #57606a; stroke-opacity: .55; stroke-width: 1.2; }
@media (prefers-color-scheme: dark) {
  .cutaway-graph { background: #16191d; }
  .cutaway-graph text { fill: #e6e8ea; }
  .cutaway-graph .dim { fill: #9aa4ae; }
  .cutaway-graph .forward { stroke: #6e7781; }
  .cutaway-graph .read { fill: #6cb0ff; stroke: #6cb0ff; }
  .cutaway-graph .change { fill: #16191d; stroke: #ff9d57; }
  .cutaway-graph .box { fill: #262b31; stroke: #57606a; }
  .cutaway-graph .kept { fill: #1d3323; stroke: #58b368; }
  .cutaway-graph .edge { stroke: #b1bac4; }
}
"""


def picture(graph: Graph) -> str:
    """The graph as one SVG element. It is readable up to some sixty nodes, on light and dark grounds."""
    columns = _columns(graph)
    height = _ROW * (len(graph.nodes) + 1)
    width = _LANE + _COLUMN * (max((c for c in columns if c is not None), default=0) + 1)
    title = f"{len(graph.nodes)} nodes on {graph.model or 'any model'}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="cutaway-graph" role="img" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<line class="forward" x1="18" y1="8" x2="18" y2="{height - 8}"/>',
    ]
    parts += [_edge(columns, source, number) for number, node in enumerate(graph.nodes) for source in node.references]
    parts += [
        _said(node, number) if columns[number] is None else _box(node, number, columns[number] or 0)
        for number, node in enumerate(graph.nodes)
    ]
    return "\n".join([*parts, "</svg>"])


def _columns(graph: Graph) -> list[int | None]:
    """None for what is said to the forward; for an operation how many lie before it, up to the last column."""
    columns: list[int | None] = []
    for node in graph.nodes:
        before = [columns[source] for source in node.references]
        after = max((0 if column is None else column + 1 for column in before), default=0)
        columns.append(None if "." not in node.op and node.op not in ("call", "save") else min(after, _COLUMNS - 1))
    return columns


def _middle(number: int) -> int:
    return _ROW * number + _ROW


def _edge(columns: list[int | None], source: int, target: int) -> str:
    start, end = columns[source], columns[target]
    y1, y2 = _middle(source), _middle(target)
    x1 = _LANE - 18 if start is None else _LANE + start * _COLUMN + _BOX // 2
    if start is not None:
        y1 += _HEIGHT // 2
    if end is None:  # back to the forward
        return f'<path class="edge" d="M{x1} {y1} C{x1} {y2} {_LANE} {y2} {_LANE - 12} {y2}"/>'
    if end == start:
        return f'<path class="edge" d="M{x1} {y1} L{x1} {y2 - _HEIGHT // 2}"/>'
    x2 = _LANE + end * _COLUMN
    turn = x1 if start is None else x2 - 22
    return f'<path class="edge" d="M{x1} {y1} C{x1} {(y1 + y2) // 2} {turn} {y2} {x2} {y2}"/>'


def _said(node: Node, number: int) -> str:
    y = _middle(number)
    place = str(node.args[0]) if node.args else ""
    kind = "change" if node.op in ("write", "skip", "stop") else "read"
    return (
        f'<g><title>{escape(f"{number}  {node}  {node.line}")}</title><circle class="{kind}" cx="18" cy="{y}" r="5"/>'
        f'<text x="32" y="{y + 4}"><tspan class="dim">{node.op} </tspan>{escape(_short(place, 22))}</text></g>'
    )


def _box(node: Node, number: int, column: int) -> str:
    x, y = _LANE + column * _COLUMN, _middle(number) - _HEIGHT // 2
    name = node.op.rpartition(".")[2].strip("_") if node.op not in ("call", "save") else node.op
    about = ", ".join(node.kwargs) if node.op == "save" else str(node.args[0]) if node.op == "call" else _plain(node)
    about = _short(about, max(18 - len(name), 0))
    return (
        f"<g><title>{escape(f'{number}  {node}  {node.line}')}</title>"
        f'<rect class="{"kept" if node.op == "save" else "box"}" x="{x}" y="{y}" width="{_BOX}" height="{_HEIGHT}" rx="4"/>'
        f'<text x="{x + 6}" y="{y + 14}">{escape(_short(name, 18))} <tspan class="dim">{escape(about)}</tspan></text></g>'
    )


def _plain(node: Node) -> str:
    """The arguments that are not values of other nodes."""
    shown = str(type(node)("", tuple(a for a in node.args if not (isinstance(a, dict) and "ref" in a)), node.kwargs))
    return shown[1:-1]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: max(most - 1, 0)] + "…" * (most > 0)
