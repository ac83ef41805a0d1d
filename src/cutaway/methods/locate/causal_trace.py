"""Which states carry what the subject says to the answer?

Noise on the subject's embeddings destroys the answer; then one state at a time is put back to its clean value. Where the answer comes
back, the state carries what the noise destroyed.

Mediator:
    state; of the residual stream, and what windows of layers add to it, at one token.

Search:
    exhaustive; every layer and token.

Measure:
    indirect effect on the answer's probability.

Controls:
    states: random direction; attention: random direction.

Method:
    p*(o) is the answer's probability with noise on the subject; p*(o | h[l,t] <- clean) the same with the state after block l at token t restored.
    Indirect effect IE[l,t] = p*(o | h[l,t] <- clean) - p*(o), averaged over noise samples; the samples share their noise over all restorations.
    The noise is Gaussian with a standard deviation of `noise` times that of the entries of the embedding matrix. Panels two and three restore
    what the MLP or the attention adds, in a window of `window` layers around l.

Source:
    Meng, Bau, Andonian, Belinkov 2022, Locating and Editing Factual Associations in GPT, arXiv 2202.05262.

Returns:
    Grid, unit: difference of the metric (probability by default); rows: tokens for one pair, positions around the role for several; columns:
    layers; intervals over noise samples for one pair, over pairs for several. Tokens before the role are 0 by construction.

Does not show:
    Whether the state is used in the untouched run: noise takes the model off its usual states, and other paths may do the same work.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> trace = cut.locate.causal_trace(lm, "induction:n=2,length=6", samples=2, window=1)
    >>> trace.panels
    ('states', 'attention')
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from cutaway.address import Address
from cutaway.engine.passes import Readings
from cutaway.engine.place import Intervention
from cutaway.errors import InputError, PromptError, UnknownNameError
from cutaway.mediators.add import add
from cutaway.mediators.noise import noise as gaussian
from cutaway.mediators.swap import swap
from cutaway.methods.base import Example, Started, averaged, bounds_over_present, examples, labels, same_length_noise
from cutaway.metrics.bootstrap import bootstrap
from cutaway.models.language import LanguageModel
from cutaway.models.tokens import Tokens
from cutaway.progress import progress
from cutaway.results.base import Control
from cutaway.results.grid import Grid
from cutaway.tasks.base import Task, find_task

PANELS = {"states": "output", "MLP": "mlp.output", "attention": "attn.output"}
"""Panel -> the point of a layer that is restored."""


def causal_trace(
    lm: LanguageModel,
    task: Task | str,
    *,
    role: str | None = None,
    noise: float = 3.0,
    samples: int = 10,
    window: int = 10,
    panels: tuple[str, ...] = tuple(PANELS),
    metric: str = "probability",
    seed: int = 0,
) -> Grid:
    """Indirect effect of every state between the corrupted role and the answer; see the module.

    role: the part of the prompt that gets noise; without it the task's own. noise: its size, in standard deviations of the
    embedding matrix. samples: noise samples.
    window: layers restored together for MLP and attention. panels: what is restored: states, MLP, attention. metric: what is measured, a
    name from cutaway.metrics. seed: of the noise.
    Raises InputError, PromptError.
    """
    for name, value in (("samples", samples), ("window", window), ("noise", noise)):
        if value <= 0:
            raise InputError(f"{name}={value}.", works=f"a {name} above 0")
    for name in panels:
        if name not in PANELS:
            raise UnknownNameError("panel", name, PANELS)
    task = find_task(task, lm)
    role = role or task.role
    chosen = {"role": role, "noise": noise, "samples": samples, "window": window, "panels": list(panels), "metric": metric}
    started = Started(lm, "locate.causal_trace", task, seed, chosen)
    points = {name: PANELS[name] for name in panels if lm.find(f"layers[0].{PANELS[name]}") is not None}
    settings = _Settings(role, points, noise * _spread_of_embeddings(lm), samples, window)
    every = examples(lm, task, metric)
    rows, row_of = labels(lm, every, role)
    traced = []
    with progress("causal trace", len(every)) as done:
        for number, example in enumerate(every):
            traced.append(_Traced(lm, example, settings, seed + number, done))
    one = len(every) == 1
    maps = np.moveaxis(traced[0].effects, -1, 0) if one else averaged([t.effects.mean(-1) for t in traced], row_of, len(rows))
    values, low, high = bounds_over_present(maps, seed)
    return Grid(
        title="Causal trace",
        question=f"Which states, put back to their clean value, bring the answer back after noise on the {role}?",
        limits="It does not show that the untouched model uses these states: noise takes it off its usual path, and other paths may do the same.",
        provenance=started.provenance(),
        controls=_controls(lm, points, values, traced, row_of, window, seed),
        numbers={
            "untouched": float(np.mean([e.at_base for e in every])),
            "corrupted": float(np.mean([t.corrupted.mean() for t in traced])),
            "noise samples": samples,
            "window, layers": window,
        },
        row_axis="token" if one else "position",
        column_axis="layer",
        rows=rows,
        columns=tuple(str(i) for i in range(lm.sizes.n_layers)),
        panels=tuple(points),
        values=values,
        low=low,
        high=high,
        unit=f"change of {metric}",
        diverging=True,
    )


@final
@dataclass(frozen=True)
class _Settings:
    """role: what gets noise; panels: name -> point of a layer; std: of the noise, in the embeddings' own unit."""

    role: str
    panels: dict[str, str]
    std: float
    samples: int
    window: int


@final
class _Traced:
    """One example: effects (panel, token, layer, sample), the corrupted metric (sample,), and what its control needs."""

    def __init__(self, lm: LanguageModel, example: Example, settings: _Settings, seed: int, done: Callable[[float], None]) -> None:
        role, panels, samples, window = settings.role, settings.panels, settings.samples, settings.window
        if role not in example.base.spans[0]:
            raise PromptError(f"Corrupt the {role!r}.", f"roles: {', '.join(example.base.spans[0]) or 'none'}", "one of them as `role`")
        self.example, self._seed = example, seed
        self.tokens = _repeated(example.base, samples)
        self.base: list[Intervention] = [(Address("embed", pos=role), gaussian(settings.std, seed=seed))]
        self.start = example.base.spans[0][role][0]
        self.points = [f"layers[{i}].{point}" for point in panels.values() for i in range(lm.sizes.n_layers)]
        self.clean: Readings = lm.run(example.base, read=self.points)
        cells = [(p, t, i) for p in range(len(panels)) for t in range(self.start, example.n_tokens) for i in range(lm.sizes.n_layers)]
        names = list(panels.values())
        edits = [self.restore(around(names[p], i, window, lm.sizes.n_layers), t) for p, t, i in cells]
        found = self.sweep(lm, [[], *edits], done)
        self.corrupted = found[0]
        self.effects = np.zeros((len(panels), example.n_tokens, lm.sizes.n_layers, samples))
        for (p, t, i), value in zip(cells, found[1:], strict=True):
            self.effects[p, t, i] = value - self.corrupted

    def restore(self, points: list[str], token: int) -> list[Intervention]:
        """Put the clean values back at one token."""
        return [(Address(point, pos=token), swap(self.clean[point][0, token])) for point in points]

    def disturb(self, lm: LanguageModel, points: list[str], token: int) -> list[Intervention]:
        """Change the corrupted values at one token by as much as restoring does, in a random direction."""
        there = lm.run(self.tokens, edits=self.base, read=points)
        generator = torch.Generator().manual_seed(self._seed)
        moved = {p: same_length_noise(self.clean[p][0, token] - there[p][:, token], generator) for p in points}
        return [(Address(point, pos=token), add(moved[point])) for point in points]

    def sweep(self, lm: LanguageModel, edits: list[list[Intervention]], done: Callable[[float], None] | None = None) -> np.ndarray:
        """The metric (intervention, sample) of the corrupted run with each of the edits."""
        return lm.sweep(self.tokens, edits=edits, base=self.base, metric=self.example.score, progress=done).double().numpy()


def around(point: str, layer: int, window: int, n_layers: int) -> list[str]:
    """The point in a window of layers centred on `layer`, cut off at both ends; states, which carry everything before them, take a window of one."""
    if point == "output":
        window = 1
    first = max(0, layer - window // 2)
    return [f"layers[{i}].{point}" for i in range(first, min(n_layers, layer - window // 2 + window))]


def _spread_of_embeddings(lm: LanguageModel) -> float:
    weight = lm.site("embed").module.weight
    assert isinstance(weight, Tensor)
    return float(weight.detach().std())


def _repeated(tokens: Tokens, times: int) -> Tokens:
    return Tokens(tokens.ids.repeat(times, 1), tokens.mask.repeat(times, 1), tokens.lengths * times, tokens.spans * times)


def _controls(
    lm: LanguageModel, panels: dict[str, str], values: np.ndarray, traced: list[_Traced], row_of: list[list[int]], window: int, seed: int
) -> tuple[Control, ...]:
    """At the strongest cell of each panel: the same change in size, in a random direction."""
    controls = []
    for p, (panel, point) in enumerate(panels.items()):
        row, layer = np.unravel_index(np.nanargmax(np.abs(values[p])), values[p].shape)
        found: list[float] = []
        trivial: list[float] = []
        for one, rows in zip(traced, row_of, strict=True):
            tokens = [t for t, r in enumerate(rows) if r == row and t >= one.start]
            if not tokens:
                continue
            points = around(point, int(layer), window, lm.sizes.n_layers)
            moved = one.sweep(lm, [one.disturb(lm, points, tokens[-1])])[0] - one.corrupted
            real = one.effects[p, tokens[-1], layer]
            found += list(real) if len(traced) == 1 else [real.mean()]
            trivial += list(moved) if len(traced) == 1 else [moved.mean()]
        controls.append(
            Control(
                name=f"{panel}: random direction",
                says=f"At the strongest cell (layer {layer}, picked on these data), a change of the same size in a random direction.",
                unit="change of the metric",
                found=bootstrap(np.array(found), seed=seed),
                trivial=bootstrap(np.array(trivial), seed=seed),
            )
        )
    return tuple(controls)
