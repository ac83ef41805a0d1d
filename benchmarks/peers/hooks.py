"""Hand-written hooks of torch: what every engine is made of, and the least a change can cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from subjects import GREEDY, Subject
from torch import Tensor, nn

TITLE = "torch hooks"
PACKAGE = ""
IMPORTS = ("import torch",)


class Opened:
    """A module and its blocks."""

    def __init__(self, subject: Subject) -> None:
        self.module = subject.copy()
        self.blocks: nn.ModuleList = self.module.get_submodule(subject.blocks)  # type: ignore[assignment]


load = Opened


def idle(opened: Opened, ids: Tensor) -> Tensor:
    return opened.module(input_ids=ids).logits


def read(opened: Opened, ids: Tensor, n: int) -> list[Tensor]:
    found: list[Tensor] = []
    handles = [block.register_forward_hook(lambda module, args, out: found.append(out)) for block in list(opened.blocks)[:n]]
    try:
        opened.module(input_ids=ids)
    finally:
        for handle in handles:
            handle.remove()
    return found


def states(opened: Opened, ids: Tensor) -> list[Tensor]:
    """The input of every block."""
    found: list[Tensor] = []
    handles = [block.register_forward_pre_hook(lambda module, args: found.append(args[0])) for block in opened.blocks]
    opened.module(input_ids=ids)
    for handle in handles:
        handle.remove()
    return found


def patch(opened: Opened, ids: Tensor, layer: int, value: Tensor) -> Tensor:
    return _with(opened, ids, layer, lambda hidden: value)


def generate(opened: Opened, ids: Tensor, layer: int) -> list[Tensor]:
    found: list[Tensor] = []
    handle = opened.blocks[layer].register_forward_hook(lambda module, args, out: found.append(out))
    try:
        made = opened.module.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **GREEDY)  # type: ignore[operator]
    finally:
        handle.remove()
    return [made, *found]


def one_forward_a_patch(opened: Opened, subject: Subject) -> Tensor:
    source = states(opened, subject.clean)
    cells = torch.zeros(len(opened.blocks), subject.clean.shape[1])
    for layer in range(cells.shape[0]):
        for pos in range(cells.shape[1]):

            def put(hidden: Tensor, layer: int = layer, pos: int = pos) -> Tensor:
                hidden = hidden.clone()
                hidden[:, pos] = source[layer][:, pos]
                return hidden

            cells[layer, pos] = subject.difference(_with(opened, subject.corrupted, layer, put)[0, -1])
    return cells


def one_batch_a_layer(opened: Opened, subject: Subject) -> Tensor:
    source = states(opened, subject.clean)
    n = subject.clean.shape[1]
    ids, every = subject.corrupted.repeat(n, 1), torch.arange(n)
    rows = []
    for layer in range(len(opened.blocks)):

        def put(hidden: Tensor, layer: int = layer) -> Tensor:
            hidden = hidden.clone()
            hidden[every, every] = source[layer][0]
            return hidden

        rows.append(subject.difference(_with(opened, ids, layer, put)[:, -1]))
    return torch.stack(rows)


READ = {"": read}
PATCH = {"": patch}
SWEEP = {"one forward a patch": one_forward_a_patch, "one batch a layer": one_batch_a_layer}
GENERATE = {"": generate}
PACKED: dict[str, Callable[..., list[Tensor]]] = {}


def _with(opened: Opened, ids: Tensor, layer: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    def enter(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(args[0]), *args[1:])

    handle = opened.blocks[layer].register_forward_pre_hook(enter)
    try:
        return opened.module(input_ids=ids).logits
    finally:
        handle.remove()
