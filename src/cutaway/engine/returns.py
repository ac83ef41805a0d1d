"""What a forward returns, as its text says: for a value that stands in for it."""

from __future__ import annotations

import ast
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from cutaway.engine.source import definition, text
from cutaway.errors import EngineError


def padded(forward: Callable[..., Any], value: Any) -> Any:
    """`value`, or, if it is one tensor and the forward returns a tuple, a tuple of it and None for the rest."""
    plain = definition(forward) if isinstance(value, Tensor) else None
    width = 0 if plain is None else _width(plain.__code__)
    return (value, *[None] * (width - 1)) if width else value


@functools.lru_cache(maxsize=512)
def _width(code: types.CodeType) -> int:
    """Elements of the tuple that the last `return` of a function writes out; 0 if it writes out none."""
    try:
        _, _, tree = text(code)
    except EngineError:
        return 0
    last = max(_returns(tree), key=lambda node: node.lineno, default=None)
    return len(last.value.elts) if last is not None and isinstance(last.value, ast.Tuple) else 0


def _returns(node: ast.AST) -> Iterator[ast.Return]:
    """The `return`s of a function itself, not of those defined in it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Return):
            yield child
        elif not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield from _returns(child)
