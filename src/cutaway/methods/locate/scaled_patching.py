"""Where does what a part says at one token, put there several times as strong, rewrite the answer?

What the MLPs add at the token that tells the two prompts apart is taken from the counterfactual, made larger, and put at any token of the base.

Mediator:
    component; the MLP's (or another) output at one token, in a window of layers.

Search:
    exhaustive; every layer, token and scale.

Measure:
    rewrite score of the counterfactual's answer.

Controls:
    random direction; another token.

Method:
    With h' the output at the last token of `role` in the counterfactual's run, h[l,t] <- scale * h'[l] in the base's, for the layers of a window
    around l. The scale multiplies the source, as in the published code, and not the change: scale 1 is plain patching, 0 would be ablation.
    rewrite = (p_patched - p) / (1 - p), with p the probability of the counterfactual's answer after the base: 1 where it becomes certain, 0 where
    nothing changes, below 0 where it becomes less likely. `numbers` say for each scale's best cell by how much the other words were moved: half the
    sum of changes of their probabilities, answer and foil left out and the rest brought to a sum of 1; and by how much the
    counterfactual prompt itself moves them.

Source:
    Ahsan, Sharma, Amir, Bau, Wallace 2025, Elucidating Mechanisms of Demographic Bias in LLMs for Healthcare, arXiv 2502.13319.

Returns:
    Grid, unit: rewrite score; panels: scales; rows: tokens for one pair, positions around the role for several; columns: the layer the window is
    centred on; intervals over pairs.

Does not show:
    That the model uses this place by itself: a value several times as strong as any that occurs may act where the usual one does not.
    A larger state (`point="output"`) shows little more than the state itself, because the next norm takes its length away.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> cut.locate.scaled_patching(lm, "induction:n=2,length=6", scales=(1, 2)).panels
    ('scale 1', 'scale 2')
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from cutaway.address import Address
from cutaway.engine.place import Intervention
from cutaway.errors import InputError, PromptError, UnknownNameError
from cutaway.mediators.swap import swap
from cutaway.methods.base import Example, Started, averaged, bounds_over_present, examples, labels, same_length_noise
from cutaway.methods.locate.causal_trace import PANELS, around
from cutaway.metrics.bootstrap import bootstrap, spread
from cutaway.models.language import LanguageModel
from cutaway.progress import progress
from cutaway.results.base import Control
from cutaway.results.grid import Grid
from cutaway.tasks.base import Task, find_task

UNIT = "rewrite score"

_DRAWS = 20


def scaled_patching(
    lm: LanguageModel,
    task: Task | str,
    *,
    role: str | None = None,
    point: str | None = None,
    scales: tuple[int, ...] = (1, 2, 5),
    layers: tuple[int, ...] = (),
    window: int = 1,
    seed: int = 0,
) -> Grid:
    """Rewrite score of scaled outputs of the role's token, put at every token and layer; see the module.

    role: whose last token's output is taken; without it the task's own. point: `mlp.output`, `attn.output` or `output` (the state); without it that
    of the MLPs, of attention in a model that has none. layers: centres of windows, all without it. window: layers patched together, each with its
    own value. seed: of the controls and the intervals. Raises InputError, PromptError, UnknownNameError.
    """
    task = find_task(task, lm)
    role = role or task.role
    point = point or ("mlp.output" if lm.find("layers[0].mlp.output") is not None else "attn.output")
    layers, chosen = _layers(lm, point, scales, layers, window), {"role": role, "point": point, "scales": scales, "layers": layers}
    started = Started(lm, "locate.scaled_patching", task, seed, {**chosen, "window": window})
    every = examples(lm, task, "probability")
    rows, row_of = labels(lm, every, role)
    runs = [_Scaled(lm, example, role, [around(point, layer, window, lm.sizes.n_layers) for layer in layers]) for example in every]
    with progress("scaled patching", len(every)) as done:
        maps = [run.map(scales, done) for run in runs]
    one = len(every) == 1
    effects, moved = ([m[..., i] for m in maps] for i in range(2))
    values, low, high = bounds_over_present(averaged(effects, row_of, len(rows)), seed)
    others, *_ = bounds_over_present(averaged(moved, row_of, len(rows)), seed)
    return Grid(
        title="Scaled patching",
        question=f"Where does what {point} says at the {role}, taken from the counterfactual and made stronger, rewrite the answer?",
        limits="It does not show that the model uses this place by itself: values stronger than any that occur may act all the same.",
        provenance=started.provenance(),
        controls=_controls(runs, effects, row_of, values, scales, layers, seed),
        numbers={
            "base": float(np.mean([run.before for run in runs])),
            "window, layers": window,
            **_numbers(values, others, scales),
            "other words moved, counterfactual": float(np.mean([run.moved for run in runs])),
        },
        row_axis="token" if one else "position",
        column_axis="layer",
        rows=rows,
        columns=tuple(str(layer) for layer in layers),
        panels=tuple(f"scale {scale}" for scale in scales),
        values=values,
        low=None if one else low,
        high=None if one else high,
        unit=UNIT,
        diverging=True,
    )


@final
class _Scaled:
    """One pair: what the role's token has in the counterfactual's run, and what it does elsewhere in the base's. windows: points, by column."""

    def __init__(self, lm: LanguageModel, example: Example, role: str, windows: Sequence[Sequence[str]]) -> None:
        self.lm, self.example, self.windows = lm, example, windows
        spans = example.counterfactual.spans[0]
        if role not in spans:
            raise PromptError(f"Patch from the {role!r}.", f"roles: {', '.join(spans) or 'none'}", "one of them as `role`")
        self.span = spans[role]
        points = list(dict.fromkeys(name for points in windows for name in points))
        self.there = lm.run(example.counterfactual, read=points)
        self._words = [int(example.target.answer[0]), int(example.target.foil[0])]
        self._base = self._judged(example.target.reference[0].exp())
        self.before = float(self._base[0])
        if self.before > 1 - 1e-6:
            works = "a pair whose base is answered otherwise than its counterfactual"
            raise InputError(f"Rewrite the answer to {example.pair.base.text!r}.", "what it is to be rewritten to is certain", works)
        self.moved = float(self._scored(lm.next_logits(example.counterfactual))[0, 1])

    def map(self, scales: Sequence[int], done: Callable[[float], None]) -> np.ndarray:
        """Rewrite score, and by how much other words move: (scale, token, column, 2)."""
        n = self.example.n_tokens
        cells = [(s, t, c) for s in scales for t in range(n) for c in range(len(self.windows))]
        found = self.run([self.put(c, t, [s * value for value in self.source(c)]) for s, t, c in cells], done)
        return found.reshape(len(scales), n, len(self.windows), 2)

    def source(self, column: int, token: int | None = None) -> list[Tensor]:
        """What the counterfactual's run has at a token, by default the role's last, at each point of a window."""
        return [self.there[point][0, self.span[1] - 1 if token is None else token] for point in self.windows[column]]

    def put(self, column: int, token: int, values: Sequence[Tensor]) -> list[Intervention]:
        """Put a value at each point of a window."""
        return [(Address(point, pos=token), swap(value)) for point, value in zip(self.windows[column], values, strict=True)]

    def run(self, edits: list[list[Intervention]], done: Callable[[float], None] | None = None) -> np.ndarray:
        """Rewrite score, and by how much other words move: (intervention, 2)."""
        return self.lm.sweep(self.example.base, edits=edits, metric=self._scored, progress=done)[:, 0].double().numpy()

    def _scored(self, logits: Tensor) -> Tensor:
        (before, words), (after, changed) = self._base, self._judged(logits.softmax(-1))
        rewrite = (after - before.to(after)) / (1 - before.to(after))
        return torch.stack([rewrite, (changed - words.to(changed)).abs().sum(-1) / 2], -1)

    def _judged(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """The probability of the counterfactual's answer (...), and those of all other words but the base's, brought to a sum of 1 (..., vocab)."""
        rest = probabilities.clone()
        rest[..., self._words] = 0
        return probabilities[..., self._words[1]], rest / rest.sum(-1, keepdim=True).clamp(min=torch.finfo(rest.dtype).tiny)


def _layers(lm: LanguageModel, point: str, scales: Sequence[int], layers: tuple[int, ...], window: int) -> tuple[int, ...]:
    """The layers to patch. Raises InputError, UnknownNameError for options that cannot be used."""
    n = lm.sizes.n_layers
    if point not in PANELS.values() or lm.find(f"layers[0].{point}") is None:
        raise UnknownNameError("point to patch", point, [name for name in PANELS.values() if lm.find(f"layers[0].{name}") is not None])
    if not scales or window < 1 or not all(0 <= layer < n for layer in layers):
        found = f"scales={tuple(scales)}, window={window}, layers={layers}"
        raise InputError("Patch scaled outputs.", found, f"one scale or more, a window of 1 layer or more, layers from 0 to {n - 1}")
    return layers or tuple(range(n))


def _numbers(values: np.ndarray, others: np.ndarray, scales: Sequence[int]) -> dict[str, float]:
    found = dict[str, float]()
    for scale, panel, moved in zip(scales, values, others, strict=True):
        best = np.unravel_index(np.nanargmax(panel), panel.shape)
        found |= {f"best rewrite, scale {scale}": float(panel[best]), f"other words moved, scale {scale}": float(moved[best])}
    return found


def _controls(
    runs: Sequence[_Scaled],
    effects: Sequence[np.ndarray],
    row_of: Sequence[Sequence[int]],
    values: np.ndarray,
    scales: Sequence[int],
    layers: Sequence[int],
    seed: int,
) -> tuple[Control, ...]:
    """At the best cell: other values of the same length, and what another token of the counterfactual has there."""
    panel, row, column = (int(i) for i in np.unravel_index(np.nanargmax(values), values.shape))
    generator, scale = torch.Generator().manual_seed(seed), scales[panel]
    found, random, others = list[float](), list[np.ndarray](), list[np.ndarray]()
    for run, effect, rows in zip(runs, effects, row_of, strict=True):
        if row not in rows:
            continue
        token = max(t for t, r in enumerate(rows) if r == row)
        found.append(float(effect[panel, token, column]))
        drawn = [[scale * same_length_noise(value, generator) for value in run.source(column)] for _ in range(_DRAWS)]
        random.append(run.run([run.put(column, token, one) for one in drawn])[:, 0])
        elsewhere = [t for t in range(run.example.n_tokens) if not run.span[0] <= t < run.span[1]] or [run.span[0]]
        tokens = [elsewhere[int(i)] for i in torch.randint(len(elsewhere), (_DRAWS,), generator=generator)]
        others.append(run.run([run.put(column, token, [scale * v for v in run.source(column, t)]) for t in tokens])[:, 0])
    where = f"The best cell (layer {layers[column]}, scale {scale}, picked on these data)"
    trivial = {"random direction": (random, "random values as long"), "another token": (others, "what random other tokens have there")}
    return tuple(
        Control(name, f"{where} with {what} (range of draws).", UNIT, bootstrap(np.array(found), seed=seed), spread(np.mean(draws, 0)))
        for name, (draws, what) in trivial.items()
    )
