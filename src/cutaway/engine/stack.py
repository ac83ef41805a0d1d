"""A model as a stack of blocks that can be resumed in the middle: what lets a sweep share the work before an edit.

A block is called with the hidden state first and whatever else the model passes along. `begin` records one run; `resume` calls a block again, for
chosen rows of that run and, where tokens only look back, for the tokens from `start` on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import torch
from torch import Tensor, nn


class Stack(ABC):
    """`blocks` run one after the other; the output of the last goes to `head`.

    `before`: modules outside the blocks that are known to run before them. `causal`: a token's state depends on earlier tokens only; None where
    there are no tokens.
    """

    blocks: Sequence[nn.Module]
    before: Sequence[nn.Module] = ()
    causal: bool | None = None

    def opening(self) -> AbstractContextManager[None]:
        """What must be held from the recording to the last resumption."""
        return nullcontext()

    @abstractmethod
    def begin(self) -> tuple[dict[str, Any], Any]:
        """Options to add to the recording forward, and an object that remembers what `resume` will need of it."""

    @abstractmethod
    def resume(
        self, block: int, hidden: Tensor, call: tuple[tuple[Any, ...], dict[str, Any]], memory: Any, rows: Tensor, start: int
    ) -> Tensor:
        """Run one block on `hidden` (len(rows), tokens from start, ...), row i continuing row `rows[i]` of the recorded run.

        call: arguments the block had in the recorded run. memory: what `begin` returned. Returns the block's output, tensor only.
        """

    def finish(self, hidden: Tensor, call: tuple[tuple[Any, ...], dict[str, Any]], memory: Any, rows: Tensor, start: int) -> Tensor:
        """As `resume` of the last block, as far as `tail` needs it."""
        return self.tail(self.resume(len(self.blocks) - 1, hidden, call, memory, rows, start))

    def tail(self, hidden: Tensor) -> Tensor:
        """What `head` needs of the last block's output (rows, tokens, ...)."""
        return hidden

    @abstractmethod
    def head(self, tail: Tensor) -> Tensor:
        """The model's output at the last position, from what `tail` left."""

    def bytes(self, hidden: Tensor, start: int) -> int:
        """About how much one row holds at once while it is resumed from `start`; hidden: the widest state between blocks."""
        return 16 * hidden[0].numel() * hidden.element_size()

    def share(self, hidden: Tensor, start: int) -> float:
        """Part of the tokens that are run when rows are resumed from `start`."""
        return 1 - start / hidden.shape[1] if self.causal else 1.0


@final
class SequentialStack(Stack):
    """An `nn.Sequential`: no tokens, each block called with the hidden state alone."""

    def __init__(self, module: nn.Sequential) -> None:
        self.blocks = tuple(module)

    def begin(self) -> tuple[dict[str, Any], Any]:
        return {}, None

    def resume(
        self, block: int, hidden: Tensor, call: tuple[tuple[Any, ...], dict[str, Any]], memory: Any, rows: Tensor, start: int
    ) -> Tensor:
        out: Tensor = self.blocks[block](hidden)
        return out

    def head(self, tail: Tensor) -> Tensor:
        return tail


def owners(blocks: Sequence[nn.Module]) -> dict[int, int]:
    """id of every module inside a block -> index of the block; without modules that several blocks share."""
    found = [(id(module), index) for index, block in enumerate(blocks) for module in block.modules()]
    times = Counter(module for module, _ in found)
    return {module: index for module, index in found if times[module] == 1}


def rows_of(value: Any, rows: Tensor, batch: int) -> Any:
    """The given rows of a tensor that has one row per row of the batch; anything that has one row for all is left as it is."""
    if isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch and batch > 1:
        return value.index_select(0, rows)
    if isinstance(value, tuple):
        return tuple(rows_of(v, rows, batch) for v in value)
    return value


def repeated(value: Any, times: int, batch: int) -> Any:
    """Inputs for a batch that is packed `times` over: tensors with one row per row of the batch are repeated, anything else is kept."""
    if isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == batch:
        return value.repeat(times, *([1] * (value.ndim - 1)))
    if isinstance(value, (tuple, list)):
        return type(value)(repeated(v, times, batch) for v in value)
    if isinstance(value, dict):
        return {k: repeated(v, times, batch) for k, v in value.items()}
    return value


def batch_size(arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> int:
    """Rows of the first tensor among a forward's arguments; 1 where there is none."""
    args, kwargs = arguments
    return next((int(v.shape[0]) for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor) and v.ndim > 0), 1)
