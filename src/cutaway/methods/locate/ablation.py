"""Are the components that were found needed, and are they enough?

Knocks out the k best components of a ranking, then keeps only those and knocks out all others; beside each, random components.

Mediator:
    component; heads and MLPs, their whole output, several together.

Search:
    ranking; the scores of another method.

Measure:
    the metric.

Controls:
    knocked out: random components; kept only: random components.

Method:
    Knocking out replaces a component's output, at every token, by its mean over the task's prompts (both sides; the first token, which many models
    use as a resting place, has a mean of its own). m_k is the metric with the top k gone ("needed") or with all but the top k gone ("enough").
    Random components: as many, heads from the same layers and MLPs from any, taken from outside the top k while there are any.

Source:
    Mean ablation and faithfulness as in Wang et al. 2022, arXiv 2211.00593.

Returns:
    Trajectory with panels "knocked out" and "kept only": the metric over k for the ranking and for random components, intervals over pairs.
    Levels: the untouched model, and everything knocked out.

Does not show:
    How the components work together, nor what they do on other prompts.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> curve = cut.locate.ablation(lm, "induction:n=4,length=8", ks=(0, 1, 2))
    >>> curve.panels
    ('knocked out', 'kept only')
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cutaway.address import Address
from cutaway.engine.place import Intervention
from cutaway.errors import InputError
from cutaway.mediators.ablate import ablate
from cutaway.methods.base import Example, Started, components, examples
from cutaway.methods.locate.attribution_patching import attribution_patching
from cutaway.metrics.bootstrap import bootstrap, bounds, spread
from cutaway.models.language import LanguageModel
from cutaway.progress import progress
from cutaway.results.base import Control
from cutaway.results.trajectory import Series, Trajectory
from cutaway.tasks.base import Task, find_task

KS = (0, 1, 2, 5, 10, 20, 50, 100, 200)
PANELS = ("knocked out", "kept only")


def ablation(
    lm: LanguageModel,
    task: Task | str,
    *,
    ranking: tuple[str, ...] = (),
    ks: tuple[int, ...] = KS,
    draws: int = 5,
    metric: str = "logit_difference",
    seed: int = 0,
) -> Trajectory:
    """The metric with the top k of a ranking knocked out, and with only them kept; see the module.

    ranking: addresses, best first; without one, attribution patching's on the same task. ks: how many are knocked out or kept; all is added.
    draws: sets of random components for each k. metric: what is measured, a name from cutaway.metrics. seed: of the random sets and the intervals.
    Raises InputError for an address that is not a head or an MLP, PromptError.
    """
    task = find_task(task, lm)
    parts = components(lm)
    order = _order(parts, ranking or attribution_patching(lm, task, metric=metric, seed=seed).ranked())
    ks = tuple(sorted({k for k in ks if 0 <= k <= len(parts)} | {len(parts)}))
    started = Started(lm, "locate.ablation", task, seed, {"ranking": list(ranking), "ks": list(ks), "draws": draws, "metric": metric})
    every = examples(lm, task, metric)
    means = _means(lm, every, parts)
    generator = random.Random(seed)
    chosen = {k: [order[:k], *(_random_like(order, k, generator) for _ in range(draws))] for k in ks}
    sets = [(panel, k, i) for panel in PANELS for k in ks for i in range(draws + 1)]
    scores = np.zeros((len(every), len(sets)))
    with progress("ablation", len(every)) as done:
        for n, example in enumerate(every):
            gone = [tuple(sorted(_gone(panel, chosen[k][i], parts), key=parts.index)) for panel, k, i in sets]
            different = list(dict.fromkeys(gone))  # none and all are the same set for every draw
            edits = [_knock_out(lm, example, means, one) for one in different]
            swept = lm.sweep(example.base, edits=edits, metric=example.score, progress=done)[:, 0].double().numpy()
            scores[n] = swept[[different.index(one) for one in gone]]
    by_set = scores.reshape(len(every), len(PANELS), len(ks), draws + 1)
    return _trajectory(by_set, ks, every, started, metric, seed)


def _order(parts: list[Address], ranking: Sequence[str]) -> list[Address]:
    ranked = [Address.parse(text) for text in ranking]
    known = set(parts)
    for address in ranked:
        if address not in known:
            raise InputError(
                f"Ablate {address}.", "neither a head nor an MLP of this model", "layers[3].attn.z[head=0], layers[3].mlp.output"
            )
    ranked = list(dict.fromkeys(ranked))
    return [*ranked, *(part for part in parts if part not in set(ranked))]


def _means(lm: LanguageModel, every: Sequence[Example], parts: Sequence[Address]) -> dict[str, tuple[Tensor, Tensor]]:
    """Point -> mean of the first token, mean of all others, over both sides of all pairs."""
    points = list(dict.fromkeys(part.point for part in parts))
    first, rest = {p: list[Tensor]() for p in points}, {p: list[Tensor]() for p in points}
    for example in every:
        for side in (example.base, example.counterfactual):
            seen = lm.run(side, read=points)
            for point in points:
                first[point].append(seen[point][0, :1])
                rest[point].append(seen[point][0, 1:])
    return {p: (torch.cat(first[p]).mean(0), torch.cat(rest[p]).mean(0)) for p in points}


def _random_like(order: Sequence[Address], k: int, generator: random.Random) -> list[Address]:
    """k random components: as many heads of each layer as the top k has, and as many MLPs, from outside the top k while there are any."""
    found, outside = order[:k], list(order[k:])
    generator.shuffle(outside)
    inside = list(found)
    generator.shuffle(inside)
    taken: list[Address] = []
    for part in found:
        like = [c for c in outside if (c.head is None) == (part.head is None) and (c.head is None or c.layer == part.layer)]
        pool, choice = (outside, like[0]) if like else (inside, inside[0])
        pool.remove(choice)
        taken.append(choice)
    return taken


def _gone(panel: str, chosen: Sequence[Address], parts: Sequence[Address]) -> list[Address]:
    return list(chosen) if panel == PANELS[0] else [part for part in parts if part not in set(chosen)]


def _knock_out(lm: LanguageModel, example: Example, means: dict[str, tuple[Tensor, Tensor]], gone: Sequence[Address]) -> list[Intervention]:
    edits: list[Intervention] = []
    for part in gone:
        first, rest = (mean if part.head is None else mean[part.head] for mean in means[part.point])
        mean = torch.cat([first[None], rest.expand(example.n_tokens - 1, -1)])
        edits.append((part, ablate(mean)))
    return edits


def _trajectory(by_set: np.ndarray, ks: tuple[int, ...], every: Sequence[Example], started: Started, metric: str, seed: int) -> Trajectory:
    """by_set (example, panel, k, set): set 0 is the ranking's, the others are random."""
    series, controls = [], []
    for p, panel in enumerate(PANELS):
        mean, low, high = bounds(by_set[:, p, :, 0], seed=seed)
        per_draw = by_set[:, p, :, 1:].transpose(0, 2, 1).reshape(-1, len(ks))
        mean_r, low_r, high_r = bounds(per_draw, seed=seed)
        series.append(
            (
                Series(name="found", value=mean, low=low, high=high),
                Series(name="random", value=mean_r, low=low_r, high=high_r, control=True),
            )
        )
        at = int(np.abs(mean - mean_r).argmax())
        controls.append(
            Control(
                name=f"{panel}: random components",
                says=f"Random sets of k={ks[at]} from the same layers, at the k where the two differ most (range of sets).",
                unit=metric.replace("_", " "),
                found=bootstrap(by_set[:, p, at, 0], seed=seed),
                trivial=spread(by_set[:, p, at, 1:].mean(0)),
            )
        )
    return Trajectory(
        title="Ablation",
        question="Are the components that were found needed for the answer, and are they enough for it?",
        limits="It does not show how the components work together, nor that they do the same on other prompts.",
        provenance=started.provenance(),
        controls=tuple(controls),
        x_axis="components",
        y_axis=metric.replace("_", " "),
        x=np.array(ks, dtype=float),
        panels=PANELS,
        series=tuple(series),
        levels={"untouched": float(np.mean([e.at_base for e in every])), "all knocked out": float(by_set[:, 0, -1, 0].mean())},
        log_x=True,
    )
