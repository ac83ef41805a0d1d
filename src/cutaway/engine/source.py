"""Every call inside a module's forward, by name: `model.layers[3].attn.source.torch_matmul_0.output`.

The forward's syntax tree is rewritten so that each call `f(x)` offers its arguments and its value to whoever listens, under the name of what
is called (`self.act(x)` is `self_act`) and a number counted in the order of the text. The rewritten forward runs only in the forward that asked
for it, and computes what the module's own does. A call of a Python function can be looked into in its turn:
`source.attention_0.source.torch_softmax_0`. Of a call inside a loop the first round is seen.
"""

from __future__ import annotations
import __future__

import ast
import contextlib
import functools
import inspect
import re
import textwrap
import types
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from greenlet import getcurrent, greenlet
from torch import nn

from cutaway.engine.detour import detour, own
from cutaway.engine.site import ARGUMENT, EVENTS, WHOLE, Site, listened, tap
from cutaway.errors import EngineError, UnknownNameError

if TYPE_CHECKING:
    from cutaway.engine.model import Model

_OFFER = "__cutaway_offer__"
_KEPT = ("super", "locals", "globals", "vars", "dir", "eval", "exec")
"""Calls that depend on the frame they stand in; they are left alone."""


@final
class Source:
    """The calls of one forward. Printing it shows the forward's text with the name of each call at its line."""

    __slots__ = ("_function", "_model", "_path")

    def __init__(self, model: Model, path: str, function: Callable[..., Any] | None) -> None:
        self._model, self._path, self._function = model, path, function
        if function is not None:
            calls(function)

    def __getattr__(self, name: str) -> Operation:
        if name.startswith("__"):
            raise AttributeError(name)
        if self._function is not None and name not in calls(self._function):
            raise AttributeError(str(UnknownNameError("call", name, calls(self._function))))
        return Operation(self._model, f"{self._path}.source.{name}")

    def __dir__(self) -> list[str]:
        return [] if self._function is None else sorted(calls(self._function))

    def __repr__(self) -> str:
        return f"<{self._path}.source>" if self._function is None else _annotated(self._function)


@final
class Operation:
    """One call inside a forward: `.output`, `.input` (its first argument) and `.inputs` (args, kwargs), readable and assignable."""

    __slots__ = ("_model", "_path")

    def __init__(self, model: Model, path: str) -> None:
        object.__setattr__(self, "_model", model)
        object.__setattr__(self, "_path", path)

    @property
    def source(self) -> Source:
        """The calls inside the function that this one calls. Which function that is shows when it runs."""
        return Source(self._model, self._path, None)

    def __getattr__(self, name: str) -> Any:
        site = self._site(name)
        return self._model.opened(site.name).read(site)

    def __setattr__(self, name: str, value: Any) -> None:
        site = self._site(name)
        self._model.opened(site.name).write(site, value)

    def _site(self, name: str) -> Site:
        if name not in EVENTS:
            raise AttributeError(f"{self._path} has {', '.join(EVENTS)} and source, no {name!r}")
        return self._model.site(f"{self._path}.{name}")

    def __dir__(self) -> list[str]:
        return sorted(("source", *EVENTS))

    def __repr__(self) -> str:
        return f"<call {self._path}>"


@final
@dataclass(frozen=True)
class Rewritten:
    """Makes the context in which a module's forward offers its calls. Two of one module are equal, so that it is entered once."""

    module: nn.Module

    def __call__(self, owner: greenlet | None = None) -> contextlib.AbstractContextManager[None]:
        return _rewritten(self.module, getcurrent() if owner is None else owner)


def site(name: str, module: nn.Module, path: str, below: str) -> Site | None:
    """The site of `below` (such as `torch_matmul_0.output`) in the source of a module; None if it ends in no event."""
    call, _, event = below.rpartition(".")
    if event not in EVENTS or not call:
        return None
    first = call.partition(".")[0]
    if first not in calls(own(module)):
        raise UnknownNameError("call", name, (f"{name.partition('.source.')[0]}.source.{c}.{event}" for c in calls(own(module))))
    view, kind = ARGUMENT if event == "input" else WHOLE, "output" if event == "output" else "inputs"
    return Site(name, module, path, f"{call}:{kind}", view, opening=Rewritten(module))


def calls(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the calls in a function's text, in its order. Raises EngineError where there is no text."""
    return tuple(name for name, _ in _parsed(_plain(function).__code__)[1])


def definition(function: Callable[..., Any]) -> types.FunctionType | None:
    """The function behind methods, partial applications and decorators; None if there is no Python function."""
    found: Any = function
    while not isinstance(found, types.FunctionType) or hasattr(found, "__wrapped__"):
        found = next((getattr(found, way) for way in ("__wrapped__", "__func__", "func") if hasattr(found, way)), None)
        if found is None:
            return None
    return found


def text(code: types.CodeType) -> tuple[list[str], int, ast.FunctionDef]:
    """Lines of a function, the number of the first, and its syntax tree with the numbers of the file. Raises EngineError where there is none."""
    try:
        lines, start = inspect.getsourcelines(code)
    except (OSError, TypeError):
        raise EngineError(f"Look into {code.co_qualname}.", "no source text", "a forward that is defined in a file") from None
    indented = lines[0][:1].isspace()
    try:
        tree = ast.parse("".join(["if True:\n", *lines] if indented else lines))
    except SyntaxError as error:
        raise EngineError(f"Look into {code.co_qualname}.", "a text that is no whole definition", "a forward defined by `def`") from error
    found = tree.body[0].body[0] if isinstance(tree.body[0], ast.If) else tree.body[0]
    if not isinstance(found, ast.FunctionDef) or found.name != code.co_name:
        raise EngineError(
            f"Look into {code.co_qualname}.", "a text that is no `def` of it", "a forward defined by `def`, its file unchanged"
        )
    ast.increment_lineno(found, start - 1 - indented)
    return lines, start, found


@contextlib.contextmanager
def _rewritten(module: nn.Module, owner: greenlet) -> Iterator[None]:
    forward = _offering(own(module), module, "")
    undo = detour(module, lambda onward, args, kwargs: forward(*args, **kwargs), owner)
    try:
        yield
    finally:
        undo()


def _offering(function: Callable[..., Any], module: nn.Module, prefix: str) -> Callable[..., Any]:
    """`function`, offering its calls to listeners of `module` under names that begin with `prefix`."""

    def offer(name: str, called: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        full = prefix + name
        args, kwargs = tap(module, f"{full}:inputs", (args, kwargs))
        inside = f"{full}.source."
        wanted = {event.removeprefix(inside).partition(":")[0].partition(".")[0] for event in listened(module, inside)}
        for unknown in wanted.difference(calls(called) if wanted else ()):
            raise UnknownNameError("call", inside + unknown, (inside + known for known in calls(called)))
        called = _offering(called, module, inside) if wanted else called
        return tap(module, f"{full}:output", called(*args, **kwargs))

    return _remade(function, offer)


def _remade(function: Any, offer: Callable[..., Any]) -> Any:
    """The function from its rewritten text, over the cells, defaults and globals of the old; what stands around it is made anew around it."""
    if isinstance(function, types.MethodType):
        return types.MethodType(_remade(function.__func__, offer), function.__self__)
    if isinstance(function, functools.partial) and not hasattr(function, "__wrapped__"):
        return functools.partial(_remade(function.func, offer), *function.args, **function.keywords)
    wrapped = getattr(function, "__wrapped__", None)
    plain = _plain(function)
    if wrapped is None:
        cells = dict(zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True))
        return _copied(plain, _compiled(plain.__code__), cells | {_OFFER: types.CellType(offer)})
    cells = {}
    if isinstance(function, types.FunctionType):
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    inside = {name: cell for name, cell in cells.items() if _content(cell) is wrapped}
    if not inside:
        found = f"a decorator, {type(function).__name__} {getattr(function, '__qualname__', '')}, that keeps it where it cannot be replaced"
        raise EngineError(f"Look into {plain.__qualname__}.", found, "the points around this module, or the module without that decorator")
    anew = _remade(wrapped, offer)
    return _copied(function, function.__code__, cells | {name: types.CellType(anew) for name in inside})


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that has no value yet
        return cell


def _copied(function: types.FunctionType, code: types.CodeType, cells: dict[str, types.CellType]) -> types.FunctionType:
    closure = tuple(cells[name] for name in code.co_freevars)
    made = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _plain(function: Callable[..., Any]) -> types.FunctionType:
    found = definition(function)
    if found is None:
        works = "the source of that module itself" if isinstance(function, nn.Module) else "a module or function written in Python"
        raise EngineError(f"Look into {function!r}.", "no Python function: it has no source text", works)
    return found


@functools.lru_cache(maxsize=512)
def _parsed(code: types.CodeType) -> tuple[ast.FunctionDef, tuple[tuple[str, int], ...]]:
    """The rewritten syntax tree of a function, and its calls with their lines."""
    _, _, tree = text(code)
    rewriter = _Rewriter()
    tree.body = [rewriter.visit(statement) for statement in tree.body]
    tree.decorator_list = []
    return tree, tuple(rewriter.found)


@functools.lru_cache(maxsize=512)
def _compiled(code: types.CodeType) -> types.CodeType:
    """The rewritten text as code: inside a function that has its free names, and the class it is of, by which private names are mangled."""
    tree: ast.stmt = _parsed(code)[0]
    *_, owner, name = ("<locals>", *code.co_qualname.split("."))
    if owner != "<locals>":
        tree = ast.ClassDef(owner, [], [], [tree], [])
    outer = ast.parse("def outer(): pass")
    function = outer.body[0]
    assert isinstance(function, ast.FunctionDef)
    function.args.args, function.body = [ast.arg(free) for free in (_OFFER, *code.co_freevars)], [tree]
    made = compile(ast.fix_missing_locations(outer), code.co_filename, "exec", code.co_flags & _FUTURE, dont_inherit=True)
    for step in ("outer", *([] if owner == "<locals>" else [owner]), name):
        made = next(constant for constant in made.co_consts if isinstance(constant, types.CodeType) and constant.co_name == step)
    return made.replace(co_qualname=code.co_qualname)


_FUTURE = functools.reduce(lambda flags, name: flags | getattr(__future__, name).compiler_flag, __future__.all_feature_names, 0)


@final
class _Rewriter(ast.NodeTransformer):
    def __init__(self) -> None:
        self.found: list[tuple[str, int]] = []
        self._times: Counter[str] = Counter()

    def visit_Call(self, node: ast.Call) -> Any:
        if isinstance(node.func, ast.Name) and node.func.id in _KEPT:
            return self.generic_visit(node)
        stem = re.sub(r"\W+", "_", _dotted(node.func)).strip("_") or "call"
        name = f"{stem}_{self._times[stem]}"
        self._times[stem] += 1
        self.found.append((name, node.lineno))
        self.generic_visit(node)
        called = ast.Call(ast.Name(_OFFER, ast.Load()), [ast.Constant(name), node.func, *node.args], node.keywords)
        return ast.copy_location(called, node)


def _dotted(node: ast.expr) -> str:
    """`self.layers[0].act` -> self.layers.0.act; of a chain of calls, the names after the last call."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return f"{before}.{node.attr}" if before else node.attr
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return f"{_dotted(node.value)}.{node.slice.value!s}"
    return ""


def _annotated(function: Callable[..., Any]) -> str:
    code = _plain(function).__code__
    lines, start, _ = text(code)
    at: dict[int, list[str]] = {}
    for name, number in _parsed(code)[1]:
        at.setdefault(number, []).append(name)
    width = max(len(name) for names in [*at.values(), [""]] for name in names)
    shown = []
    for number, line in enumerate(textwrap.dedent("".join(lines)).splitlines(), start):
        first, *more = at.get(number, [""])
        shown += [f"{first:>{width}}  {line}".rstrip(), *(f"{name:>{width}}" for name in more)]
    return "\n".join(shown)
