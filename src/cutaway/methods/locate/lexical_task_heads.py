"""Which heads say what the task is, in words, at the last token?

What a head writes there is read as words: taken by itself through the final norm and the unembedding. A head whose first few words name the task
("capital", "city"), whatever the answer is, is a lexical task head.

Mediator:
    component; what heads write into the last state.

Search:
    reading; nothing is changed.

Measure:
    part of the prompts whose words name the task.

Controls:
    random words; shuffled prompts.

Method:
    v = N(z W_O) W_U at the last token of the base, for every head by itself, N the final norm; the projection's bias is no head's and is left out. A
    head names the task in a prompt where one of the `top` largest entries of v is one of the words, in any spelling (with a space before it or not,
    capitals) that is one token. The score is the part of the prompts the model answers rightly in which it does; heads with `threshold` or more are
    task heads. Without words, the answers of the other pairs stand for what is asked for, a prompt's own answer and foil left out.
    Random words: as many tokens, `draws` times; the best head by them. Shuffled prompts, where some are answered rightly and some not: Spearman's
    rank correlation of a prompt's strength, the part of the task heads that name the task in it, with being right; the task heads are those of one
    half of the prompts, the correlation is taken over the other, and over shufflings of it.

Source:
    Shared lexical task heads: arXiv 2604.22027 (2026).

Returns:
    Scores, one row a head; columns: part of the prompts answered rightly in which it names the task, and of the others (NaN where there are none);
    intervals over prompts. `numbers`: how many task heads there are, and how many by random words. Heads of two phrasings of one task, such as an
    instruction and examples, are compared by running it on both.

Does not show:
    Whether anything reads what the heads say; `locate.path_patching` does. Heads that name the task in other words, or of several tokens.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("planted_circuit")
    >>> pair = cut.Pair(cut.Prompt("this is alice whose colour is"), cut.Prompt("this is boris whose colour is"), "red", "white")
    >>> scores = cut.locate.lexical_task_heads(lm, cut.Task("colours", (pair,)), words=("red", "green", "blue"), top=1)
    >>> [row for row, part in zip(scores.rows, scores.values[:, 0]) if part > 0.2]
    ['layers[2].attn.z[head=2]']
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cutaway.errors import PromptError
from cutaway.methods.base import Started
from cutaway.methods.locate._written import heads, points, written
from cutaway.metrics.bootstrap import LEVEL, RESAMPLES, bootstrap, bounds, spread
from cutaway.models.language import LanguageModel
from cutaway.progress import progress
from cutaway.results.base import Control, Interval
from cutaway.results.scores import Scores
from cutaway.tasks.base import Task, count_at_least, find_task

_BATCH = 16
"""Prompts run together; bounds the memory that the words of a layer's heads take."""
_SHUFFLED = 200


def lexical_task_heads(
    lm: LanguageModel,
    task: Task | str,
    *,
    words: tuple[str, ...] = (),
    top: int = 20,
    threshold: float = 0.2,
    draws: int = 40,
    seed: int = 0,
) -> Scores:
    """How often each head's own words name the task; see the module.

    words: what names it, such as capital,city; none for the answers of the task's other pairs. top: how many of a head's words count. threshold:
    part of the prompts from which on a head is a task head. draws: lists of random words. Raises InputError, PromptError where no word is one token
    or the model answers no prompt rightly.
    """
    count_at_least("top", top, 1)
    count_at_least("draws", draws, 1)
    task = find_task(task, lm)
    asked = {"words": words, "top": top, "threshold": threshold, "draws": draws}
    started = Started(lm, "locate.lexical_task_heads", task, seed, asked)
    parts, generator = heads(lm), torch.Generator().manual_seed(seed)
    right = _right(lm, task)
    naming = _naming(lm, words, len(task)) if words else _answers(lm, task)
    said = _said(lm, task, top)
    named = _any(naming, said)
    by_chance = np.stack([_any(_random(lm, naming, generator), said)[right].mean(0) for _ in range(draws)])
    best, found = int(named[right].mean(0).argmax()), named[right].mean(0) >= threshold
    controls = [
        Control(
            name="random words",
            says=f"The best head by as many random words, beside {parts[best]} (range of lists).",
            unit="part of the prompts",
            found=bootstrap(named[right][:, best], seed=seed),
            trivial=spread(by_chance.max(1)),
        )
    ]
    counted = {"prompts answered rightly": float(right.sum()), "tokens that name the task": float(naming.sum(1).float().mean())}
    columns = [_bounded(named[rows], seed) for rows in (right, ~right)]
    value, low, high = (np.stack(one, 1) for one in zip(*columns, strict=True))
    return Scores(
        title="Lexical task heads",
        question="Which heads write words that name the task, whatever its answer is?",
        limits="It does not show whether anything reads what they write.",
        provenance=started.provenance(),
        controls=(*controls, *_strength(named, right, threshold, generator)),
        numbers=counted | {"task heads": float(found.sum()), "by random words": float((by_chance >= threshold).sum(1).mean())},
        rows=tuple(str(part) for part in parts),
        columns=("answered rightly", "answered wrongly"),
        units=("part of the prompts",) * 2,
        values=value,
        low=low,
        high=high,
    )


def _right(lm: LanguageModel, task: Task) -> np.ndarray:
    """Whether the answer is the likeliest next token after each base. Raises PromptError where it never is."""
    said = lm.next_logits([pair.base for pair in task.pairs]).argmax(-1).tolist()
    right = np.array([token == lm.token_id(pair.answer) for token, pair in zip(said, task.pairs, strict=True)])
    if not right.any():
        raise PromptError(f"Read heads where {lm.name} is right.", f"none of {len(right)} prompts of {task}", "a task that the model does")
    return right


def _naming(lm: LanguageModel, words: Sequence[str], n: int) -> Tensor:
    """Which tokens name the task, the same for every prompt (prompt, vocab). Raises PromptError where no spelling of any word is a token."""
    spellings = {before + form for word in words for form in (word, word.lower(), word.upper(), word.capitalize()) for before in ("", " ")}
    ids = []
    for spelling in spellings:
        try:
            ids.append(lm.token_id(spelling))
        except PromptError:
            continue
    if not ids:
        raise PromptError(f"Words that name the task: {', '.join(words)}.", "none that is one token", "shorter or more common words")
    return _marked(lm, [ids] * n)


def _answers(lm: LanguageModel, task: Task) -> Tensor:
    """The answers and foils of the pairs, but a prompt's own (prompt, vocab). Raises PromptError where a prompt is left without."""
    own = [{lm.token_id(pair.answer), lm.token_id(pair.foil)} for pair in task.pairs]
    every = set[int]().union(*own)
    if any(every <= mine for mine in own):
        works = "words that name the task (words=...), or a task of more pairs with other answers"
        raise PromptError(f"Take the answers of other pairs of {task} as names of what is asked for.", "no others", works)
    return _marked(lm, [sorted(every - mine) for mine in own])


def _random(lm: LanguageModel, naming: Tensor, generator: torch.Generator) -> Tensor:
    """As many random ordinary tokens in the place of each prompt's (prompt, vocab), the same for prompts that had the same."""
    ordinary = lm.ordinary_tokens()
    drawn = ordinary[torch.randperm(len(ordinary), generator=generator)]
    return _marked(lm, [drawn[: int(n)].tolist() for n in naming.sum(1)])


def _marked(lm: LanguageModel, ids: Sequence[Sequence[int]]) -> Tensor:
    marked = torch.zeros(len(ids), lm.sizes.vocab, dtype=torch.bool)
    for row, chosen in zip(marked, ids, strict=True):
        row[torch.tensor(chosen)] = True
    return marked


def _said(lm: LanguageModel, task: Task, top: int) -> Tensor:
    """The first words of what each head writes at the last token of each base, (prompt, head, top)."""
    prompts = [pair.base for pair in task.pairs]
    found = []
    with progress("lexical task heads", len(prompts)) as done:
        for start in range(0, len(prompts), _BATCH):
            chosen = prompts[start : start + _BATCH]
            words = [
                lm.unembed(layer).topk(min(top, lm.sizes.vocab)).indices.cpu() for layer in written(lm, lm.run(chosen, read=points(lm)))
            ]
            found.append(torch.cat(words, 1))
            done(len(chosen))
    return torch.cat(found)


def _any(naming: Tensor, said: Tensor) -> np.ndarray:
    """1 where one of the words of (prompt, head, top) is among those of (prompt, vocab), else 0: (prompt, head)."""
    rows = torch.arange(len(said))[:, None, None]
    return naming[rows, said].any(-1).double().numpy()


def _bounded(named: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    nothing = np.full(named.shape[1], np.nan)
    return bounds(named, seed=seed) if len(named) else (nothing, nothing, nothing)


def _strength(named: np.ndarray, right: np.ndarray, threshold: float, generator: torch.Generator) -> tuple[Control, ...]:
    """Whether task heads are stronger where the model is right; nothing where that cannot be asked."""
    order = torch.randperm(len(right), generator=generator).numpy()
    first, second = np.array_split(order, 2)
    chosen = named[first][right[first]]
    task_heads = chosen.mean(0) >= threshold if len(chosen) else np.zeros(named.shape[1], bool)
    strength, correct = named[second][:, task_heads].sum(1), right[second]
    if len(np.unique(strength)) < 2 or len(np.unique(correct)) < 2:
        return ()
    a, b = _ranks(strength), _ranks(correct)
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    again = rng.integers(len(a), size=(RESAMPLES, len(a)))
    low, high = np.nanquantile(_correlation(a[again], b[again]), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = float(_correlation(a, b))
    return (
        Control(
            name="shuffled prompts",
            says=f"How strongly the {int(task_heads.sum())} task heads of one half name the task, and being right, on the other half; shuffled.",
            unit="rank correlation",
            found=Interval(value, min(float(low), value), max(float(high), value), len(a)),
            trivial=spread(_correlation(a, rng.permuted(np.tile(b, (_SHUFFLED, 1)), axis=1))),
        ),
    )


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, the mean of them for those that are equal."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (counts.cumsum() - (counts - 1) / 2)[which]
    return ranks


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's, along the last axis; NaN where one of them does not vary."""
    a, b = (one - one.mean(-1, keepdims=True) for one in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1)))
