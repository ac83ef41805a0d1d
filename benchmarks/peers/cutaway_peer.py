"""Cutaway: a body (`trace`), a list of edits and reads (`run`), many lists at once (`sweep`)."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from subjects import GREEDY, Subject
from torch import Tensor

import cutaway as cut
from cutaway.address import Address
from cutaway.mediators.swap import swap
from cutaway.models.tokens import Tokens

TITLE = "Cutaway"
PACKAGE = "cutaway"
IMPORTS = ("import cutaway", "import cutaway; cutaway.open")


def load(subject: Subject) -> Any:
    return cut.open(subject.copy(), tokenizer=subject.tokenizer)


def idle(opened: Any, ids: Tensor) -> Tensor:
    return opened.module(input_ids=ids).logits


def read_trace(opened: Any, ids: Tensor, n: int) -> list[Tensor]:
    blocks = list(opened.layers)[:n]
    with opened.trace(_tokens(ids)):
        return [block.output for block in blocks]


def read_run(opened: Any, ids: Tensor, n: int, more: tuple[str, ...] = ()) -> list[Tensor]:
    points = [f"layers[{i}].output" for i in range(n)]
    found = opened.run(_tokens(ids), read=[*points, *more])
    return [found[point] for point in points]


def read_run_whole(opened: Any, ids: Tensor, n: int) -> list[Tensor]:
    """As far as the other peers go: `run` alone stops after the last block, before the unembedding."""
    return read_run(opened, ids, n, ("logits",))


def patch_trace(opened: Any, ids: Tensor, layer: int, value: Tensor) -> Tensor:
    with opened.trace(_tokens(ids)) as run:
        opened.layers[layer].input = value
    return run.output.logits


def patch_run(opened: Any, ids: Tensor, layer: int, value: Tensor) -> Tensor:
    return opened.run(_tokens(ids), edits=[(f"layers[{layer}].input", swap(value))]).output.logits


def generate(opened: Any, ids: Tensor, layer: int) -> list[Tensor]:
    found = []
    block = opened.layers[layer]
    options = {name: value for name, value in GREEDY.items() if name not in ("max_new_tokens", "do_sample")}
    with opened.generate(_tokens(ids), new_tokens=GREEDY["max_new_tokens"], **options) as run:
        for _ in run.steps:
            found.append(block.output)
    return [run.output, *found]


def one_at_a_time(opened: Any, subject: Subject) -> list[Tensor]:
    return _kept([opened.replay(graph, tokens) for graph, tokens in _jobs(opened, subject)])


def together(opened: Any, subject: Subject) -> list[Tensor]:
    return _kept(opened.replay_together(_jobs(opened, subject)))


def sweep(opened: Any, subject: Subject) -> Tensor:
    points = [f"layers[{i}].input" for i in range(subject.n_layers)]
    source = opened.run(_tokens(subject.clean), read=points)
    tokens = range(subject.clean.shape[1])
    edits = [[(Address(point, pos=pos), swap(source[point][0, pos]))] for point in points for pos in tokens]
    found = opened.sweep(_tokens(subject.corrupted), edits=edits, metric=subject.difference)
    return found[:, 0].unflatten(0, (len(points), -1))


READ = {"trace": read_trace, "run, to the logits": read_run_whole, "run, stops at last": read_run}
PATCH = {"trace": patch_trace, "run": patch_run}
SWEEP = {"sweep": sweep}
GENERATE = {"": generate}
PACKED = {"replay, one at a time": one_at_a_time, "replay_together": together}


def _tokens(ids: Tensor) -> Tokens:
    """The form a tokenized text has here: every peer is handed tokens."""
    return Tokens(ids, torch.ones_like(ids), (ids.shape[1],), ({},))


@cache
def _jobs(opened: Any, subject: Subject) -> list[tuple[Any, Tokens]]:
    """Recorded graphs and their inputs: each reads a block of its own, halves what the MLP after it adds, and keeps the last logits."""
    jobs = []
    for number, ids in enumerate(subject.prompts()):
        layer, tokens = number % (subject.n_layers - 1), _tokens(ids)
        with opened.record(tokens) as run:
            state = opened.layers[layer].output[:, -1]
            opened.layers[layer + 1].mlp.output *= 0.5
            run.save(state=state, logits=opened.logits[:, -1])
        jobs.append((run.graph, tokens))
    return jobs


def _kept(done: list[Any]) -> list[Tensor]:
    return [one[name] for one in done for name in ("state", "logits")]
