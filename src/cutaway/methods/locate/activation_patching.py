"""Where does the model hold what makes the two prompts of a pair different?

The base prompt is run with one state taken from the run of the counterfactual. Where the answer follows, that state carries the difference.

Mediator:
    state; of the residual stream, and what windows of layers add to it, at one token.

Search:
    exhaustive; every layer and token.

Measure:
    part of the metric's way from the base to the counterfactual.

Controls:
    states: random direction; attention: random direction.

Method:
    With m the metric and h' the counterfactual's states, effect[l,t] = (m(base | h[l,t] <- h'[l,t]) - m(base)) / (m(counterfactual) - m(base)):
    0 leaves the base's answer, 1 turns it fully into the counterfactual's. Panels two and three take what the MLP or the attention adds instead, in
    a window of `window` layers around l.

Source:
    Interchange intervention: Geiger, Lu, Icard, Potts 2021, arXiv 2106.02997; Vig et al. 2020, arXiv 2004.12265.

Returns:
    Grid, unit: part of the difference between the two prompts; rows: tokens for one pair, positions around the role for several; columns: layers;
    intervals over pairs. Tokens before the first difference are 0 by construction. Pairs whose two sides score alike are refused.

Does not show:
    What the state says beyond this difference, nor whether other states would have done as well: several may carry copies.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> cut.locate.activation_patching(lm, "induction:n=2,length=6", window=1).panels
    ('states', 'attention')
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from cutaway.address import Address
from cutaway.engine.passes import Readings
from cutaway.engine.place import Intervention
from cutaway.errors import InputError
from cutaway.mediators.add import add
from cutaway.mediators.swap import swap
from cutaway.methods.base import Example, Started, averaged, bounds_over_present, examples, labels, same_length_noise
from cutaway.methods.locate.causal_trace import PANELS, around
from cutaway.metrics.bootstrap import bootstrap, spread
from cutaway.models.language import LanguageModel
from cutaway.progress import progress
from cutaway.results.base import Control
from cutaway.results.grid import Grid
from cutaway.tasks.base import Task, find_task

_DRAWS = 40


def activation_patching(
    lm: LanguageModel,
    task: Task | str,
    *,
    role: str | None = None,
    window: int = 10,
    metric: str = "logit_difference",
    seed: int = 0,
) -> Grid:
    """Effect of taking each state from the counterfactual's run; see the module.

    role: the part of the prompt that names the rows of an average; without it the task's own. window: layers taken together for MLP and
    attention. metric: what is measured, a name from cutaway.metrics. seed: of the control and the intervals. Raises InputError, PromptError.
    """
    if window < 1:
        raise InputError(f"window={window}.", works="a window of 1 layer or more")
    task = find_task(task, lm)
    role = role or task.role
    started = Started(lm, "locate.activation_patching", task, seed, {"role": role, "window": window, "metric": metric})
    panels = {name: point for name, point in PANELS.items() if lm.find(f"layers[0].{point}") is not None}
    every = examples(lm, task, metric)
    rows, row_of = labels(lm, every, role)
    with progress("activation patching", len(every)) as done:
        patched = []
        for example in every:
            patched.append(_Patched(lm, example, panels, window, done))
    one = len(every) == 1
    maps = patched[0].effects[None] if one else averaged([p.effects for p in patched], row_of, len(rows))
    values, low, high = bounds_over_present(maps, seed)
    return Grid(
        title="Activation patching",
        question="Which states, taken from the counterfactual's run, turn the answer into the counterfactual's?",
        limits="It does not show that only these states carry the difference: a state copied forward shows at every layer that holds a copy.",
        provenance=started.provenance(),
        controls=_controls(lm, panels, values, patched, row_of, window, seed),
        numbers={
            "base": float(np.mean([e.at_base for e in every])),
            "counterfactual": float(np.mean([e.at_counterfactual for e in every])),
            "window, layers": window,
        },
        row_axis="token" if one else "position",
        column_axis="layer",
        rows=rows,
        columns=tuple(str(i) for i in range(lm.sizes.n_layers)),
        panels=tuple(panels),
        values=values,
        low=None if one else low,
        high=None if one else high,
        unit="part of the difference",
        diverging=True,
    )


class _Patched:
    """One example: effects (panel, token, layer), and what its control needs."""

    def __init__(self, lm: LanguageModel, example: Example, panels: dict[str, str], window: int, done: Callable[[float], None]) -> None:
        self.example = example
        self.gap = example.at_counterfactual - example.at_base
        if abs(self.gap) < 1e-6:
            raise InputError(
                f"Patch {example.pair.base.text!r}.",
                "the metric is the same on both sides",
                "a pair or a metric that tells the sides apart",
            )
        points = [f"layers[{i}].{point}" for point in panels.values() for i in range(lm.sizes.n_layers)]
        self.source: Readings = lm.run(example.counterfactual, read=points)
        names = list(panels.values())
        tokens = range(example.first_difference, example.n_tokens)
        cells = [(p, t, i) for p in range(len(names)) for t in tokens for i in range(lm.sizes.n_layers)]
        edits = [self.take(around(names[p], i, window, lm.sizes.n_layers), t) for p, t, i in cells]
        self.effects = np.zeros((len(names), example.n_tokens, lm.sizes.n_layers))
        for (p, t, i), effect in zip(cells, self.sweep(lm, edits, done), strict=True):
            self.effects[p, t, i] = effect

    def take(self, points: list[str], token: int) -> list[Intervention]:
        """Take the counterfactual's values at one token."""
        return [(Address(point, pos=token), swap(self.source[point][0, token])) for point in points]

    def disturb(self, lm: LanguageModel, points: list[str], token: int, draws: int, generator: torch.Generator) -> list[list[Intervention]]:
        """Change the base's values at one token by as much, in random directions."""
        there = lm.run(self.example.base, read=points)
        moved = {p: self.source[p][0, token] - there[p][0, token] for p in points}
        return [[(Address(p, pos=token), add(same_length_noise(moved[p], generator))) for p in points] for _ in range(draws)]

    def sweep(self, lm: LanguageModel, edits: list[list[Intervention]], done: Callable[[float], None] | None = None) -> np.ndarray:
        """The effect (intervention,) of each of the edits."""
        scores = lm.sweep(self.example.base, edits=edits, metric=self.example.score, progress=done)[:, 0].double().numpy()
        return (scores - self.example.at_base) / self.gap


def _controls(
    lm: LanguageModel, panels: dict[str, str], values: np.ndarray, patched: list[_Patched], row_of: list[list[int]], window: int, seed: int
) -> tuple[Control, ...]:
    """At the strongest cell of each panel: the same change in size, in random directions."""
    controls = []
    one = len(patched) == 1
    generator = torch.Generator().manual_seed(seed)
    for p, (panel, point) in enumerate(panels.items()):
        row, layer = np.unravel_index(np.nanargmax(np.abs(values[p])), values[p].shape)
        points = around(point, int(layer), window, lm.sizes.n_layers)
        found: list[float] = []
        trivial: list[float] = []
        for example, rows in zip(patched, row_of, strict=True):
            if row not in rows:
                continue
            token = max(t for t, r in enumerate(rows) if r == row)
            draws = _DRAWS if one else 1
            found.append(float(example.effects[p, token, layer]))
            trivial += list(example.sweep(lm, example.disturb(lm, points, token, draws, generator)))
        controls.append(
            Control(
                name=f"{panel}: random direction",
                says=f"Strongest cell (layer {layer}, picked on these data), changed as much in random directions{' (range of draws)' * one}.",
                unit="part of the difference",
                found=bootstrap(np.array(found), seed=seed),
                trivial=spread(np.array(trivial)) if one else bootstrap(np.array(trivial), seed=seed),
            )
        )
    return tuple(controls)
