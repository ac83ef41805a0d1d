"""What every method needs before it starts and when it ends: examples, components, provenance."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from cutaway import registry
from cutaway.address import Address
from cutaway.errors import NumericError, PromptError
from cutaway.metrics.base import Metric, Target, target
from cutaway.metrics.bootstrap import bounds
from cutaway.models.language import LanguageModel
from cutaway.models.tokens import Tokens, joined
from cutaway.results.base import Provenance
from cutaway.tasks.base import Pair, Task

_BATCH = 32
"""Prompts run at a time; bounds the memory that their logits take."""
BUCKETS = ("before {}", "first {}", "middle {}", "last {}", "first after", "further", "last")
"""Rows of a map that is averaged over prompts of different lengths, for a role (Meng et al. 2022, figure 2)."""


@final
@dataclass(frozen=True)
class Example:
    """One pair, ready to run: tokens of both sides (1, pos), what to judge by, and the metric's value on each side."""

    pair: Pair
    base: Tokens
    counterfactual: Tokens
    target: Target
    metric: Metric
    at_base: float
    at_counterfactual: float

    @property
    def n_tokens(self) -> int:
        """Tokens on each side."""
        return self.base.lengths[0]

    @property
    def first_difference(self) -> int:
        """The first token at which the sides differ: what lies before it is the same in both runs."""
        different = (self.base.ids != self.counterfactual.ids)[0].nonzero()
        return int(different[0]) if len(different) else self.n_tokens

    def score(self, logits: Tensor) -> Tensor:
        """The metric of logits (..., rows, vocab), every row of them this example: (..., rows)."""
        rows = logits.shape[-2]
        judged = Target(self.target.answer.expand(rows), self.target.foil.expand(rows), self.target.reference.expand(rows, -1))
        return self.metric(logits, judged)


def examples(lm: LanguageModel, task: Task, metric: str) -> list[Example]:
    """Every pair of a task, ready to run. Raises PromptError where the sides differ in length, NumericError where the metric is not finite."""
    chosen: Metric = registry.load("metrics", metric)
    sides = [(lm.tokens(pair.base), lm.tokens(pair.counterfactual)) for pair in task.pairs]
    for pair, (base, other) in zip(task.pairs, sides, strict=True):
        if base.lengths != other.lengths:
            raise PromptError(
                f"Compare {pair.base.text!r} with {pair.counterfactual.text!r}.",
                f"{base.lengths[0]} and {other.lengths[0]} tokens",
                "a counterfactual of the same number of tokens",
            )
    said = _next_logits(lm, [tokens for both in sides for tokens in both])
    found = []
    for pair, (base, other), logits in zip(task.pairs, sides, said.unflatten(0, (-1, 2)), strict=True):
        judged = target(lm, logits[:1], [pair.answer], [pair.foil])
        values = [float(chosen(row[None], judged)) for row in logits]
        if not np.isfinite(values).all():
            raise NumericError(f"The {metric} of {pair.base.text!r}.", str(values), "another metric, or a model in float32")
        found.append(Example(pair, base, other, judged, chosen, values[0], values[1]))
    return found


def _next_logits(lm: LanguageModel, every: Sequence[Tokens]) -> Tensor:
    """Logits after each prompt (prompt, vocab); prompts of one length are run together, so that none is padded."""
    rows: dict[int, Tensor] = {}
    for length in {tokens.lengths[0] for tokens in every}:
        numbers = [n for n, tokens in enumerate(every) if tokens.lengths[0] == length]
        for i in range(0, len(numbers), _BATCH):
            part = numbers[i : i + _BATCH]
            rows |= zip(part, lm.next_logits(joined([every[n] for n in part])), strict=True)
    return torch.stack([rows[n] for n in range(len(every))])


def labels(lm: LanguageModel, all_examples: Sequence[Example], role: str) -> tuple[tuple[str, ...], list[list[int]]]:
    """Rows of a map over tokens, and the row of each token of each example: the tokens themselves for one example, else buckets around a role."""
    if len(all_examples) == 1:
        tokens = [lm.token_text(int(i)) for i in all_examples[0].base.ids[0]]
        return tuple(tokens), [list(range(len(tokens)))]
    return tuple(name.format(role) for name in BUCKETS), [_buckets(example.base, role) for example in all_examples]


def components(lm: LanguageModel) -> list[Address]:
    """Every head and every MLP, layer by layer."""
    found = []
    for layer in range(lm.sizes.n_layers):
        found += [Address(f"layers[{layer}].attn.z", head=head) for head in range(lm.sizes.n_heads)]
        if lm.find(f"layers[{layer}].mlp.output") is not None:
            found.append(Address(f"layers[{layer}].mlp.output"))
    return found


def averaged(values: Sequence[np.ndarray], rows: Sequence[Sequence[int]], n_rows: int) -> np.ndarray:
    """Maps (panel, token, layer) of several examples -> (example, panel, row, layer): the mean over the tokens of each row, NaN for none."""
    out = np.full((len(values), values[0].shape[0], n_rows, values[0].shape[2]), np.nan)
    for i, (value, row) in enumerate(zip(values, rows, strict=True)):
        for r in set(row):
            out[i, :, r] = value[:, [t for t, q in enumerate(row) if q == r]].mean(1)
    return out


def bounds_over_present(maps: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, low and high of maps (sample, panel, row, column) over samples, each row over the samples that have it; NaN where none has."""
    out = tuple(np.full(maps.shape[1:], np.nan) for _ in range(3))
    for row in range(maps.shape[2]):
        present = ~np.isnan(maps[:, 0, row, 0])
        if present.any():
            for array, bound in zip(out, bounds(maps[present][:, :, row], seed=seed), strict=True):
                array[:, row] = bound
    return out[0], out[1], out[2]


def same_length_noise(difference: Tensor, generator: torch.Generator) -> Tensor:
    """A random vector (..., d) as long as `difference` along the last axis: what a control puts in its place."""
    drawn = torch.randn(difference.shape, generator=generator).to(difference)
    return drawn * difference.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True)


@final
class Started:
    """Counts time and forward passes from its making to `provenance`."""

    def __init__(self, lm: LanguageModel, method: str, task: Task, seed: int, arguments: Mapping[str, Any]) -> None:
        self._lm, self._method, self._task, self._seed, self._arguments = lm, method, task, seed, dict(arguments)
        self._time, self._forwards = time.monotonic(), lm.forwards

    def provenance(self) -> Provenance:
        """Where the result came from."""
        return Provenance(
            method=self._method,
            model=self._lm.name,
            revision=self._lm.revision,
            task=str(self._task),
            seed=self._seed,
            arguments=self._arguments,
            n=len(self._task),
            forwards=round(self._lm.forwards - self._forwards, 1),
            seconds=round(time.monotonic() - self._time, 2),
            versions={name: importlib.metadata.version(name) for name in ("cutaway", "torch", "transformers")},
        )


def _buckets(tokens: Tokens, role: str) -> list[int]:
    if role not in tokens.spans[0]:
        raise PromptError(f"Role {role!r}.", f"a prompt with roles {', '.join(tokens.spans[0]) or 'none'}", "one of them as `role`")
    first, stop = tokens.spans[0][role]
    return list(_rows(first, stop, tokens.lengths[0]))


def _rows(first: int, stop: int, length: int) -> Iterator[int]:
    for t in range(length):
        if t < first:
            name = "before {}"
        elif t == stop - 1:
            name = "last {}"
        elif t < stop:
            name = "first {}" if t == first else "middle {}"
        elif t == length - 1:
            name = "last"
        else:
            name = "first after" if t == stop else "further"
        yield BUCKETS.index(name)
