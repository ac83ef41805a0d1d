"""From which tokens does a token take what the answer needs, and in which layers?

Attention from the query's token to the tokens of one role is cut in a window of layers, in all heads; everything else still flows. Where the answer
suffers, it came that way.

Mediator:
    attention; from one token to those of a role, all heads of a window of layers.

Search:
    exhaustive; every role and layer.

Measure:
    change of the metric, of the answer's probability by default.

Controls:
    random tokens.

Method:
    In the layers of the window the scores from the queries (`to`) to the role's tokens before them are -inf before the softmax, so that the other
    tokens share their attention; effect = m(base | cut) - m(base). Rows that are no role: `first token`, where no role has it, because much
    attention rests there; `other tokens` before the query; `itself`, the query's own token. A query is never cut off from all that it sees: where a
    row would do that to one, the prompt is left out of the row, and a row that no prompt has is left out.

Source:
    Geva, Bastings, Filippova, Globerson 2023, Dissecting Recall of Factual Associations, arXiv 2304.14767.

Returns:
    Grid, unit: change of the metric; rows: what is cut off; columns: the layer the window is centred on; intervals over pairs. Only the bases are
    run.

Does not show:
    What reaches the query by way of other tokens: a role that was read earlier by a token in between is read from there.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> cut.locate.attention_knockout(lm, "induction:n=4,length=6", window=1).rows
    ('first token', 'previous', 'target', 'other tokens', 'itself')
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import final

import numpy as np
import torch
from torch import Tensor

from cutaway.address import Address, Position
from cutaway.engine.place import Edit, Intervention
from cutaway.errors import InputError, LayoutError
from cutaway.methods.base import Example, Started, bounds_over_present, examples
from cutaway.methods.locate.causal_trace import around
from cutaway.metrics.bootstrap import bootstrap, spread
from cutaway.models.language import LanguageModel
from cutaway.models.tokens import Tokens
from cutaway.progress import progress
from cutaway.results.base import Control
from cutaway.results.grid import Grid
from cutaway.tasks.base import Task, find_task

FIRST, OTHER, ITSELF = "first token", "other tokens", "itself"

_DRAWS = 20


def attention_knockout(
    lm: LanguageModel, task: Task | str, *, to: str = "last", window: int = 5, metric: str = "probability", seed: int = 0
) -> Grid:
    """Effect of cutting a token off from those of each role, at every layer; see the module.

    to: the queries, a role (all its tokens, or `.first`, `.last`) or a number. window: layers cut together. metric: what is measured, a name from
    cutaway.metrics. seed: of the control and the intervals. Raises InputError, AddressError for a token that a prompt has not, LayoutError for a
    model without attention.
    """
    if window < 1:
        raise InputError(f"window={window}.", works="a window of 1 layer or more")
    if not lm.sizes.n_heads or lm.find("layers[0].attn.scores") is None:
        raise LayoutError(f"Cut attention in {lm.name}.", "no attention scores", "a transformer")
    task = find_task(task, lm)
    started = Started(lm, "locate.attention_knockout", task, seed, {"to": to, "window": window, "metric": metric})
    pos = Address.parse(f"layers[0].attn.scores[pos={to}]").pos
    every = examples(lm, task, metric)
    runs = [_Cut(lm, example, pos, window) for example in every]
    named = [FIRST, *_roles(every), OTHER, ITSELF]
    rows = tuple(name for name in named if any(name in run.cuts for run in runs))
    if not rows:
        raise InputError(f"Cut attention from {to!r}.", "queries that see one token or none before them", "a later token as `to`")
    effects = np.full((len(every), 1, len(rows), lm.sizes.n_layers), np.nan)
    with progress("attention knockout", len(every)) as done:
        for n, run in enumerate(runs):
            found = run.effects([(layer, cut) for cut in run.cuts.values() for layer in range(lm.sizes.n_layers)], done)
            effects[n, 0, [rows.index(name) for name in run.cuts]] = found.reshape(len(run.cuts), -1)
    values, low, high = bounds_over_present(effects, seed)
    return Grid(
        title="Attention knockout",
        question=f"From which tokens, and in which layers, does {to!r} take what the answer needs?",
        limits="It does not show what is taken by way of other tokens, which may have read the same before.",
        provenance=started.provenance(),
        controls=(_control(runs, effects[:, 0], rows, seed),),
        numbers={"base": float(np.mean([example.at_base for example in every])), "window, layers": window},
        row_axis="cut off from",
        column_axis="layer",
        rows=rows,
        columns=tuple(str(i) for i in range(lm.sizes.n_layers)),
        panels=("knockout",),
        values=values,
        low=low,
        high=high,
        unit=f"change of {metric}",
        diverging=True,
    )


@final
class _Cut:
    """One prompt. cuts: row -> (query, key), True where it is cut; rows that cut something, and leave every query something to see."""

    def __init__(self, lm: LanguageModel, example: Example, pos: Position | None, window: int) -> None:
        assert pos is not None
        self.lm, self.example, self._pos, self._window = lm, example, pos, window
        queries, keys = example.base.positions(pos)[0][:, None], torch.arange(example.n_tokens)
        self._seen = keys <= queries
        self.cuts = {name: cut for name, cut in _cuts(example.base, queries, keys) if cut.any() and not (cut == self._seen).all(1).any()}

    def effects(self, cuts: list[tuple[int, Tensor]], done: Callable[[float], None] | None = None) -> np.ndarray:
        """The effect (cut,) of each cut around a layer."""
        n = self.lm.sizes.n_layers
        edits: list[list[Intervention]] = [
            [(Address(point, pos=self._pos), _without(cut)) for point in around("attn.scores", layer, self._window, n)]
            for layer, cut in cuts
        ]
        if not edits:
            return np.zeros(0)
        scores = self.lm.sweep(self.example.base, edits=edits, metric=self.example.score, progress=done)[:, 0]
        found: np.ndarray = scores.double().numpy() - self.example.at_base
        return found

    def at_random(self, name: str, generator: torch.Generator) -> Tensor:
        """As many keys for each query as a row cuts, from those that it sees and the row leaves, as far as there are so many."""
        cut = self.cuts[name]
        left = self._seen & ~cut
        drawn = torch.rand(cut.shape, generator=generator).masked_fill(~left, -1)
        return left & (drawn.argsort(-1, descending=True).argsort(-1) < cut.sum(-1, keepdim=True))


def _cuts(tokens: Tokens, queries: Tensor, keys: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Each row's name, and which keys it cuts from which queries (query, key)."""
    before, named = keys < queries, torch.zeros(len(keys), dtype=torch.bool)
    for role, (first, stop) in tokens.spans[0].items():
        named[first:stop] = True
        yield role, before & (first <= keys) & (keys < stop)
    yield FIRST, before & ~named & (keys == 0)
    yield OTHER, before & ~named & (keys > 0)
    yield ITSELF, keys == queries


def _without(cut: Tensor) -> Edit:
    """Scores (..., query, head, key), of one query (..., head, key), without those that are cut."""
    return lambda scores: scores.masked_fill(cut[:, None].to(scores.device), float("-inf"))


def _roles(every: list[Example]) -> list[str]:
    """Roles of the prompts, in the order of the text."""
    first = {role: span[0] for example in every for role, span in example.base.spans[0].items()}
    return sorted(first, key=lambda role: first[role])


def _control(runs: list[_Cut], effects: np.ndarray, rows: tuple[str, ...], seed: int) -> Control:
    """At the strongest cell: as many tokens at random. effects: (example, row, layer)."""
    row, layer = (int(i) for i in np.unravel_index(np.abs(np.nanmean(effects, 0)).argmax(), effects.shape[1:]))
    generator = torch.Generator().manual_seed(seed)
    present = [n for n, run in enumerate(runs) if rows[row] in run.cuts]
    random = [runs[n].effects([(layer, runs[n].at_random(rows[row], generator)) for _ in range(_DRAWS)]) for n in present]
    return Control(
        name="random tokens",
        says=f"As many other tokens cut off as {rows[row]!r} has, or all there are, around layer {layer}, picked on these data (range of draws).",
        unit="change of the metric",
        found=bootstrap(effects[present, row, layer], seed=seed),
        trivial=spread(np.mean(random, 0)),
    )
