"""pyvene: a configuration of interventions on a wrapped model, run on base and source inputs as in its tutorials."""

from __future__ import annotations

from typing import Any

import pyvene
import torch
from subjects import Subject
from torch import Tensor

TITLE = "pyvene"
PACKAGE = "pyvene"
IMPORTS = ("import pyvene",)


class Opened:
    """Wrapped models: those that collect outputs of blocks, by number, and one per block that changes its input. Built once, as a user would."""

    def __init__(self, subject: Subject) -> None:
        self.module = subject.copy()
        self.reading = {
            n: self._wrap([self._part(i, "block_output", pyvene.CollectIntervention(keep_last_dim=True)) for i in range(n)])
            for n in (1, subject.n_layers)
        }
        self.sources = self._wrap(
            [self._part(i, "block_input", pyvene.CollectIntervention(keep_last_dim=True)) for i in range(subject.n_layers)]
        )
        self.changing = [self._wrap([self._part(i, "block_input", pyvene.VanillaIntervention())]) for i in range(subject.n_layers)]

    def _wrap(self, parts: list[dict[str, Any]]) -> Any:
        return pyvene.IntervenableModel(pyvene.IntervenableConfig(parts), self.module)

    def _part(self, layer: int, component: str, intervention: Any) -> dict[str, Any]:
        return {"layer": layer, "component": component, "intervention": intervention}


load = Opened


def idle(opened: Opened, ids: Tensor) -> Tensor:
    return opened.module(input_ids=ids).logits


def read(opened: Opened, ids: Tensor, n: int) -> list[Tensor]:
    (_, found), _ = opened.reading[n]({"input_ids": ids})
    return found


def patch(opened: Opened, ids: Tensor, layer: int, value: Tensor) -> Tensor:
    return opened.changing[layer]({"input_ids": ids}, source_representations=value)[1].logits


def one_forward_a_patch(opened: Opened, subject: Subject) -> Tensor:
    base = {"input_ids": subject.corrupted}
    (_, source), _ = opened.sources({"input_ids": subject.clean})
    cells = torch.zeros(len(opened.changing), subject.clean.shape[1])
    for layer in range(cells.shape[0]):
        for pos in range(cells.shape[1]):
            _, out = opened.changing[layer](
                base, unit_locations={"sources->base": ([[[pos]]], [[[pos]]])}, source_representations=source[layer][:, pos : pos + 1]
            )
            cells[layer, pos] = subject.difference(out.logits[0, -1])
    return cells


READ = {"": read}
PATCH = {"": patch}
SWEEP = {"one forward a patch": one_forward_a_patch}
GENERATE: dict[str, Any] = {}
"""Its `generate` intervenes on the prompt only, as it says itself."""
PACKED: dict[str, Any] = {}
