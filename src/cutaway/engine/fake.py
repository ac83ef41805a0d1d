"""A forward on tensors that have a shape and no values: nothing is computed, no weights are needed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from cutaway.errors import EngineError, GraphError


def mode() -> FakeTensorMode:
    """A mode in which real tensors become fake ones where they meet."""
    return FakeTensorMode(allow_non_fake_inputs=True)


@contextlib.contextmanager
def forward(module: nn.Module, within: FakeTensorMode) -> Iterator[None]:
    """Hold the mode for a forward of `module`, and put back what the forward leaves in it: a fake tensor kept as a buffer would stay for good."""
    before = [(home, name, value) for home, name, value in tensors_of(module) if not isinstance(value, FakeTensor)]
    try:
        with quiet(), within:
            yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        works = "model.trace; experts of transformers: module.set_experts_implementation('batched_mm')"
        raise EngineError(f"Run {type(module).__name__} on shapes.", f"a forward that depends on values ({error})", works) from error
    finally:
        for home, name, value in before:
            if home.get(name) is not value:
                home[name] = value


def weightless(module: nn.Module) -> bool:
    """Whether weights of a module are on "meta": then it can only be run on shapes."""
    return any(weight.is_meta for weight in module.parameters())


def tensors_of(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """Weights, buffers and other tensors that a module and its parts hold: where each is kept, under which name."""
    for part in module.modules():
        for home in (part._parameters, part._buffers, part.__dict__):
            yield from ((home, name, value) for name, value in home.items() if isinstance(value, Tensor))


@final
class Watch(TorchDispatchMode):
    """Sees every operation on fake tensors, those that others are made of too. Refuses what would change a tensor that is kept, or make a large one.

    largest: bytes of one value; None for any. `made`: bytes of all memory the operations would have taken.
    """

    def __init__(self, largest: int | None = None) -> None:
        super().__init__()
        self.made = 0
        self._largest = largest
        self._kept: dict[int, Tensor] = {}  # alive, so that their addresses are not used again

    def keep(self, tensor: Tensor) -> None:
        """Refuse changes of this tensor, through whatever view of it."""
        self._kept[tensor.untyped_storage()._cdata] = tensor

    def keeps(self, value: Any) -> bool:
        """Whether a tensor shares memory with a kept one."""
        return any(t.untyped_storage()._cdata in self._kept for t in tensors(value))

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for place, argument in enumerate(function._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            target = args[place] if place < len(args) else kwargs.get(argument.name)
            if self.keeps(target) or (argument.is_out and target is not None):
                raise GraphError(
                    f"Run {function}.", "a change in place of a tensor that is not the body's own", "x = x + y, or x.clone() first"
                )
        out = function(*args, **kwargs)
        known = {t.untyped_storage()._cdata for t in tensors((args, kwargs))}
        for tensor in tensors(out):
            nbytes = tensor.numel() * tensor.element_size()
            if self._largest is not None and nbytes > self._largest:
                raise GraphError(f"Run {function}.", f"a value of {nbytes:,} bytes", f"at most {self._largest:,}")
            if tensor.untyped_storage()._cdata not in known:
                self.made += nbytes
        return out


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without torch's own log of shapes that do not fit: they come back as errors."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def shape(tensor: Tensor, within: FakeTensorMode) -> FakeTensor:
    """A fake tensor in place of a real one; two of tensors that share memory share theirs."""
    return within.from_tensor(tensor if tensor.is_leaf else tensor.detach(), static_shapes=True)


def faked(value: Any, within: FakeTensorMode) -> Any:
    """The same arguments with fake tensors in place of real ones."""
    return mapped(value, lambda tensor: shape(tensor, within))


def mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """A value of nested tuples, lists and mappings with `change` applied to its tensors; anything else in it is kept."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(v, change) for v in value))
    if type(value) in (tuple, list) or isinstance(value, torch.Size):
        return type(value)(mapped(v, change) for v in value) if type(value) is list else tuple(mapped(v, change) for v in value)
    if isinstance(value, tuple):  # what torch.topk and the like return
        return type(value)(tuple(mapped(v, change) for v in value))
    if isinstance(value, Mapping):
        fields = {key: mapped(v, change) for key, v in value.items()}
        return fields if type(value) is dict else type(value)(**fields)  # such as a transformers ModelOutput
    return value


def tensors(value: Any) -> list[Tensor]:
    """All tensors in a value, in order."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for item in items for tensor in tensors(item)]


def size(value: Any) -> int:
    """Bytes of all tensors in a value."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors(value))
