"""How much memory tensors take at once while something runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@final
class Peak(TorchDispatchMode):
    """`with Peak() as peak: ...`, then `peak.bytes`: the most that tensors made inside the block took at one time, on all devices together.

    What a kernel takes and gives back within one operation is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {_key(value) for value in _tensors((args, kwargs))}
        for value in _tensors(out):
            if _key(value) not in given and _key(value) not in self._known:
                self._count(value)
        return out

    def _count(self, made: Tensor) -> None:
        storage, key, size = made.untyped_storage(), _key(made), made.untyped_storage().nbytes()

        def gone() -> None:
            self._known.discard(key)
            self._now -= size

        weakref.finalize(storage, gone).atexit = False
        self._known.add(key)
        self._now += size
        self.bytes = max(self.bytes, self._now)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.layout is torch.strided]


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
