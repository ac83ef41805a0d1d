"""Computes the nodes of an intervention graph.

Where a node is a word to the forward, `Interpreter` hands it to whoever drives the forward (`replaying`, `packing` for several graphs at once,
`streaming` for a body that is elsewhere) and goes on with the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensor, FakeTensorMode

from cutaway.engine import fake
from cutaway.engine.node import WORDS, Limits, Node
from cutaway.engine.operations import DYNAMIC, IN_PLACE, MANY, RANDOM, TABLE
from cutaway.engine.stopping import ask
from cutaway.errors import GraphError

if TYPE_CHECKING:
    from cutaway.engine.model import Model

Request = tuple[str, tuple[Any, ...], dict[str, Any]]
"""A word to the forward, with its arguments decoded."""
PLAIN = (bool, int, float, complex, str, torch.dtype, torch.device, torch.layout, torch.memory_format, type(None), type(...))
"""What operations and modules may be given besides tensors."""


@final
class Weights:
    """Where a model's own tensors lie in memory, listed when it is first asked."""

    def __init__(self, model: Model) -> None:
        self._model = model

    @cached_property
    def storages(self) -> dict[int, Tensor]:
        """Storage -> tensor, which keeps the address from being given to another."""
        return {tensor.untyped_storage()._cdata: tensor for _, _, tensor in fake.tensors_of(self._model.module)}


@final
class Interpreter:
    """Computes nodes in their order, which may come in several parts, as a stream has them.

    limits: of a body that is not trusted. Every operation is then run on shapes first, with all that it is made of: it may neither exceed the limits
    nor change the model's own tensors. None for a graph of one's own. dry: run on shapes and on nothing else. weights: the model's, where several
    interpreters share the list of them.
    """

    def __init__(
        self,
        model: Model,
        constants: Mapping[str, Tensor],
        limits: Limits | None = None,
        dry: FakeTensorMode | None = None,
        weights: Weights | None = None,
    ) -> None:
        self._weightless = dry is not None and fake.weightless(model.module)
        self.device = torch.device("meta") if self._weightless else model.device
        self.constants = constants
        self.values: list[Any] = []
        self._model, self._limits, self._dry = model, limits, dry
        self._fakes = dry or (fake.mode() if limits is not None else None)
        self._watch = None if limits is None else fake.Watch(limits.value)
        self._weights = weights or Weights(model)
        self._given: dict[int, Tensor] = {}
        self._moved: dict[str, Tensor] = {}
        if dry is not None and self._watch is not None:
            for _, _, tensor in fake.tensors_of(model.module):
                self._watch.keep(fake.shape(tensor, dry))

    def execute(self, nodes: Iterable[Node], spent: Mapping[int, Sequence[int]] | None = None) -> Generator[Request, Any, None]:
        """Compute nodes; yields each word to the forward and is sent what comes of it. spent: node -> nodes whose values are not used after it.

        Raises GraphError.
        """
        for node in nodes:
            ask()
            args, kwargs = self.decoded(list(node.args), node), {k: self.decoded(v, node) for k, v in node.kwargs.items()}
            if node.op == "save":
                self._charge(node, kwargs)
            if node.op in ("write", "skip"):  # the forward may change in place what it is given
                args = fake.mapped(args, lambda tensor: tensor.clone() if self._is_own(tensor) else tensor)
            if node.op in WORDS and node.op != "call":
                self.values.append((yield (node.op, tuple(args), kwargs)))
            else:
                self.values.append(self._computed(node, args, kwargs))
            for number in (spent or {}).get(len(self.values) - 1, ()):
                self.values[number] = None

    def decoded(self, value: Any, node: Node | None) -> Any:
        """An argument of a node as what it stands for. Raises GraphError."""
        if isinstance(value, list):
            return [self.decoded(v, node) for v in value]
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "ref":
            return self._value(content, node)
        if kind == "tuple":
            return tuple(self.decoded(v, node) for v in content)
        if kind == "dict":
            return {k: self.decoded(v, node) for k, v in content.items()}
        if kind == "slice":
            return slice(*(self.decoded(v, node) for v in content))
        if kind == "constant":
            if content not in self._moved:
                self._moved[content] = self._kept(self.constants[content].to(self.device))
            return self._moved[content]
        if kind == "parameter":
            return self._kept(self._parameter(content, node))
        plain: dict[str, Callable[[], Any]] = {
            "ellipsis": lambda: ...,
            "dtype": lambda: getattr(torch, content),
            "device": lambda: self.device if content == "model" or self._weightless else torch.device(content),
            "float": lambda: float(content),
            "complex": lambda: complex(*content),
        }
        return plain[kind]()

    def _value(self, ref: list[Any], node: Node | None) -> Any:
        if not 0 <= ref[0] < len(self.values):
            raise GraphError(_where(node), f"a reference to node {ref[0]}", "references to earlier nodes")
        value = self.values[ref[0]]
        for step in ref[1:]:
            fits = (
                isinstance(value, Mapping) and step in value
                if isinstance(step, str)
                else isinstance(value, (tuple, list)) and -1 < step < len(value)
            )
            if not fits:
                raise GraphError(_where(node), f"a reference to part {step!r} of a {type(value).__name__}", "parts that are there")
            value = value[step]
        return value

    def _kept(self, tensor: Tensor) -> Tensor:
        """A tensor that is not the body's own, as the operations here take it."""
        self._given[tensor.untyped_storage()._cdata] = tensor
        if self._dry is None:
            return tensor
        made = fake.shape(tensor, self._dry)
        if self._watch is not None:
            self._watch.keep(made)
        return made

    def _parameter(self, name: str, node: Node | None) -> Tensor:
        with suppress(AttributeError):
            return self._model.module.get_parameter(name)
        owner, _, last = name.rpartition(".")
        with suppress(AttributeError):
            part = self._model.module.get_submodule(owner)
            if last not in part._non_persistent_buffers_set:  # those are a forward's own notes, which may hold what others sent
                return self._model.module.get_buffer(name)
        raise GraphError(_where(node), f"no weight {name!r} in this model", "a graph recorded on this model")

    def _computed(self, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        try:
            function: Callable[..., Any] = TABLE[node.op] if node.op != "call" else _callable(self._model, args[0], self._limits)
            if node.op == "call":
                args, kwargs = list(args[1]), dict(args[2])
            _refuse_objects((args, kwargs))
            if node.op in IN_PLACE and self._is_own(args[0]):
                raise GraphError("", "a change in place of a tensor that is not the body's own", "x = x + y, or x.clone() first")
            with nullcontext() if node.grad else torch.no_grad():
                if self._limits is not None:
                    _refuse_many(node.op, args, kwargs, self._limits)
                    shapes = self._on_shapes(node.op, function, args, kwargs, self._limits)
                    if self._dry is not None:
                        return shapes

                return function(*args, **kwargs) if node.op not in RANDOM else drawn(node.op, node.seed or 0, self.device, *args, **kwargs)
        except GraphError as error:
            raise GraphError(_where(node), error.found, error.works) from error
        except Exception as error:  # whatever torch, or a module, says of arguments that do not fit
            raise GraphError(_where(node), said(error), "arguments whose shapes and types fit") from error

    def _on_shapes(self, op: str, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], limits: Limits) -> Any:
        """Run an operation on shapes alone, and count what it makes. Raises GraphError."""
        assert self._fakes is not None and self._watch is not None
        args, kwargs = fake.mapped((args, kwargs), self._shape)
        try:
            with fake.quiet(), self._fakes, nullcontext() if op == "torch.autograd.grad" else self._watch:
                out = function(*args, **kwargs) if self._dry is not None or op != "torch.autograd.grad" else args[1]
        except (DataDependentOutputException, DynamicOutputShapeException):
            if self._dry is not None:
                raise GraphError("", "a shape that depends on values", "torch.where, or topk with a fixed k; or a stream") from None
            out, nbytes = None, _bound(op, args, kwargs)
            self._watch.made += nbytes
            if nbytes > limits.value:
                raise GraphError("", f"a value of up to {nbytes:,} bytes", f"at most {limits.value:,}") from None
        self._refuse_more(limits)
        return out

    def _charge(self, node: Node, saved: Mapping[str, Any]) -> None:
        """What is saved is copied on its way to whoever asked for it, views and repetitions too."""
        if self._limits is None or self._watch is None:
            return
        self._watch.made += fake.size(saved)
        try:
            _refuse_objects(saved)
            self._refuse_more(self._limits)
        except GraphError as error:
            raise GraphError(_where(node), error.found, error.works) from error

    def _refuse_more(self, limits: Limits) -> None:
        if self._watch is not None and self._watch.made > limits.values:
            raise GraphError("", f"{self._watch.made:,} bytes of values", f"at most {limits.values:,} in all")

    def _shape(self, tensor: Tensor) -> Tensor:
        assert self._fakes is not None and self._watch is not None
        if isinstance(tensor, FakeTensor):
            return tensor
        made = fake.shape(tensor, self._fakes)
        if self._is_own(tensor):
            self._watch.keep(made)
        return made

    def _is_own(self, tensor: Tensor) -> bool:
        """Whether a tensor shares memory with one of the model's, or with a constant."""
        address = tensor.untyped_storage()._cdata
        return address in self._given or address in self._weights.storages or (self._watch is not None and self._watch.keeps(tensor))


def part(model: Model, path: str) -> torch.nn.Module:
    """The module a graph names. Raises GraphError."""
    found = model.module_at(path)
    if found is None:
        raise GraphError(f"Use {path!r}.", f"no such part in {model.name}", "a graph recorded on this model")
    return found


def spent(nodes: Sequence[Node]) -> dict[int, list[int]]:
    """Node -> nodes whose values nobody uses after it."""
    last = {used: number for number, node in enumerate(nodes) for used in (number, *node.references)}
    out: dict[int, list[int]] = {}
    for used, number in last.items():
        out.setdefault(number, []).append(used)
    return out


def said(error: BaseException) -> str:
    """An error of somebody else's code in one line."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"


def drawn(name: str, seed: int, device: torch.device, *args: Any, **kwargs: Any) -> Tensor:
    """What an operation draws from a generator of its own."""
    generator = torch.Generator(device).manual_seed(seed)
    short = name.rpartition(".")[2]
    if not short.endswith("_like"):
        out: Tensor = TABLE[name](*args, **kwargs, generator=generator)
        return out
    like, *rest = args
    given = {"dtype": like.dtype, "device": like.device} | {k: v for k, v in kwargs.items() if k != "memory_format"}
    made: Tensor = getattr(torch, short.removesuffix("_like"))(*rest, tuple(like.shape), generator=generator, **given)
    return made


def _callable(model: Model, path: str, limits: Limits | None) -> torch.nn.Module:
    module = part(model, path)
    if module is model.module:
        raise GraphError("", "the whole model, called by a body", "a graph of its own on those inputs")
    if limits is not None and any(below.training for below in module.modules()):
        raise GraphError("", f"{path} in training mode, where a call changes it", "model.module.eval(), by who holds the weights")
    return module


def _refuse_objects(value: Any) -> None:
    """Operations and modules are given tensors and plain values, not what else a forward passes around."""
    if isinstance(value, slice):
        value = [value.start, value.stop, value.step]
    if isinstance(value, (tuple, list, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            _refuse_objects(item)
    elif not isinstance(value, (Tensor, *PLAIN)):
        raise GraphError("", f"a {type(value).__name__} as an argument", "tensors, numbers and texts")


def _refuse_many(op: str, args: list[Any], kwargs: dict[str, Any], limits: Limits) -> None:
    if op == "torch.autograd.grad" and (kwargs.get("is_grads_batched") or len(args) > 6):
        raise GraphError("", "gradients in batches", "one torch.autograd.grad for each")
    if op not in MANY:
        return
    given = (*args, *kwargs.values())
    lengths = [
        n
        for v in given
        for n in (
            v.shape if isinstance(v, Tensor) else [abs(v)] if isinstance(v, int) else [len(v)] if isinstance(v, (list, tuple)) else []
        )
    ]
    if max(lengths, default=0) > limits.parts:
        raise GraphError("", "a value in very many parts", f"at most {limits.parts:,} along an axis")


def _bound(op: str, args: list[Any], kwargs: dict[str, Any]) -> int:
    """The largest size, in bytes, of what an operation returns whose shape depends on values. Raises GraphError where there is no bound."""
    given = fake.tensors((args, kwargs))
    indices = given[1:] if op == "Tensor.__getitem__" else ()
    if op not in DYNAMIC or len(indices) > 1 or (op.endswith("where") and len(given) > 1):
        raise GraphError(
            "", "a size that depends on values in a way that has no bound", "a mask alone, nonzero, masked_select, unique; or a fixed size"
        )
    return 24 * given[0].numel() * max(given[0].ndim, 1)


def _where(node: Node | None) -> str:
    return "Fetch a value." if node is None else f"{node.op} at {node.line or '?'}."
