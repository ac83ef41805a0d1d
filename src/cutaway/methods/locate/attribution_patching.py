"""Which heads and MLPs carry the difference between the two prompts, estimated for all of them at once?

A first-order estimate of component patching: two forwards and one backward, however many components there are.

Mediator:
    component; heads and MLPs, their whole output.

Search:
    gradient; one backward at the base.

Measure:
    change of the metric, first order.

Controls:
    random direction.

Method:
    effect[c] ~ sum over tokens and dimensions of (c' - c) . dm/dc, with c' the component's output in the counterfactual's run and the gradient of the
    metric m taken in the base run. Exact where m is linear in c.

Source:
    Nanda 2023, Attribution Patching; Syed, Rager, Conmy 2023, arXiv 2310.10348.

Returns:
    Scores, one row a component; unit: that of the metric; intervals over pairs.

Does not show:
    Effects through a saturated softmax or nonlinearity, where the gradient is flat although the change matters: check the best with
    component patching.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> scores = cut.locate.attribution_patching(lm, "induction:n=4,length=8")
    >>> scores.ranked()[0].startswith("layers[")
    True
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutaway.methods.base import Example, Started, components, examples, same_length_noise
from cutaway.metrics.bootstrap import bootstrap, bounds, spread
from cutaway.models.language import LanguageModel
from cutaway.progress import progress
from cutaway.results.base import Control
from cutaway.results.scores import Scores
from cutaway.tasks.base import Task, find_task

_DRAWS = 100


def attribution_patching(lm: LanguageModel, task: Task | str, *, metric: str = "logit_difference", seed: int = 0) -> Scores:
    """First-order estimate of each head's and MLP's patching effect; see the module.

    metric: what is measured, a name from cutaway.metrics. seed: of the control and the intervals. Raises PromptError.
    """
    task = find_task(task, lm)
    started = Started(lm, "locate.attribution_patching", task, seed, {"metric": metric})
    parts = components(lm)
    every = examples(lm, task, metric)
    effects, random = np.zeros((len(every), len(parts))), np.zeros((len(every), len(parts), _DRAWS))
    generator = torch.Generator().manual_seed(seed)
    with progress("attribution patching", len(every)) as done:
        for n, example in enumerate(every):
            effects[n], random[n] = _attribute(lm, example, generator)
            done(1)
    mean, low, high = bounds(effects, seed=seed)
    best = int(np.abs(mean).argmax())
    control = Control(
        name="random direction",
        says=f"The estimate for {parts[best]} with changes of the same size in random directions (range of draws).",
        unit="estimated change of the metric",
        found=bootstrap(effects[:, best], seed=seed),
        trivial=spread(random[:, best].mean(0)),
    )
    return Scores(
        title="Attribution patching",
        question="Which heads and MLPs, taken from the counterfactual's run, would change the answer, by a first-order estimate?",
        limits="It does not see effects through a flat gradient; the largest are to be checked by patching them.",
        provenance=started.provenance(),
        controls=(control,),
        rows=tuple(str(part) for part in parts),
        columns=("attribution",),
        units=("estimated change of the metric",),
        values=mean[:, None],
        low=low[:, None],
        high=high[:, None],
    )


def _attribute(lm: LanguageModel, example: Example, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Estimates (part,), and with random changes of the same size (part, draw)."""
    points = list(dict.fromkeys(part.point for part in components(lm)))

    def metric(output: Any) -> Tensor:
        return example.score(lm.last(output))

    values, slopes = lm.gradients(example.base, of=metric, at=points)
    there = lm.run(example.counterfactual, read=points)
    effects, random = [], []
    for point in points:
        change, slope = there[point] - values[point], slopes[point]
        axes = (0, 1, 3) if change.ndim == 4 else (0, 1, 2)  # keep the head axis
        effects.append((change * slope).sum(axes).reshape(-1))
        noise = torch.stack([same_length_noise(change, generator) for _ in range(_DRAWS)])
        random.append((noise * slope).sum([a + 1 for a in axes]).reshape(_DRAWS, -1).T)
    return torch.cat(effects).double().numpy(), torch.cat(random).double().numpy()
