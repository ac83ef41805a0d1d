"""A behaviour as data: pairs of prompts that differ in one thing, and what each should be answered with.

A task file holds one function of the file's name, `facts(lm, *, n, seed, ...) -> Task`. Its pairs are aligned for that model's tokenizer:
base and counterfactual have the same number of tokens and every role stands at the same token positions, so that an activation of
one can be put in the place of the other's.

A task is asked for by its name, with arguments where they differ from the defaults: `facts`, `facts:relation=capital,n=20`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, final

from cutaway import registry
from cutaway.errors import InputError, PromptError
from cutaway.models.language import LanguageModel
from cutaway.models.prompt import Prompt

if TYPE_CHECKING:
    from cutaway.tasks.behaviour import Behaviour

_CHUNK = 32
"""Pairs put to the model at a time; bounds the memory that their logits take."""


@final
@dataclass(frozen=True)
class Pair:
    """`answer`: the base's next token, `foil`: the counterfactual's; both as text, with a leading space where the tokenizer wants one."""

    base: Prompt
    counterfactual: Prompt
    answer: str
    foil: str


@final
@dataclass(frozen=True)
class Task:
    """name and arguments say how it was made; metric is the one it is usually scored by (`cutaway.metrics`).

    role: the part of the prompt that tells the two sides apart, which methods corrupt or count positions from unless told otherwise.
    behaviour: the causal model that the pairs were made by, where there is one; `tasks.behaviour.interchanges` asks it for more.
    """

    name: str
    pairs: tuple[Pair, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    metric: str = "logit_difference"
    role: str = "subject"
    behaviour: Behaviour | None = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.pairs)

    def with_pairs(self, pairs: Iterable[Pair]) -> Task:
        """The same task with other pairs."""
        return dataclasses.replace(self, pairs=tuple(pairs))

    def __str__(self) -> str:
        chosen = ",".join(f"{k}={v}" for k, v in self.arguments.items())
        return f"{self.name}:{chosen}" if chosen else self.name


def find_task(spec: str | Task, lm: LanguageModel) -> Task:
    """Make the task that a text names; a Task is handed back as it is. `str(task)` of a task made here reads back to the same task.

    Raises UnknownNameError for an unknown task, InputError for an argument that the task does not have or cannot read.
    """
    if isinstance(spec, Task):
        return spec
    make, arguments = registry.called("tasks", spec)
    made = make(lm, **arguments)
    assert isinstance(made, Task)
    return made


def aligned(pairs: Iterable[Pair], lm: LanguageModel) -> tuple[Pair, ...]:
    """The pairs whose sides have the same number of tokens, every role they share at the same tokens, and answers that differ.

    Raises PromptError if none of them is left, with how many were dropped for which reason.
    """
    return take(pairs, lm, known=False)


def known(pairs: Iterable[Pair], lm: LanguageModel) -> tuple[Pair, ...]:
    """The aligned pairs that the model gets right: its likeliest next token is `answer` after the base, `foil` after the counterfactual.

    Raises PromptError if none of them is left, with how many were dropped for which reason.
    """
    return take(pairs, lm, known=True)


def take(pairs: Iterable[Pair], lm: LanguageModel, *, n: int | None = None, known: bool = True) -> tuple[Pair, ...]:
    """The first n aligned (and known) pairs, in order; all of them where n is None. No more of `pairs` is drawn than is needed.

    Fewer come back where `pairs` runs out. Raises PromptError where none is left.
    """
    left, kept, dropped = iter(pairs), list[Pair](), Counter[str]()
    while (n is None or len(kept) < n) and (chunk := list(islice(left, _CHUNK))):
        differing = [pair for pair in chunk if pair.answer != pair.foil]
        dropped["answer and foil begin with the same token"] += len(chunk) - len(differing)
        found_out = faults(differing, lm, known=known)
        dropped.update(filter(None, found_out))
        kept += [pair for pair, fault in zip(differing, found_out, strict=True) if not fault]
    if not kept:
        counted = [f"{count} dropped because {why}" for why, count in dropped.most_common() if count]
        found = "; ".join(counted) or "no pairs to begin with"
        raise PromptError("Pairs of prompts that can be compared.", found, "another template or relation, known=False, or a larger model")
    return tuple(kept[:n])


def faults(pairs: Sequence[Pair], lm: LanguageModel, *, known: bool) -> list[str]:
    """Why each pair cannot be used, empty where it can: its sides are not aligned, or (known) the model does not answer both as it says."""
    found = list(_misaligned(pairs, lm)) if pairs else []
    fine = [i for i, fault in enumerate(found) if not fault]
    if known and fine:
        for i, fault in zip(fine, _unknown([pairs[i] for i in fine], lm), strict=True):
            found[i] = fault
    return found


def count_at_least(name: str, value: int, least: int) -> int:
    """`value`, if it is large enough. Raises InputError."""
    if value < least:
        raise InputError(f"{name}={value}.", works=f"{name}={least} or more")
    return value


def _misaligned(pairs: Sequence[Pair], lm: LanguageModel) -> Iterator[str]:
    """Why each pair is not aligned; empty where it is."""
    base, other = lm.tokens([pair.base for pair in pairs]), lm.tokens([pair.counterfactual for pair in pairs])
    for i in range(len(pairs)):
        if base.lengths[i] != other.lengths[i]:
            yield "base and counterfactual have different numbers of tokens"
        else:
            here, there = _from_end(base.spans[i], base.ids.shape[1]), _from_end(other.spans[i], other.ids.shape[1])
            moved = [role for role in here.keys() & there.keys() if here[role] != there[role]]
            yield f"the role {min(moved)} stands at other tokens in the counterfactual" if moved else ""


def _from_end(spans: Mapping[str, tuple[int, int]], width: int) -> dict[str, tuple[int, int]]:
    """Token spans counted from the row's end, where left padding does not move them."""
    return {role: (start - width, end - width) for role, (start, end) in spans.items()}


def _unknown(pairs: Sequence[Pair], lm: LanguageModel) -> Iterator[str]:
    """Which side of each pair the model does not answer as the pair says; empty where it answers both."""
    top = lm.next_logits([*(pair.base for pair in pairs), *(pair.counterfactual for pair in pairs)]).argmax(-1).tolist()
    for pair, base, other in zip(pairs, top[: len(pairs)], top[len(pairs) :], strict=True):
        if base != lm.token_id(pair.answer):
            yield "the base's likeliest next token is not the answer"
        else:
            yield "" if other == lm.token_id(pair.foil) else "the counterfactual's likeliest next token is not the foil"
