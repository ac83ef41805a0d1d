"""NNsight: a body per forward, or one body per row of a batch (`invoke`), as in its pages on activation patching."""

from __future__ import annotations

from typing import Any

import nnsight
import torch
from nnsight.modeling.transformers import TransformersModel
from subjects import GREEDY, Subject
from torch import Tensor

TITLE = "NNsight"
PACKAGE = "nnsight"
IMPORTS = ("import nnsight",)


class Opened:
    """An NNsight model and its blocks."""

    def __init__(self, subject: Subject) -> None:
        self.module = subject.copy()
        self.model: Any = TransformersModel(self.module, tokenizer=subject.tokenizer)
        self.blocks: Any = self.model
        for name in subject.blocks.split("."):
            self.blocks = getattr(self.blocks, name)


load = Opened


def idle(opened: Opened, ids: Tensor) -> Tensor:
    return opened.module(input_ids=ids).logits


def read(opened: Opened, ids: Tensor, n: int) -> list[Tensor]:
    blocks = list(opened.blocks)[:n]
    with opened.model.trace(ids):
        found = nnsight.save([block.output for block in blocks])
    return found


def patch(opened: Opened, ids: Tensor, layer: int, value: Tensor) -> Tensor:
    model, block = opened.model, opened.blocks[layer]
    with model.trace(ids):
        block.input = value
        logits = model.lm_head.output.save()
    return logits


def generate(opened: Opened, ids: Tensor, layer: int) -> list[Tensor]:
    model, block = opened.model, opened.blocks[layer]
    with model.generate(ids, attention_mask=torch.ones_like(ids), **GREEDY) as tracer:
        found = nnsight.save([])
        for _ in tracer.iter[: GREEDY["max_new_tokens"]]:
            found.append(block.output)
        made = tracer.result.save()
    return [made, *found]


def one_forward_a_patch(opened: Opened, subject: Subject) -> Tensor:
    model, blocks, source = opened.model, opened.blocks, _inputs(opened, subject.clean)
    cells = torch.zeros(len(source), subject.clean.shape[1])
    for layer in range(cells.shape[0]):
        for pos in range(cells.shape[1]):
            with model.trace(subject.corrupted):
                blocks[layer].input[:, pos, :] = source[layer][:, pos, :]
                logits = model.lm_head.output[0, -1].save()
            cells[layer, pos] = subject.difference(logits)
    return cells


def one_batch_a_layer(opened: Opened, subject: Subject) -> Tensor:
    model, blocks, source = opened.model, opened.blocks, _inputs(opened, subject.clean)
    rows = []
    for layer in range(len(source)):
        with model.trace() as tracer:
            row = nnsight.save([])
            for pos in range(subject.clean.shape[1]):
                with tracer.invoke(subject.corrupted):
                    blocks[layer].input[:, pos, :] = source[layer][:, pos, :]
                    row.append(model.lm_head.output[0, -1])
        rows.append(subject.difference(torch.stack(row)))
    return torch.stack(rows)


READ = {"": read}
PATCH = {"": patch}
SWEEP = {"one forward a patch": one_forward_a_patch, "one batch a layer": one_batch_a_layer}
GENERATE = {"": generate}
PACKED: dict[str, Any] = {}


def _inputs(opened: Opened, ids: Tensor) -> list[Tensor]:
    blocks = opened.blocks
    with opened.model.trace(ids):
        found = nnsight.save([block.input.clone() for block in blocks])
    return found
