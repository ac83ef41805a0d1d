"""One operation of an intervention graph, and what it has to pass before anything is made of it.

Arguments in JSON: null, true, 3, 0.5, "text" and [..] stand for themselves; anything else is an object of one entry: {"ref": [node, index ...]},
{"constant": "0"}, {"parameter": "lm_head.weight"}, {"tuple": [..]}, {"dict": {..}}, {"slice": [a, b, c]}, {"ellipsis": true},
{"dtype": "float32"}, {"device": "model"}, {"float": "inf"}, {"complex": [a, b]}.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch

from cutaway.engine.operations import RANDOM, TABLE
from cutaway.errors import GraphError

WORDS = {"read": 1, "write": 2, "skip": 2, "call": 3, "begin": 1, "stop": 0, "output": 0, "save": 0}
"""What a body says to the forward -> how many arguments it has."""
_MARKS = ("ref", "constant", "parameter", "tuple", "dict", "slice", "ellipsis", "dtype", "device", "float", "complex")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
"""Types of numbers by the names they have in a graph."""
DEVICE = re.compile(r"(cpu|cuda|meta|mps|xpu|hpu|xla|mtia|vulkan|ipu|maia|fpga|privateuseone)(:\d+)?")
"""Texts that torch takes for a device."""
LINE = 200
"""Characters that texts in a graph may have, saved ones apart."""


@final
@dataclass(frozen=True)
class Limits:
    """How large a graph may be: nodes; bytes of its JSON, of its constants, of one value, of all values it makes; nesting of arguments; saved names;
    tensors one operation may return; bytes, and tokens, of inputs that come with a stream; messages of one."""

    nodes: int = 10_000
    text: int = 4 * 2**20
    constants: int = 64 * 2**20
    value: int = 256 * 2**20
    values: int = 2 * 2**30
    depth: int = 16
    saved: int = 1_000
    parts: int = 4_096
    inputs: int = 2**20
    tokens: int = 2**14
    messages: int = 10_000


@final
@dataclass(frozen=True)
class Node:
    """One operation. line: where in the user's text it stands, such as "study.py:12". grad: whether gradients were kept there. seed: of an
    operation that draws."""

    op: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    line: str = ""
    grad: bool = True
    seed: int | None = None

    def data(self) -> dict[str, Any]:
        """The node as JSON."""
        out: dict[str, Any] = {"op": self.op, "args": list(self.args)}
        if self.kwargs:
            out["kwargs"] = dict(self.kwargs)
        if self.line:
            out["line"] = self.line
        if not self.grad:
            out["grad"] = False
        if self.seed is not None:
            out["seed"] = self.seed
        return out

    @property
    def references(self) -> list[int]:
        """Numbers of the nodes whose values it uses, each once."""
        found: dict[int, None] = {}
        waiting: list[Any] = [*self.args, *self.kwargs.values()]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                ((kind, content),) = value.items()
                if kind == "ref":
                    found[content[0]] = None
                waiting += content.values() if kind == "dict" else content if kind in ("tuple", "slice") else ()
            elif isinstance(value, (list, tuple)):
                waiting += value
        return list(found)

    def __str__(self) -> str:
        given = [_shown(a) for a in self.args] + [f"{k}={_shown(v)}" for k, v in self.kwargs.items()]
        return f"{self.op}({', '.join(given)})"


def check_node(node: Node, number: int, constants: Container[str], limits: Limits) -> None:
    """Check one node, which may refer to `number` earlier ones. Raises GraphError."""
    if node.op in WORDS:
        if len(node.args) != WORDS[node.op]:
            raise _refused(node, number, f"{len(node.args)} arguments", f"{WORDS[node.op]} of them")
        if node.op in ("read", "write", "skip", "call") and not (isinstance(node.args[0], str) and len(node.args[0]) <= LINE):
            raise _refused(node, number, "a point that is no short text", "such as layers[3].output")
        if node.op == "begin" and not (isinstance(node.args[0], int) and not isinstance(node.args[0], bool) and 0 <= node.args[0] < 2**31):
            raise _refused(node, number, "a step that is no number", "0 or larger")
    elif node.op not in TABLE:
        raise _refused(node, number, f"the operation {node.op[:80]!r}", "an operation of the table in docs/usage/record.md")
    if (node.op in RANDOM) != (node.seed is not None) or not 0 <= (node.seed or 0) < 2**63:
        raise _refused(node, number, "a seed where nothing is drawn, or none where it is", "a seed for each operation that draws")
    if node.kwargs and node.op in WORDS and node.op != "save":
        raise _refused(node, number, "arguments by name", "arguments in order")
    if node.op.endswith("scaled_dot_product_attention") and {*map(str, node.args[4:5]), str(node.kwargs.get("dropout_p", 0))} - {
        "0",
        "0.0",
    }:
        raise _refused(node, number, "dropout, which draws without a seed", "dropout_p=0")
    for name in node.kwargs:
        if (
            not isinstance(name, str)
            or not _NAME.fullmatch(name)
            or len(name) > LINE
            or (node.op != "save" and name in ("out", "generator"))
            or name.startswith("__")
        ):
            raise _refused(node, number, f"an argument named {name[:80]!r}", "arguments of the operation, other than out and generator")
    for kind, content in _marks(node, number, limits):
        if kind == "ref" and not (0 <= content[0] < number):
            raise _refused(node, number, f"a reference to node {content[0]}", "references to earlier nodes")
        if kind == "constant" and content not in constants:
            raise _refused(node, number, f"a reference to constant {content[:80]!r}", "constants that come with the graph")


def _marks(node: Node, number: int, limits: Limits) -> Iterator[tuple[str, Any]]:
    """Every marked object in a node's arguments, checked for its form."""
    waiting: list[tuple[Any, int]] = [(value, 0) for value in (*node.args, *node.kwargs.values())]
    while waiting:
        value, depth = waiting.pop()
        if depth > limits.depth:
            raise _refused(node, number, f"arguments nested more than {limits.depth} deep", "flat arguments")
        if isinstance(value, (list, tuple)):
            waiting += [(v, depth + 1) for v in value]
        elif isinstance(value, dict):
            if len(value) != 1 or next(iter(value)) not in _MARKS:
                raise _refused(
                    node, number, f"an object with entries {', '.join(map(repr, list(value)[:4]))[:80]}", "one of " + ", ".join(_MARKS)
                )
            ((kind, content),) = value.items()
            if not _FORMS[kind](content):
                raise _refused(node, number, f"{kind}: {str(content)[:80]}", f"what {kind} holds")
            waiting += [(v, depth + 1) for v in (content.values() if kind == "dict" else content if kind in ("tuple", "slice") else ())]
            yield kind, content
        elif isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
            raise _refused(node, number, "a whole number of more than 64 bits", "smaller numbers")
        elif isinstance(value, float) and not math.isfinite(value):
            raise _refused(node, number, f"{value} as a number", '{"float": "nan"}, "inf" or "-inf"')
        elif isinstance(value, str) and DEVICE.fullmatch(value) and node.op in TABLE:
            raise _refused(node, number, f"the device {value}", '{"device": "model"} or {"device": "cpu"}')
        elif isinstance(value, str) and len(value) > LINE and node.op != "save":
            raise _refused(node, number, f"a text of {len(value):,} characters", f"at most {LINE}")
        elif value is not None and not isinstance(value, (int, float, str)):
            raise _refused(node, number, f"a {type(value).__name__}", "JSON")


def _is_ref(content: Any) -> bool:
    if not isinstance(content, list) or not content or len(content) > 8:
        return False
    return all((isinstance(i, int) and not isinstance(i, bool)) or (isinstance(i, str) and k > 0) for k, i in enumerate(content))


_FORMS: dict[str, Callable[[Any], bool]] = {
    "ref": _is_ref,
    "constant": lambda c: isinstance(c, str),
    "parameter": lambda c: isinstance(c, str) and len(c) <= LINE,
    "tuple": lambda c: isinstance(c, list),
    "dict": lambda c: isinstance(c, dict) and all(isinstance(k, str) and len(k) <= LINE for k in c),
    "slice": lambda c: isinstance(c, list) and len(c) == 3,
    "ellipsis": lambda c: c is True,
    "dtype": lambda c: isinstance(c, str) and c in DTYPES,
    "device": lambda c: c in ("model", "cpu"),
    "float": lambda c: c in ("nan", "inf", "-inf"),
    "complex": lambda c: isinstance(c, list) and len(c) == 2 and all(type(x) in (int, float) and abs(x) <= sys.float_info.max for x in c),
}


def node_from(data: Any, number: int) -> Node:
    """A node from its JSON. Raises GraphError."""
    known = {"op": str, "args": list, "kwargs": dict, "line": str, "grad": bool, "seed": int}
    if not isinstance(data, dict) or "op" not in data or any(k not in known or type(v) is not known[k] for k, v in data.items()):
        raise GraphError(f"Read node {number} of an intervention graph.", str(data)[:120], "an object with " + ", ".join(known))
    rest = {k: v for k, v in data.items() if k in ("grad", "seed")}
    return Node(data["op"], tuple(data.get("args", ())), data.get("kwargs", {}), data.get("line", "")[:LINE], **rest)


def _refused(node: Node, number: int, found: str, works: str) -> GraphError:
    where = f" ({node.line})" if node.line else ""
    return GraphError(f"Node {number} of an intervention graph, {node.op[:80]}{where}.", found, works)


def _shown(value: Any) -> str:
    if isinstance(value, dict) and len(value) == 1:
        ((kind, content),) = value.items()
        if kind == "ref":
            return "%" + ".".join(map(str, content))
        if kind in ("constant", "parameter"):
            return f"{kind} {content}"
        if kind == "tuple":
            return f"({', '.join(map(_shown, content))})"
        if kind == "slice":
            return ":".join("" if v is None else _shown(v) for v in content[: 2 if content[2] is None else 3])
        return "..." if kind == "ellipsis" else str(content)
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return repr(value)
