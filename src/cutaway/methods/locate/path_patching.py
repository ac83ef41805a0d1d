"""Which earlier heads and MLPs change the answer through the inputs of chosen parts, and through nothing else?

A receiver is what a later part reads: the queries, keys or values of a head, the input of an MLP, the logits. Every part before the receivers in turn
takes its output from the counterfactual's run, and only the receivers notice.

Mediator:
    component; heads, MLPs and the embeddings, as the receivers read them.

Search:
    exhaustive; two runs for each part.

Measure:
    change of the metric.

Controls:
    random direction.

Method:
    First, the base is run with the sender's output s' from the counterfactual's run, all other heads held at what they put out in the base's; MLPs
    answer freely, so that sender -> MLP -> receiver counts as one path (`held` may name them too, and then only what the sender itself wrote
    arrives). Second, the base is run with the receivers' q, k, v and MLP inputs as they came to be in the first run; attention patterns are computed
    from them anew, and what comes after follows freely. The logits as a receiver read the last state plus what the first run changed it by.
        effect[s] = m(base | R <- R(s')) - m(base), all receivers R together; the relative effect is that over m(base), pair by pair.
    With heads and MLPs held and one receiver, it is `circuits.edge_patching`.

Source:
    Wang et al. 2022, arXiv 2211.00593; receivers taken backwards step by step, and the relative effect: Prakash et al. 2024, arXiv 2402.14811.

Returns:
    Scores, one row a sender before the receivers; columns: the change of the metric, and the same over the base's metric (with
    metric="probability": (p_patched - p) / p); intervals over pairs. Senders that write the same in both runs are 0 by construction.

Does not show:
    Senders that reach the receivers through other heads, which are held; effects that need two senders at once.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> keys = tuple(f"layers[1].attn.k[head={h}]" for h in (4, 5, 7))
    >>> scores = cut.locate.path_patching(lm, "induction:n=4,length=8", receivers=keys)
    >>> len(scores.rows), scores.columns
    (9, ('path effect', 'relative effect'))
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from cutaway.address import Address
from cutaway.engine.place import Intervention
from cutaway.errors import InputError, LayoutError, UnknownNameError
from cutaway.mediators.add import add
from cutaway.mediators.swap import swap
from cutaway.methods.base import Example, Started, components, examples, same_length_noise
from cutaway.metrics.bootstrap import bootstrap, bounds, spread
from cutaway.models.language import LanguageModel
from cutaway.progress import progress
from cutaway.results.base import Control
from cutaway.results.scores import Scores
from cutaway.tasks.base import Task, find_task

LOGITS = Address("logits")
DIFFERING = "_differing"
"""Role of the tokens from the first at which the two sides differ, a name that no task gives."""
HELD = {"heads": "attn.z", "MLPs": "mlp.output"}
"""What may be held at its base value -> the point of a layer where it is."""

_DRAWS = 40
_EMBEDDINGS = "layers[0].input"
_RECEIVER = re.compile(r"layers\[\d+\]\.(attn\.[qkv]|mlp\.input)")

Change = tuple[Address, Tensor]
"""A sender, and what it writes instead."""


def path_patching(
    lm: LanguageModel,
    task: Task | str,
    *,
    receivers: tuple[str, ...] = ("logits",),
    pos: str | None = None,
    held: tuple[str, ...] = ("heads",),
    metric: str = "logit_difference",
    seed: int = 0,
) -> Scores:
    """Effect of each part through the receivers alone; see the module.

    receivers: `layers[9].attn.q[head=9]` (or k, v; without a head, all of the layer), `layers[3].mlp.input`, at all tokens or, as in
    `[head=9, pos=last]`, at one role or number; `logits`. pos: the senders' token, a role or number; all without it. held: what the first run keeps
    at its base value beside the sender: heads, MLPs. metric: what is measured, a name from cutaway.metrics. seed: of the control and the intervals.
    Raises InputError for what is not a receiver, AddressError for a token that is not there, LayoutError for a model without heads.
    """
    task = find_task(task, lm)
    arguments = {"receivers": list(receivers), "pos": pos, "held": list(held), "metric": metric}
    started = Started(lm, "locate.path_patching", task, seed, arguments)
    into = _receivers(lm, receivers)
    senders = _senders(lm, into, pos)
    points = _held(lm, into, held)
    every = examples(lm, task, metric)
    effects, generator = np.zeros((len(every), len(senders))), torch.Generator().manual_seed(seed)
    runs = []
    with progress("path patching", len(every)) as done:
        for n, example in enumerate(every):
            runs.append(_Paths(lm, example, senders, into, points))
            effects[n] = runs[n].effects([(sender, runs[n].there[sender]) for sender in senders])
            done(1)
    best = int(np.abs(effects.mean(0)).argmax())
    disturbed = np.stack([run.disturbed(senders[best], generator) for run in runs])
    return _scores(senders, effects, best, disturbed, every, started, seed)


@final
class _Paths:
    """One pair: what senders write on either side, and what the receivers make of another value of one.

    Everything is done from the first token on at which the sides differ; before it, nothing does.
    """

    def __init__(
        self, lm: LanguageModel, example: Example, senders: Sequence[Address], receivers: Sequence[Address], held: Sequence[Address]
    ) -> None:
        self.lm, self.example, self.receivers, self._held = lm, example, receivers, held
        self._last = Address(f"layers[{lm.sizes.n_layers - 1}].output", pos=-1)
        span = min(example.first_difference, example.n_tokens - 1), example.n_tokens
        self._base, other = (
            dataclasses.replace(t, spans=({**t.spans[0], DIFFERING: span},), _found={}) for t in (example.base, example.counterfactual)
        )
        self.base = lm.run(self._base, read=list(dict.fromkeys([*held, *senders, self._last])))
        self.there = lm.run(other, read=senders)

    def effects(self, changes: Sequence[Change]) -> np.ndarray:
        """The effect (change,) of each change, through the receivers alone."""
        found = np.zeros(len(changes))
        moving = [i for i, (sender, written) in enumerate(changes) if not torch.equal(written, self.base[sender])]
        seen: list[dict[Address, Tensor]] = [{} for _ in moving]
        first = [
            [*self._carrying(*changes[i]), *(self._seeing(r, one) for r in self.receivers)] for i, one in zip(moving, seen, strict=True)
        ]
        if moving:
            self.lm.sweep(self._base, edits=first, metric=self.example.score)
            second = [[self._receiving(receiver, one) for receiver in self.receivers] for one in seen]
            scores = self.lm.sweep(self._base, edits=second, metric=self.example.score)[:, 0]
            found[moving] = scores.double().numpy() - self.example.at_base
        return found

    def disturbed(self, sender: Address, generator: torch.Generator) -> np.ndarray:
        """Effects (draw,) of a sender's change when it is as large, in random directions."""
        base = self.base[sender]
        drawn = [base + same_length_noise(self.there[sender] - base, generator) for _ in range(_DRAWS)]
        return self.effects([(sender, one) for one in drawn])

    def _carrying(self, sender: Address, written: Tensor) -> Iterator[Intervention]:
        """A sender writes something else, and what is held does not notice."""
        for point in self._held:
            if (point.layer or 0) >= (sender.layer or 0):
                yield point, swap(self.base[point])
        yield sender, swap(written)

    def _seeing(self, receiver: Address, seen: dict[Address, Tensor]) -> Intervention:
        """Keep what a receiver reads."""

        def keep(value: Tensor) -> Tensor:
            seen[receiver] = value.clone()
            return value

        return self._last if receiver == LOGITS else receiver, keep

    def _receiving(self, receiver: Address, seen: dict[Address, Tensor]) -> Intervention:
        """Give a receiver what it read."""
        if receiver == LOGITS:
            return self._last, add(seen[receiver] - self.base[self._last])
        return receiver, swap(seen[receiver])


def _receivers(lm: LanguageModel, wanted: Sequence[str]) -> tuple[Address, ...]:
    """Raises InputError for what no part reads by itself, LayoutError for a model without heads."""
    if not lm.sizes.n_heads or not lm.family.attn:
        raise LayoutError(f"Paths between the parts of {lm.name}.", "blocks without attention heads", "a transformer")
    found = tuple(dict.fromkeys(map(Address.parse, wanted)))
    for address in found:
        known = address == LOGITS or (_RECEIVER.fullmatch(address.point) and lm.find(address.point) is not None and address.unit is None)
        if not known or (address.head is not None and ".attn." not in address.point):
            n = lm.sizes.n_layers - 1
            works = f"layers[{n}].attn.q[head=0] (or k, v), layers[{n}].mlp.input where there are MLPs, logits"
            raise InputError(f"Patch paths into {address}.", "nothing that a part reads by itself", works)
    if not found:
        raise InputError("Patch paths.", "no receivers", "one receiver or more, such as logits")
    return tuple(address if address == LOGITS or address.pos is not None else address.at(pos=DIFFERING) for address in found)


def _senders(lm: LanguageModel, receivers: Sequence[Address], pos: str | None) -> list[Address]:
    """The embeddings, and every head and MLP that some receiver comes after."""
    follows = "layers[0].mid" in lm.points()  # else the MLP stands beside the heads of its layer
    found = [Address(_EMBEDDINGS)]
    for part in components(lm):
        layer = part.layer or 0
        mlp_hears = follows and part.head is not None
        after = [lm.sizes.n_layers if receiver.layer is None else receiver.layer for receiver in receivers]
        reached = (r == layer and mlp_hears and ".mlp." in receiver.point for r, receiver in zip(after, receivers, strict=True))
        if layer < max(after) or any(reached):
            found.append(part)
    at = DIFFERING if pos is None else Address.parse(f"{_EMBEDDINGS}[pos={pos}]").pos
    return [part.at(pos=at) for part in found]


def _held(lm: LanguageModel, receivers: Sequence[Address], held: Sequence[str]) -> list[Address]:
    """What is held, as far as the last receiver."""
    for name in held:
        if name not in HELD:
            raise UnknownNameError("kind of part to hold", name, HELD)
    last = max(lm.sizes.n_layers - 1 if receiver.layer is None else receiver.layer for receiver in receivers)
    points = [Address(f"layers[{layer}].{HELD[name]}", pos=DIFFERING) for layer in range(last + 1) for name in HELD if name in held]
    return [address for address in points if lm.find(address.point) is not None]


def _scores(
    senders: list[Address], effects: np.ndarray, best: int, disturbed: np.ndarray, every: list[Example], started: Started, seed: int
) -> Scores:
    at_base = np.array([example.at_base for example in every])
    relative = effects / np.where(at_base == 0, np.nan, at_base)[:, None]
    mean, low, high = (np.stack(parts, 1) for parts in zip(*(bounds(values, seed=seed) for values in (effects, relative)), strict=True))
    names = [str(one.at(pos=None) if one.pos == DIFFERING else one).replace(_EMBEDDINGS, "embed") for one in senders]
    control = Control(
        name="random direction",
        says=f"What {names[best]} writes, changed as much in random directions (range of draws).",
        unit="change of the metric",
        found=bootstrap(effects[:, best], seed=seed),
        trivial=spread(disturbed.mean(0)),
    )
    return Scores(
        title="Path patching",
        question="Which earlier parts, taken from the counterfactual's run, change the answer through the receivers alone?",
        limits="It does not show senders that reach the receivers through other heads, nor those that act only together.",
        provenance=started.provenance(),
        controls=(control,),
        numbers={"base": float(at_base.mean()), "counterfactual": float(np.mean([example.at_counterfactual for example in every]))},
        rows=tuple(names),
        columns=("path effect", "relative effect"),
        units=("change of the metric", "part of the base's metric"),
        values=mean,
        low=low,
        high=high,
    )
