"""Blocks of a model without weights, gone through once for inputs of the same shapes.

What a block makes of tensors that have no values depends on their shapes alone; and a forward on shapes takes hundreds of milliseconds, nearly all
of it in the blocks. So a block keeps the shapes of what it returned, and returns their like, unless somebody listens inside it or its arguments hold
more than tensors and plain values, such as a cache. Derivatives of any order pass through, as shapes do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from cutaway.engine.fake import tensors
from cutaway.engine.site import tapped

_MOST = 256
"""Kinds of arguments that a block remembers."""
_Shape = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


def remember(blocks: Iterable[nn.Module]) -> None:
    """Let blocks of a model without weights remember. The model is of no other use: its forward on values is not changed, but it has none."""
    for block in blocks:
        block.forward = _remembering(block)


def _remembering(block: nn.Module) -> Callable[..., Any]:
    parts = list(block.modules())[1:]
    known: dict[Any, tuple[list[_Shape], bool]] = {}

    def forward(*args: Any, **kwargs: Any) -> Any:
        key = None if any(_heard(part) for part in parts) else _key((args, kwargs))
        found = known.get(key)
        if key is not None and found is not None:
            return _like(*found, block, tensors((args, kwargs)))
        out = type(block).forward(block, *args, **kwargs)
        single = isinstance(out, Tensor)
        if key is not None and (single or (type(out) is tuple and all(isinstance(one, Tensor) for one in out))):
            while len(known) >= _MOST:
                del known[next(iter(known))]
            known[key] = [(tuple(t.shape), t.stride(), t.dtype) for t in tensors(out)], single
        return out

    return forward


def _heard(part: nn.Module) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part)) or tapped(part)


def _key(value: Any) -> tuple[Any, ...] | None:
    """All that a block's work on shapes depends on; None where that is more than shapes."""
    found: list[Any] = [torch.is_grad_enabled()]
    return tuple(found) if _described(value, found) else None


def _described(value: Any, found: list[Any]) -> bool:
    """Add to `found` what there is to say of a value; False where it is more than tensors without values, and plain values."""
    if isinstance(value, FakeTensor):
        found.append((tuple(value.shape), value.stride(), value.dtype, value.requires_grad))
        return True
    if type(value) in (tuple, list, dict):
        found.append((type(value), tuple(value) if type(value) is dict else len(value)))
        return all(_described(one, found) for one in (value.values() if type(value) is dict else value))
    found.append((type(value), value))
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype))


def _like(shapes: list[_Shape], single: bool, block: nn.Module, given: list[Tensor]) -> Any:
    """Tensors of these shapes, which depend on what was given and, where gradients are kept, on a weight of the block."""
    weight = next((p for p in block.parameters() if p.requires_grad), None) if torch.is_grad_enabled() else None
    named = given if weight is None else [*given, weight]
    made = _Stand.apply(shapes, given[0].device, *(t for t in named if t.is_floating_point()))
    return made[0] if single else made


@final
class _Stand(torch.autograd.Function):
    """Stands for any differentiable function, on shapes."""

    @staticmethod
    def forward(ctx: Any, shapes: list[_Shape], device: torch.device, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*given)
        return tuple(torch.empty_strided(size, stride, dtype=dtype, device=device) for size, stride, dtype in shapes)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Any, ...]:
        total = torch.stack([slope.sum() for slope in slopes]).sum()
        return None, None, *(value * total.to(value.dtype) for value in ctx.saved_tensors)
