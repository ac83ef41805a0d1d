"""Which heads' queries, at one token, carry what is looked for, so that in another prompt they pick what fits from that prompt's own items?

A predicate ("the fruit") can be kept as a query: heads that hold it attend to whatever meets it. The queries of a few heads are taken from a source
prompt with another predicate; if the model then answers with the item of the destination that meets the source's predicate, these heads filter.

Mediator:
    component; queries of heads, before rotary positions, at one token.

Search:
    gates; trained on one half of the examples.

Measure:
    causality: how often, of all items of the destination, the one that meets the source's predicate becomes the likeliest.

Controls:
    random heads; exchanged keys (where items have roles); another task (where `transfer` names one).

Method:
    q <- g q(destination) + (1 - g) q(source), g in [0, 1] for each head; minimised: - logit(target) + mean logit(distractors) + penalty x
    sum(1 - g), where the target is the destination's item that meets the source's predicate, and distractors are its other items and the source's
    own answer. Adam, 1e-2; gates begin at 1/2 and are cut to [0, 1] after every step; heads kept are those that end below 1/2. Exchanged keys: in
    the untouched destination, the keys that these heads have of its answer and of the target change places; if they select by the match, the answer
    becomes the target. Heads that only widen the margin are kept as well, as long as that is worth the penalty.

Source:
    Sen Sharma, Rogers, Shapira, Bau 2025, arXiv 2510.26784.

Returns:
    Scores, one row a head; unit: 1 - gate (1: the query is the source's). Numbers: heads kept, causality on held-out examples, that of all heads'
    queries together, and by how many logits the target gains on the distractors. Intervals over examples.

Does not show:
    What a head does with the item that it finds. Where the answer can be told from the item and the predicate without looking for it, no queries are
    needed, and causality is low although the model is right.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("filter_lm")
    >>> scores = cut.locate.filter_heads(lm, "list_filtering:n=20", variable="kind", steps=60)
    >>> scores.numbers["of"] == len(scores.rows)
    True
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, final

import numpy as np
import torch
from torch import Tensor

from cutaway.address import Address
from cutaway.engine.place import Edit, Intervention
from cutaway.errors import PromptError
from cutaway.methods.base import Started
from cutaway.methods.locate._alignment import position
from cutaway.methods.locate._gated import Gated, random_sets
from cutaway.metrics.bootstrap import bootstrap, spread
from cutaway.models.language import LanguageModel
from cutaway.models.prompt import Prompt
from cutaway.registry import Calls
from cutaway.results.base import Control
from cutaway.results.scores import Scores
from cutaway.tasks.base import Task, find_task
from cutaway.tasks.behaviour import interchanges

_RATE = 1e-2
_DRAWS = 20
_UNIT = "causality"


def filter_heads(
    lm: LanguageModel,
    task: Task | str,
    *,
    variable: str | None = None,
    items: str = "item",
    pos: str = "last",
    penalty: float = 0.02,
    steps: int = 300,
    transfer: Annotated[str, Calls("tasks")] | None = None,
    seed: int = 0,
) -> Scores:
    """A gate for each head's query at one token; see the module.

    variable: the predicate, one of the task's causal model, such as `kind` of `list_filtering`; sources then have other items as well. Without it the
    two sides of a pair are source and destination, and their answers the items. items: roles `item_1`, `item_2`, ... of the prompts are the items;
    where a prompt has no such roles, they are the answers. pos: a role, number or `last`. penalty: logits that a head costs. steps: of training.
    transfer: another task in which the heads that were found are tried too, such as one with the question before the list. seed: of the examples,
    halves, training, controls and intervals. Raises InputError, PromptError, UnknownNameError, AddressError, NumericError.
    """
    task = find_task(task, lm)
    options = {"variable": variable, "items": items, "pos": pos, "penalty": penalty, "steps": steps, "transfer": transfer}
    started = Started(lm, "locate.filter_heads", task, seed, options)
    choices = _Choices(lm, _choices(lm, task, variable, items, seed), pos)
    if len(choices.rows) < 2:
        raise PromptError(f"Train on one half of {task}, and judge by the other.", f"{len(choices.rows)} example", "two or more")
    half = max(len(choices.rows) // 4 * 2, 1)  # the two ways of a pair stay on one side
    gates = choices.gated.train(choices.loss, choices.rows[:half], penalty=penalty, rate=_RATE, steps=steps, seed=seed)
    kept, held_out = gates < 0.5, choices.rows[half:]
    controls, numbers = _judged(choices, kept, held_out, seed)
    if transfer is not None:
        other = find_task(transfer, lm)
        others = _Choices(lm, _choices(lm, other, variable, items, seed), pos)
        tried = bootstrap(others.hit(others.gated.taking(kept, others.rows), others.rows), seed=seed)
        controls += (Control("another task", f"The same heads in {other}.", _UNIT, controls[0].found, tried),)
    return Scores(
        title="Filter heads",
        question="Which heads' queries carry what is looked for, so that in another prompt they pick what fits?",
        limits="It does not show what a head does with the item that it finds, nor answers that need no search.",
        provenance=started.provenance(),
        controls=controls,
        numbers=numbers,
        rows=tuple(map(str, choices.gated.parts)),
        columns=("taken",),
        units=("1 - gate",),
        values=1 - gates[:, None].astype(float),
    )


@final
@dataclass(frozen=True)
class _Choice:
    """A destination and a source; items: tokens that the destination chooses from, the target first; also: the source's own answer.

    own: which of the items the destination is answered with by itself. places: the token at which each item stands; empty where that is not known.
    """

    base: Prompt
    source: Prompt
    items: tuple[int, ...]
    also: int
    own: int
    places: tuple[int, ...] = ()


@final
class _Choices:
    """Choices ready to run: queries of the sources in the destinations, and keys exchanged in these."""

    def __init__(self, lm: LanguageModel, every: Sequence[_Choice], pos: str) -> None:
        self._lm, self.every = lm, every
        self.rows = torch.arange(len(every))
        points = [Address(f"layers[{layer}].attn.q", pos=position(pos)) for layer in range(lm.sizes.n_layers)]
        self.gated = Gated(lm, [one.base for one in every], [one.source for one in every], points)

    def margin(self, logits: Tensor, rows: Tensor) -> Tensor:
        """The target's logit against the mean of the distractors', (rows,)."""
        gains = []
        for said, row in zip(logits, rows.tolist(), strict=True):
            target, *others = self.every[row].items
            gains.append(said[target] - said[list({*others, self.every[row].also} - {target})].mean())
        return torch.stack(gains).float()

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        return -self.margin(logits, rows).mean()

    def hit(self, logits: Tensor, rows: Tensor) -> np.ndarray:
        """1 where the target is the likeliest item, (rows,)."""
        return np.array([float(said[list(self.every[row].items)].argmax() == 0) for said, row in zip(logits, rows.tolist(), strict=True)])

    def exchanged(self, kept: np.ndarray, rows: Tensor) -> np.ndarray:
        """1 where the target is the likeliest item when these heads' keys of it and of the answer change places, (rows,)."""
        chosen = [self.every[row] for row in rows.tolist()]
        tokens = self._lm.tokens([one.base for one in chosen])
        starts = torch.tensor([tokens.ids.shape[1] - length for length in tokens.lengths])
        here, there = (
            starts + torch.tensor([one.places[which] for one, which in zip(chosen, w, strict=True)])
            for w in ([0] * len(chosen), [one.own for one in chosen])
        )
        shared = self._lm.sizes.n_heads // self._lm.sizes.n_kv_heads
        edits: list[Intervention] = []
        for layer in range(self._lm.sizes.n_layers):
            mine = kept[layer * self._lm.sizes.n_heads : (layer + 1) * self._lm.sizes.n_heads]
            heads = sorted({int(head) // shared for head in np.flatnonzero(mine)})
            if heads:
                edits.append((f"layers[{layer}].attn.k", _exchange(heads, here, there)))
        return self.hit(self._lm.last(self._lm.run(tokens, edits=edits).output), rows)


def _exchange(heads: Sequence[int], here: Tensor, there: Tensor) -> Edit:
    """Keys (rows, pos, head, d_head) of these heads at two tokens of each row, the one put in the other's place."""

    def edit(keys: Tensor) -> Tensor:
        rows, both = torch.arange(len(here))[:, None], torch.tensor(heads)[None]
        out = keys.clone()
        out[rows, here[:, None], both], out[rows, there[:, None], both] = keys[rows, there[:, None], both], keys[rows, here[:, None], both]
        return out

    return edit


def _judged(choices: _Choices, kept: np.ndarray, rows: Tensor, seed: int) -> tuple[tuple[Control, ...], dict[str, float]]:
    """What the heads kept do on examples that were not trained on, beside random ones."""
    count, logits = int(kept.sum()), choices.gated.taking(kept, rows)
    nothing, everything = (choices.gated.taking(np.full(len(kept), one), rows) for one in (False, True))
    sets = random_sets(~kept, count, _DRAWS, seed)
    found, drawn = choices.hit(logits, rows), [choices.hit(choices.gated.taking(one, rows), rows).mean() for one in sets]
    numbers = {
        "heads kept": float(count),
        "of": float(len(kept)),
        "held out": float(len(rows)),
        _UNIT: float(found.mean()),
        f"{_UNIT} of all heads": float(choices.hit(everything, rows).mean()),
        "gained on the distractors": float((choices.margin(logits, rows) - choices.margin(nothing, rows)).mean()),
    }
    interval = bootstrap(found, seed=seed)
    controls: tuple[Control, ...] = (
        Control(
            "random heads",
            f"Queries of {count} heads picked at random from the others (range of sets).",
            _UNIT,
            interval,
            spread(np.array(drawn)),
        ),
    )
    if all(choices.every[row].places for row in rows.tolist()):
        moved = bootstrap(choices.exchanged(kept, rows), seed=seed)
        rivals = spread(np.array([choices.exchanged(one, rows).mean() for one in sets]))
        says = "Keys of the answer and the target exchanged in these heads, and in as many of the others (range of sets)."
        controls += (Control("exchanged keys", says, "part of the answers that become the target", moved, rivals),)
    return controls, numbers


def _choices(lm: LanguageModel, task: Task, variable: str | None, items: str, seed: int) -> list[_Choice]:
    """Both ways of every pair, or the interchanges of a variable after which the answer is a third one, in random order."""
    if variable is None:
        pairs = {(p.base.text, p.counterfactual.text): p for p in task.pairs}.values()
        groups = [
            [(p.base, p.counterfactual, p.foil, (p.answer, p.foil)), (p.counterfactual, p.base, p.answer, (p.foil, p.answer))]
            for p in pairs
        ]
    else:
        known = bool(task.arguments.get("known", True))
        made = interchanges(task, lm, variable, n=2 * len(task), seed=seed, known=known)
        third = {(one.base.text, one.source.text): one for one in made if one.answer not in one.own}
        groups = [[(one.base, one.source, one.answer, one.own)] for one in third.values()][: len(task)]
    random.Random(seed).shuffle(groups)
    return [_choice(lm, *one, items) for group in groups for one in group]


def _choice(lm: LanguageModel, base: Prompt, source: Prompt, answer: str, own: tuple[str, str], items: str) -> _Choice:
    """Raises PromptError where the items have roles, and are several tokens, or the answers are not among them."""
    target, mine, also = (lm.token_id(text) for text in (answer, *own))
    tokens = lm.tokens(base)
    spans = [span for role, span in tokens.spans[0].items() if re.fullmatch(rf"{re.escape(items)}_\d+", role)]
    if not spans:
        return _Choice(base, source, tuple(dict.fromkeys((target, mine))), also, min(1, int(mine != target)))
    places = {int(tokens.ids[0, start]): start for start, stop in spans if stop == start + 1}
    if len(places) < len(spans) or not {target, mine} <= places.keys():
        raise PromptError(
            f"Choose among {len(spans)} items of {base.text!r}.",
            f"{len(places)} different ones of one token, the answer {answer!r} among them: {target in places}",
            "items of one token, each once",
        )
    order = (target, *(item for item in places if item != target))
    return _Choice(base, source, order, also, order.index(mine), tuple(places[item] for item in order))
