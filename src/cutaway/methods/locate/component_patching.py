"""Which heads and MLPs carry the difference between the two prompts, measured by running the model for each?

Exact counterpart of attribution patching: every head and every MLP in turn takes its output, at all tokens, from the counterfactual's run.

Mediator:
    component; heads and MLPs, their whole output.

Search:
    exhaustive; one run each.

Measure:
    change of the metric.

Controls:
    random direction.

Method:
    effect[c] = m(base | c <- c') - m(base), c' the component's output in the counterfactual's run. One row of a sweep for every component.

Source:
    Vig et al. 2020, arXiv 2004.12265; Wang et al. 2022, arXiv 2211.00593.

Returns:
    Scores, one row a component; unit: that of the metric; intervals over pairs.

Does not show:
    Components that only act together, or that others stand in for when they are changed alone.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> scores = cut.locate.component_patching(lm, "induction:n=4,length=8")
    >>> scores.ranked()[0].startswith("layers[")
    True
"""

from __future__ import annotations

import numpy as np
import torch

from cutaway.address import Address
from cutaway.engine.place import Intervention
from cutaway.mediators.add import add
from cutaway.mediators.swap import swap
from cutaway.methods.base import Example, Started, components, examples, same_length_noise
from cutaway.metrics.bootstrap import bootstrap, bounds, spread
from cutaway.models.language import LanguageModel
from cutaway.progress import progress
from cutaway.results.base import Control
from cutaway.results.scores import Scores
from cutaway.tasks.base import Task, find_task

_DRAWS = 40


def component_patching(lm: LanguageModel, task: Task | str, *, metric: str = "logit_difference", seed: int = 0) -> Scores:
    """Effect of taking each head's and MLP's output from the counterfactual's run; see the module.

    metric: what is measured, a name from cutaway.metrics. seed: of the control and the intervals. Raises PromptError.
    """
    task = find_task(task, lm)
    started = Started(lm, "locate.component_patching", task, seed, {"metric": metric})
    parts = components(lm)
    every = examples(lm, task, metric)
    effects = np.zeros((len(every), len(parts)))
    with progress("component patching", len(every)) as done:
        for n, example in enumerate(every):
            there = lm.run(example.counterfactual, read=parts)
            edits: list[list[Intervention]] = [[(part, swap(there[part]))] for part in parts]
            effects[n] = lm.sweep(example.base, edits=edits, metric=example.score, progress=done)[:, 0].double().numpy() - example.at_base
    best = int(np.abs(effects.mean(0)).argmax())
    disturbed = _disturbed(lm, every, parts[best], seed)
    return _scores(parts, effects, best, disturbed, started, seed)


def _disturbed(lm: LanguageModel, every: list[Example], part: Address, seed: int) -> np.ndarray:
    """Effects (example, draw) of moving one component as far as the counterfactual does, in random directions."""
    generator = torch.Generator().manual_seed(seed)
    effects = []
    for example in every:
        difference = lm.run(example.counterfactual, read=[part])[part] - lm.run(example.base, read=[part])[part]
        edits: list[list[Intervention]] = [[(part, add(same_length_noise(difference, generator)))] for _ in range(_DRAWS)]
        effects.append(lm.sweep(example.base, edits=edits, metric=example.score)[:, 0].double().numpy() - example.at_base)
    return np.stack(effects)


def _scores(parts: list[Address], effects: np.ndarray, best: int, disturbed: np.ndarray, started: Started, seed: int) -> Scores:
    mean, low, high = bounds(effects, seed=seed)
    control = Control(
        name="random direction",
        says=f"Changes of {parts[best]} of the same size in random directions (range of draws).",
        unit="change of the metric",
        found=bootstrap(effects[:, best], seed=seed),
        trivial=spread(disturbed.mean(0)),
    )
    return Scores(
        title="Component patching",
        question="Which heads and MLPs, taken from the counterfactual's run, change the answer?",
        limits="It does not show components that act only together, or that others stand in for.",
        provenance=started.provenance(),
        controls=(control,),
        rows=tuple(str(part) for part in parts),
        columns=("patching effect",),
        units=("change of the metric",),
        values=mean[:, None],
        low=low[:, None],
        high=high[:, None],
    )
