"""Which heads copy the next token of what has been said before, and which copy the word that comes next as a whole?

Two routes lead from a list to its repeat. Token copying finds where the present token stood and says the one that followed. Concept copying reads the
next word at its end, where its meaning is, before a single token of it is said again.

Mediator:
    component; heads, their output at one token.

Search:
    exhaustive; one run each.

Measure:
    change of the metric; by default of the probability of the next token.

Controls:
    token copying: another list; token copying: random heads; concept copying: another list; concept copying: random heads.

Method:
    Clean run: a random list A, then a word w = w1 w2 ..., a line break (where that is a token), and A again. Corrupt run: another random list of that
    length in the place of the first A w. A head's z at the last token of the second A, which w1 is to follow, goes from the clean run to the corrupt
    one.
        token copying: w is one random token; change of P(w1) at that token.
        concept copying: w is a word of several tokens; the text goes on to w1, and what counts is the change of P(w2) there, one token later than
        where z was changed. Token copying cannot bring it about: w2 has no place in what follows the present token.
    Beside them, what the same heads attend to from that token in the clean run: w1, the token after the first occurrence of the present one (prefix
    matching), and the last token of w. Lists are of ordinary words of one token. Controls: the head that is best on one half of the samples, judged
    on the other, beside its z from the clean run of another list, and beside all other heads.

Source:
    Dual-route induction: Feucht et al. 2025, arXiv 2504.03022; prefix matching: Olsson et al. 2022, arXiv 2209.11895.

Returns:
    Scores, one row a head; columns: token copying and prefix matching, then concept copying and attention to the word's end, where there are words of
    several tokens. Units: change of the metric, and part of the attention; intervals over samples. `numbers`: the metric in the clean and the
    corrupt run.

Does not show:
    Heads that work only together. A head that serves both routes, or an early one that later heads read, may score on neither.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> scores = cut.locate.induction_heads(lm, "induction:n=4,length=8", samples=8)
    >>> scores.columns, scores.ranked()[0].startswith("layers[1]")
    (('token copying', 'prefix matching'), True)
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import numpy as np
import torch

from cutaway import registry
from cutaway.address import Address
from cutaway.errors import PromptError
from cutaway.mediators.swap import swap
from cutaway.methods.base import Started
from cutaway.methods.locate._written import heads
from cutaway.metrics.base import Metric, Target
from cutaway.metrics.bootstrap import bootstrap, bounds, spread
from cutaway.models.language import LanguageModel
from cutaway.models.prompt import Prompt
from cutaway.models.tokens import Tokens, encode
from cutaway.progress import progress
from cutaway.results.base import Control
from cutaway.results.scores import Scores
from cutaway.tasks.base import Task, count_at_least, find_task

_BATCH = 32
_ROUTES = (("token copying", "prefix matching"), ("concept copying", "attention to the word's end"))

Ids = tuple[int, ...]


def induction_heads(
    lm: LanguageModel,
    task: Task | str,
    *,
    words: tuple[str, ...] = (),
    length: int = 20,
    samples: int = 32,
    metric: str = "probability",
    seed: int = 0,
) -> Scores:
    """How much each head does for copying, by tokens and by words; see the module.

    words: those of several tokens for concept copying; none for those that stand in the task's role ("subject" in `facts`), and where there are none
    either, only tokens are copied. length: tokens of the list, with the word. samples: prompts for each route. metric: what is measured, a name from
    cutaway.metrics; the foil is the last token of the list that comes first in the corrupt run. Raises InputError, PromptError for a word of one
    token, a vocabulary that is too small, or a context that is too short.
    """
    count_at_least("length", length, 2)
    count_at_least("samples", samples, 2)
    task = find_task(task, lm)
    started = Started(lm, "locate.induction_heads", task, seed, {"words": words, "length": length, "samples": samples, "metric": metric})
    parts, rng = heads(lm), random.Random(seed)
    pieces = [_given(lm, word, length) for word in words] or _in_the_role(lm, task, length)
    lists = _Lists(lm, length, rng)
    chosen: Metric = registry.load("metrics", metric)
    routes = [_Route(lm, parts, [lists.sample(()) for _ in range(samples)], chosen)]
    if pieces:
        routes.append(_Route(lm, parts, [lists.sample(word) for word in _each_in_turn(pieces, samples, rng)], chosen))
    columns = [bounds(one, seed=seed) for route in routes for one in (route.effects, route.attention)]
    values, low, high = (np.stack(one, 1) for one in zip(*columns, strict=True))
    named = [(route, *names) for route, names in zip(routes, _ROUTES, strict=False)]
    numbers = {"words of several tokens": float(len(pieces))} if pieces else {}
    for route, name, _ in named:
        for run, level in zip(("clean", "corrupt"), route.untouched.mean(1), strict=True):
            numbers[f"{name}: {metric.replace('_', ' ')}, {run}"] = float(level)
    return Scores(
        title="Induction heads",
        question="Which heads copy what stood next, token by token, and which the next word as a whole?",
        limits="It does not show heads that work only together, nor early ones that others read.",
        provenance=started.provenance(),
        controls=tuple(control for route, name, _ in named for control in _controls(route, name, parts, seed)),
        numbers=numbers,
        rows=tuple(str(part) for part in parts),
        columns=tuple(name for _, *names in named for name in names),
        units=("change of the metric", "part of the attention") * len(routes),
        values=values,
        low=low,
        high=high,
    )


@final
@dataclass(frozen=True)
class _Sample:
    """Token ids of three runs, the last of another list; `answer`: the token whose probability counts.

    Places, counted from the end: `before`, the last token of the repeated list; `seen`, the end of what is to be copied.
    """

    clean: Ids
    corrupt: Ids
    other: Ids
    answer: int
    before: int
    seen: int


@final
class _Lists:
    """Random lists, once and again."""

    def __init__(self, lm: LanguageModel, length: int, rng: random.Random) -> None:
        self._length, self._rng = length, rng
        self._vocabulary = lm.ordinary_tokens().tolist()
        try:
            self._break: Ids = (lm.token_id("\n"),)
        except PromptError:
            self._break = ()
        if len(self._vocabulary) < 2 * length:
            found = f"{len(self._vocabulary)} ordinary tokens"
            raise PromptError(f"Two lists of {length} different tokens.", found, f"length={len(self._vocabulary) // 2} or less")

    def sample(self, word: Ids) -> _Sample:
        """With a word of several tokens; or with none, and then a random token is to be copied."""
        first = word or (self._drawn(1, ()))
        said = word[:1]
        again = self._drawn(self._length - len(first), first)
        elsewhere = self._drawn(self._length, (*first, *again))
        tail = (*self._break, *again, *said)
        clean, corrupt = ((*a, *tail) for a in ((*again, *first), elsewhere))
        new = self._drawn(self._length, first)
        repeated, end = new[: self._length - len(first)], new[self._length - len(first) :]
        other = (*new, *self._break, *repeated, *end[: len(said)])
        return _Sample(clean, corrupt, other, word[1] if word else first[0], -1 - len(said), self._length - 1 - len(clean))

    def _drawn(self, n: int, without: Ids) -> Ids:
        return tuple(self._rng.sample([token for token in self._vocabulary if token not in without], n))


@final
class _Route:
    """What every head does on some samples."""

    def __init__(self, lm: LanguageModel, parts: Sequence[Address], samples: Sequence[_Sample], metric: Metric) -> None:
        self._lm, self._samples, self._metric = lm, samples, metric
        shape = len(samples), len(parts)
        self.effects, self.attention, self.untouched = np.zeros(shape), np.zeros(shape), np.zeros((2, len(samples)))
        """Of heads (sample, head): change of the metric, part of the attention. The metric in the clean and the corrupt run (2, sample)."""
        with progress("induction heads", len(samples)) as done:
            for rows in self._together(range(len(samples))):
                tokens, first = self._tokens(rows, "clean"), samples[rows[0]]
                patterns = [f"layers[{layer}].attn.pattern[pos={first.before}]" for layer in range(lm.sizes.n_layers)]
                seen = lm.run(tokens, read=patterns)
                self.attention[rows] = torch.cat([seen[pattern][..., first.seen] for pattern in patterns], 1).double().cpu().numpy()
                self.untouched[0, rows] = metric(lm.next_logits(tokens), self._target(rows)).double().cpu().numpy()
                self.untouched[1, rows], self.effects[rows] = self._patched(rows, tokens, parts)
                done(len(rows))

    def elsewhere(self, part: Address, rows: Sequence[int]) -> np.ndarray:
        """As `effects`, with the head's z from the clean run of another list, (row,) in any order."""
        return np.concatenate([self._patched(some, self._tokens(some, "other"), [part])[1][:, 0] for some in self._together(rows)])

    def _together(self, rows: Sequence[int]) -> list[list[int]]:
        """Samples of one length in batches."""
        by_length: dict[int, list[int]] = {}
        for n in rows:
            by_length.setdefault(len(self._samples[n].clean), []).append(n)
        return [some[i : i + _BATCH] for some in by_length.values() for i in range(0, len(some), _BATCH)]

    def _patched(self, rows: Sequence[int], source: Tokens, parts: Sequence[Address]) -> tuple[np.ndarray, np.ndarray]:
        """The metric in the corrupt run (row,), and its change with each head's z of the source (row, head)."""
        places = [part.at(pos=self._samples[rows[0]].before) for part in parts]
        there = self._lm.run(source, read=places)
        corrupt = self._tokens(rows, "corrupt")
        edits = [[], *([(place, swap(there[place]))] for place in places)]
        found = self._lm.sweep(corrupt, edits=edits, metric=partial(self._metric, target=self._target(rows))).double().cpu().numpy()
        return found[0], (found[1:] - found[0]).T

    def _target(self, rows: Sequence[int]) -> Target:
        """The answers, and as foils what ends the other list in the corrupt run."""
        chosen, corrupt = [self._samples[n] for n in rows], self._tokens(rows, "corrupt")
        answer = torch.tensor([sample.answer for sample in chosen])
        return Target(answer, corrupt.ids[:, chosen[0].seen], self._lm.next_logits(corrupt).log_softmax(-1))

    def _tokens(self, rows: Sequence[int], run: str) -> Tokens:
        return self._lm.tokens([Prompt("", ids=getattr(self._samples[n], run)) for n in rows])


def _controls(route: _Route, name: str, parts: Sequence[Address], seed: int) -> tuple[Control, Control]:
    """Of the head that is best on the first half of the samples, on the second."""
    half = len(route.effects) // 2
    best, judged = int(route.effects[:half].mean(0).argmax()), route.effects[half:]
    found, unit = bootstrap(judged[:, best], seed=seed), "change of the metric"
    other = bootstrap(route.elsewhere(parts[best], range(half, len(route.effects))), seed=seed)
    rest = spread(np.delete(judged.mean(0), best))
    return (
        Control(f"{name}: another list", f"The same output of {parts[best]} in the clean run of another list.", unit, found, other),
        Control(f"{name}: random heads", f"Any other head than {parts[best]} (range of heads).", unit, found, rest),
    )


def _given(lm: LanguageModel, word: str, length: int) -> Ids:
    """The tokens of a word, as it stands after another. Raises PromptError unless they are two or more, and leave room for a list."""
    ids = _spelled(lm, word)
    if not 2 <= len(ids) < length:
        raise PromptError(f"Copy {word!r} as a whole.", f"{len(ids)} tokens", f"a word of 2 to {length - 1} tokens")
    return ids


def _in_the_role(lm: LanguageModel, task: Task, length: int) -> list[Ids]:
    """The words of several tokens, each once, that the task's role has in its prompts; none for prompts that are given as tokens."""
    prompts = [side for pair in task.pairs for side in (pair.base, pair.counterfactual) if side.ids is None and task.role in side.spans]
    said = (word.strip(string.punctuation) for prompt in prompts for word in prompt.text[slice(*prompt.spans[task.role])].split())
    return [ids for ids in (_spelled(lm, word) for word in dict.fromkeys(filter(None, said))) if 2 <= len(ids) < length]


def _spelled(lm: LanguageModel, word: str) -> Ids:
    return tuple(encode(lm.tokenizer, f" {word.strip()}", add_special_tokens=False)["input_ids"])


def _each_in_turn(pieces: Sequence[Ids], n: int, rng: random.Random) -> list[Ids]:
    """n of them, in random order, each once before one comes again."""
    return [word for _ in range(-(-n // len(pieces))) for word in rng.sample(pieces, len(pieces))][:n]
