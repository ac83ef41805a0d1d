"""Which heads' outputs, taken from another model of the same shape, make this one as good as that one?

The donor, usually this model trained further, runs on the same prompts, and outputs of its heads replace this model's own. What a few of them close
of the gap between the two is what training changed in them or before them.

Mediator:
    component; heads, their whole output.

Search:
    exhaustive; each head alone, then the best ones together.

Measure:
    gain in accuracy, and in the metric.

Controls:
    random heads.

Method:
    z <- z of the donor, for one head, at all tokens (or at `position`), on the base's prompts. On one half of the pairs the heads are ranked by what
    each alone adds to the metric; on the other half the best one, two, three ... are put in together, and so are `draws` sets of `k` heads that are
    not among the best `k` (while there are enough others). Accuracy: part of the prompts whose likeliest next token is the answer.
    Share of the gap closed = (accuracy with the heads - accuracy) / (the donor's accuracy - accuracy).

Source:
    Cross-model activation patching (CMAP): Prakash et al. 2024, arXiv 2402.14811.

Returns:
    Scores, one row a head; columns: what it adds to the metric, and to accuracy, on the pairs that rank; and the accuracy added, on the others, by it
    together with all heads ranked above it. Intervals over pairs. `numbers`: both accuracies and, where there is a gap, the shares of it closed.

Does not show:
    Whether a head itself was changed or only passes on what changed before it: a late head of the donor brings along what earlier parts of the donor
    found. MLPs stay this model's.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("entity_base_lm")
    >>> scores = cut.locate.cross_model(lm, "entity_tracking:boxes=4,n=24,known=false", donor="entity_lm", k=3)
    >>> scores.numbers["share closed by the best 3"] > 0.5
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, final

import numpy as np
import torch
from torch import Tensor

from cutaway.address import Address, Position
from cutaway.engine.passes import Readings
from cutaway.errors import InputError, PromptError
from cutaway.mediators.swap import swap
from cutaway.methods.base import Example, Started, examples
from cutaway.methods.locate._alignment import position as read_position
from cutaway.methods.locate._written import heads
from cutaway.metrics.accuracy import accuracy
from cutaway.metrics.base import Metric, Target
from cutaway.metrics.bootstrap import bootstrap, bounds, spread
from cutaway.models import opening
from cutaway.models.language import LanguageModel
from cutaway.models.tokens import Tokens, joined
from cutaway.progress import progress
from cutaway.registry import Opens
from cutaway.results.base import Control
from cutaway.results.scores import Scores
from cutaway.tasks.base import Task, find_task

_BATCH = 32
_SHAPE = ("n_layers", "n_heads", "d_head", "d_model")


def cross_model(
    lm: LanguageModel,
    task: Task | str,
    *,
    donor: Annotated[str, Opens("")] = "",
    ranking: tuple[str, ...] = (),
    position: str | None = None,
    k: int = 4,
    draws: int = 20,
    metric: str = "logit_difference",
    seed: int = 0,
) -> Scores:
    """What heads of another model add to this one, alone and together; see the module. Make the task with known=False, or there is no gap.

    donor: the other model, as `cut.open` takes it; none for this model itself, which changes nothing. ranking: heads, best first; without one they
    are ranked here, and with one all pairs judge. position: a role, number or `last` at which z is taken; none for all tokens. k: how many of the
    best are held against as many random ones. draws: sets of random heads. metric: what ranks, a name from cutaway.metrics. For a donor that is not
    to be opened by a name, see `between`. Raises InputError for a donor of another shape or other tokens, or an address that is no head; PromptError.
    """
    dtype = str(next(lm.module.parameters()).dtype).removeprefix("torch.")
    other = opening.open(donor, device=str(lm.device), dtype=dtype) if donor else lm
    return between(lm, other, task, ranking=ranking, position=position, k=k, draws=draws, metric=metric, seed=seed)


def between(
    lm: LanguageModel,
    donor: LanguageModel,
    task: Task | str,
    *,
    ranking: tuple[str, ...] = (),
    position: str | None = None,
    k: int = 4,
    draws: int = 20,
    metric: str = "logit_difference",
    seed: int = 0,
) -> Scores:
    """As `cross_model`, with a donor that is open."""
    task = find_task(task, lm)
    asked = {"donor": donor.name, "ranking": ranking, "position": position, "k": k, "draws": draws, "metric": metric}
    started = Started(lm, "locate.cross_model", task, seed, asked)
    parts = _same_heads(lm, donor)
    if not 1 <= k <= len(parts):
        raise InputError(f"k={k}.", f"{len(parts)} heads", f"k=1 to k={len(parts)}")
    every = examples(lm, task, metric)
    if len(every) < 2:
        raise PromptError("Rank heads on one half of the pairs, and judge on the other.", f"{len(every)} pair", "two pairs or more")
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(every), generator=generator).numpy()
    judged, ranked = (shuffled, shuffled) if ranking else np.split(shuffled, [(len(every) + 1) // 2])
    crossing = _Crossing(lm, donor, every, None if position is None else read_position(position))
    alone = crossing.gained([[part] for part in parts])
    order = _ordered(parts, ranking) if ranking else np.argsort(-alone[:, ranked, 0].mean(1), kind="stable")
    sets = [*(order[: n + 1] for n in range(len(order))), *(_drawn(order, k, generator) for _ in range(draws))]
    together = crossing.gained([[parts[i] for i in sorted(one)] for one in sets])[:, judged, 1]
    by_head, random = together[np.argsort(order)], together[len(parts) :].mean(1)
    columns = [bounds(found.T, seed=seed) for found in (alone[:, ranked, 0], alone[:, ranked, 1], by_head)]
    value, low, high = (np.stack(one, 1) for one in zip(*columns, strict=True))
    control = Control(
        name="random heads",
        says=f"{k} random heads of the donor instead of the best {k} (range of sets).",
        unit="accuracy added",
        found=bootstrap(together[k - 1], seed=seed),
        trivial=spread(random),
    )
    return Scores(
        title="Cross-model patching",
        question="Which heads' outputs, taken from the donor, make this model as good as the donor?",
        limits="It does not show whether a head was changed itself, or passes on what changed before it.",
        provenance=started.provenance(),
        controls=(control,),
        numbers=_numbers(crossing.accuracies[:, judged], k, float(together[k - 1].mean()), float(random.mean())),
        rows=tuple(str(part) for part in parts),
        columns=("alone", "alone, accuracy", "with all above it"),
        units=("change of the metric", "accuracy added", "accuracy added"),
        values=value,
        low=low,
        high=high,
    )


@final
class _Crossing:
    """Base prompts, in batches of one length, on which the donor's heads are put into the model; `pos`: at which token, None for all."""

    def __init__(self, lm: LanguageModel, donor: LanguageModel, every: Sequence[Example], pos: Position | None) -> None:
        self._lm, self._donor, self._every, self._pos = lm, donor, every, pos
        by_length: dict[int, list[int]] = {}
        for n, example in enumerate(every):
            by_length.setdefault(example.n_tokens, []).append(n)
        self._batches = [rows[i : i + _BATCH] for rows in by_length.values() for i in range(0, len(rows), _BATCH)]
        self.accuracies = np.zeros((2, len(every)))
        """1 where the answer is the likeliest next token, of the model and of the donor (2, example)."""

    def gained(self, sets: Sequence[Sequence[Address]]) -> np.ndarray:
        """What each set of the donor's heads adds to metric and accuracy, (set, example, 2)."""
        found = np.zeros((len(sets) + 1, len(self._every), 2))
        places = list({part.at(pos=self._pos): None for one in sets for part in one})
        with progress("cross-model patching", len(self._batches)) as done:
            for rows in self._batches:
                tokens, target = self._together(rows)
                there = self._donors(tokens, places)
                self.accuracies[1, rows] = accuracy(self._donor.next_logits(tokens), target).cpu().numpy()
                edits = [[(at, swap(there[at])) for at in (part.at(pos=self._pos) for part in one)] for one in ((), *sets)]
                measure = partial(_measured, self._every[0].metric, target)
                found[:, rows] = self._lm.sweep(tokens, edits=edits, metric=measure, progress=done).double().cpu().numpy()
        self.accuracies[0] = found[0, :, 1]
        return found[1:] - found[0]

    def _donors(self, tokens: Tokens, places: Sequence[Address]) -> Readings:
        before = self._donor.forwards
        seen = self._donor.run(tokens, read=places)
        if self._donor is not self._lm:
            self._lm.ran(self._donor.forwards - before)  # the cost of a result is read off its model
        return seen

    def _together(self, rows: Sequence[int]) -> tuple[Tokens, Target]:
        chosen = [self._every[n] for n in rows]
        tokens, theirs = joined([e.base for e in chosen]), self._donor.tokens([e.pair.base for e in chosen])
        if not torch.equal(tokens.ids, theirs.ids):
            raise InputError(f"Run {self._donor.name} on the prompts of {self._lm.name}.", "other tokens", "models with one tokenizer")
        return tokens, Target(*(torch.cat([getattr(e.target, name) for e in chosen]) for name in ("answer", "foil", "reference")))


def _measured(metric: Metric, target: Target, logits: Tensor) -> Tensor:
    """Metric and accuracy of logits (set, row, vocab), (set, row, 2)."""
    return torch.stack([metric(logits, target), accuracy(logits, target)], -1)


def _same_heads(lm: LanguageModel, donor: LanguageModel) -> list[Address]:
    """The heads that both have. Raises InputError for models of different shape."""
    parts = heads(lm)
    ours, theirs = ([getattr(one, "sizes", None) and getattr(one.sizes, name) for name in _SHAPE] for one in (lm, donor))
    if ours != theirs:
        shapes = "; ".join(", ".join(f"{n}={v}" for n, v in zip(_SHAPE, one, strict=True)) for one in (ours, theirs))
        raise InputError(
            f"Put heads of {donor.name} into {lm.name}.", shapes, "a model of the same shape, such as this one trained further"
        )
    return parts


def _ordered(parts: list[Address], ranking: Sequence[str]) -> np.ndarray:
    """Numbers of the heads, those of the ranking first. Raises InputError for one that is not there."""
    ranked = [Address.parse(text) for text in ranking]
    for address in ranked:
        if address not in parts:
            raise InputError(f"Patch {address}.", "no head of this model", "layers[1].attn.z[head=0] and the like")
    return np.array(list(dict.fromkeys([*map(parts.index, ranked), *range(len(parts))])))


def _drawn(order: np.ndarray, k: int, generator: torch.Generator) -> np.ndarray:
    """k random heads: those that are not among the best k first, while there are any."""
    rest, best = (part[torch.randperm(len(part), generator=generator).numpy()] for part in (order[k:], order[:k]))
    return np.concatenate([rest, best])[:k]


def _numbers(accuracies: np.ndarray, k: int, best: float, random: float) -> dict[str, float]:
    """Accuracies of the model and the donor, and the shares of the gap that accuracy gains close, where there is a gap."""
    own, donors = accuracies.mean(1).tolist()
    gap = donors - own
    shares = {f"share closed by the best {k}": best / gap, f"share closed by {k} random heads": random / gap} if gap > 0 else {}
    return {"accuracy": own, "accuracy of the donor": donors, **shares}
