"""A state-space model's blocks as a stack that sweeps resume: from any block, and always from the first token, whose state was zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from torch import Tensor, nn

from cutaway.engine.site import FIRST
from cutaway.engine.stack import Stack, rows_of


@final
class StateSpaceStack(Stack):
    """`unembed` turns the last block's output into logits."""

    def __init__(self, blocks: nn.ModuleList, embed: nn.Module, unembed: Callable[[Tensor], Tensor]) -> None:
        self.blocks, self.before, self._unembed = tuple(blocks), (embed,), unembed
        config: Any = blocks[0].config
        self._state = int(config.expand * config.hidden_size) * int(config.state_size)

    def begin(self) -> tuple[dict[str, Any], Any]:
        return {}, None

    def resume(
        self, block: int, hidden: Tensor, call: tuple[tuple[Any, ...], dict[str, Any]], memory: Any, rows: Tensor, start: int
    ) -> Tensor:
        (recorded, *args), kwargs = call
        batch = int(recorded.shape[0])
        named = {name: rows_of(value, rows, batch) for name, value in kwargs.items()}
        out = FIRST.read(self.blocks[block](hidden, *(rows_of(value, rows, batch) for value in args), **named))
        assert isinstance(out, Tensor)
        return out

    def tail(self, hidden: Tensor) -> Tensor:
        return hidden[:, -1:].clone()

    def head(self, tail: Tensor) -> Tensor:
        return self._unembed(tail)[:, 0]

    def bytes(self, hidden: Tensor, start: int) -> int:
        # the reference scan holds the factors of every token's state at once
        return (16 * hidden.shape[2] + 5 * self._state) * hidden.shape[1] * hidden.element_size()
