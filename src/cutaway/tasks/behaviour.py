"""A causal model put into words: prompts with roles, pairs to patch between, and what to answer when one variable is interchanged.

A task file writes down a `Behaviour` and hands it to `causal_task`; everything else follows from it.

Tokenizers that read nothing but words between spaces, as those of the zoo's models do, are given the same texts with their punctuation
set apart: "In box F." is "In box F ." to them.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, final

import torch

from cutaway.errors import InputError, PromptError, UnknownNameError
from cutaway.models.language import LanguageModel
from cutaway.models.prompt import Prompt
from cutaway.tasks.base import Pair, Task, count_at_least, faults, take
from cutaway.tasks.causal_model import CausalModel, Condition, Settings

_CHUNK = 32
_TRIES = 6
"""Examples made for each one wanted, before it is accepted that the model knows fewer."""

_MISSES = 200
"""Examples in a row without a partner, before it is accepted that there are none."""


@final
@dataclass(frozen=True)
class Interchange:
    """Two prompts, and what the base is answered with when `variable` has the value there that it has in the source.

    own: the base's and the source's own answers.
    """

    base: Prompt
    source: Prompt
    variable: str
    answer: str
    own: tuple[str, str]

    @property
    def changes(self) -> bool:
        """Whether the base is to be answered otherwise than by itself."""
        return self.answer != self.own[0]


@final
@dataclass(frozen=True)
class Behaviour:
    """model: the variables. wording: from the value of every variable to a template and what fills its roles (`Prompt.fill`).

    changed: the inputs in which a counterfactual differs from its base. shared: those that a source has from its base, so that the two have
    the same form. valid: what must hold of the settings of every example, also after an interchange. written: how a value of the model's
    output is written, with the space before it where there is one.
    """

    model: CausalModel
    wording: Callable[[Settings], tuple[str, Mapping[str, str]]]
    changed: tuple[str, ...]
    shared: tuple[str, ...] = ()
    valid: Condition | None = None
    written: Callable[[Any], str] = " {}".format

    def prompt(self, inputs: Settings, *, apart: bool = False) -> Prompt:
        """The inputs in words. apart: with a space on either side of punctuation."""
        template, roles = self.wording(self.model.run(inputs))
        return Prompt.fill(_apart(template) if apart else template, **roles)

    def answer(self, inputs: Settings) -> str:
        """What the prompt should be continued with."""
        return self.written(self.model.run(inputs)[self.model.output])

    def texts(self, n: int, seed: int = 0) -> tuple[tuple[str, str], ...]:
        """n prompts and answers whose words stand apart: what a model of whole words is trained on."""
        rng = random.Random(seed)
        drawn = (self.model.sample(rng, self.valid) for _ in range(n))
        return tuple((self.prompt(inputs, apart=True).text, self.answer(inputs).strip()) for inputs in drawn)

    def pairs(self, seed: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Inputs of bases and their counterfactuals, without end: they differ in every one of `changed`, in no other, and in the answer.

        Raises InputError where there are none.
        """
        rng, missed = random.Random(seed), 0
        while True:
            base = self.model.sample(rng, self.valid)
            try:
                other = self.model.counterfactual(base, self.changed, rng, self.valid)
            except InputError:  # this base has none
                missed = _one_more(missed)
                continue
            missed = 0
            yield base, other

    def interchanges(self, variable: str, seed: int, *, anew: Sequence[str] | None = None) -> Iterator[tuple[Settings, Settings, Settings]]:
        """Inputs of bases and sources, and the settings after the interchange, without end.

        anew: the inputs that are drawn again for a source; None: all but the shared ones. Raises UnknownNameError, InputError where there are none.
        """
        if variable not in self.model.variables:
            raise UnknownNameError("variable", variable, self.model.variables)
        rng, missed = random.Random(seed), 0
        names = [name for name in self.model.inputs if name not in self.shared] if anew is None else anew
        while True:
            base = self.model.sample(rng, self.valid)
            source = self.model.redraw(base, names, rng, self.valid)
            after = self.model.interchange(base, {variable: source})
            if self.valid is None or self.valid(after):
                missed = 0
                yield base, source, after
            else:
                missed = _one_more(missed)


def causal_task(name: str, behaviour: Behaviour, lm: LanguageModel, *, role: str, arguments: Mapping[str, Any]) -> Task:
    """At most `n` aligned pairs of a behaviour, as `arguments` say: n, seed, and known (only those that the model gets right on both sides).

    An answer of several tokens is represented by its first. Raises InputError, PromptError if no pair is left.
    """
    n = count_at_least("n", arguments["n"], 1)
    say = _Speaker(behaviour, lm)
    inputs = islice(behaviour.pairs(arguments["seed"]), _TRIES * n)
    made = (Pair(say.prompt(base), say.prompt(other), say.answer(base), say.answer(other)) for base, other in inputs)
    return Task(name, take(made, lm, n=n, known=arguments["known"]), arguments, role=role, behaviour=behaviour)


def interchanges(
    task: Task, lm: LanguageModel, variable: str, *, n: int = 50, seed: int = 0, known: bool = True, anew: Sequence[str] | None = None
) -> tuple[Interchange, ...]:
    """At most n aligned examples of what follows when a variable of the task's causal model is interchanged.

    known: only those where the model answers base and source right by themselves. anew: the inputs in which base and source may differ; None:
    all that leave the form of the prompt as it is. With an input alone drawn anew, a variable that does not depend on it stands for the claim
    that it does not matter: the answer remains the base's.
    Raises InputError for a task without a causal model, UnknownNameError for the variable, PromptError if no example is left.
    """
    count_at_least("n", n, 1)
    behaviour = task.behaviour
    if behaviour is None:
        raise InputError(f"Interchange {variable!r} in the task {task.name}.", "no causal model", "a task that has one, such as mcqa")
    say, kept = _Speaker(behaviour, lm), list[Interchange]()
    left = islice(behaviour.interchanges(variable, seed, anew=anew), _TRIES * n)
    while len(kept) < n and (chunk := list(islice(left, _CHUNK))):
        sides = [Pair(say.prompt(base), say.prompt(source), say.answer(base), say.answer(source)) for base, source, _ in chunk]
        for pair, (_, _, after), fault in zip(sides, chunk, faults(sides, lm, known=known), strict=True):
            if not fault:
                own = pair.answer, pair.foil
                kept.append(Interchange(pair.base, pair.counterfactual, variable, say.written(after[behaviour.model.output]), own))
    if not kept:
        found = f"{_TRIES * n} examples, none aligned" + " and known to the model" * known
        raise PromptError(f"Interchange {variable!r} in the task {task.name}.", found, "known=False, or a larger model")
    return tuple(kept[:n])


def one_token(words: Sequence[str], lm: LanguageModel, *, least: int = 2, before: str = " ") -> tuple[str, ...]:
    """The words that are one token where `before` stands before them. Raises PromptError for fewer than `least`."""
    kept = []
    for word in words:
        try:
            lm.token_id(f"{before}{word}")
        except PromptError:
            continue
        kept.append(word)
    if len(kept) < least:
        found = f"{len(kept)} of {len(words)}: {', '.join(kept)}" if kept else f"none of {len(words)}"
        raise PromptError(f"{least} words of one token, such as {', '.join(words[:3])}.", found, "a tokenizer with whole words")
    return tuple(kept)


def vocabulary(*texts: str) -> tuple[str, ...]:
    """The words of some templates and words, each once, set apart as a tokenizer of whole words reads them."""
    literals = (literal for text in texts for literal, *_ in string.Formatter().parse(_apart(text)))
    return tuple(dict.fromkeys(word for literal in literals for word in literal.split()))


class _Speaker:
    """Puts inputs into words for one model's tokenizer."""

    def __init__(self, behaviour: Behaviour, lm: LanguageModel) -> None:
        self._behaviour, self._lm = behaviour, lm
        word = behaviour.answer(behaviour.model.sample(random.Random(0), behaviour.valid)).strip()
        self._apart = torch.equal(lm.tokens(word).ids, lm.tokens(f" {word}").ids)

    def prompt(self, inputs: Settings) -> Prompt:
        return self._behaviour.prompt(inputs, apart=self._apart)

    def answer(self, inputs: Settings) -> str:
        return self._lm.first_token(self._behaviour.answer(inputs))

    def written(self, value: Any) -> str:
        return self._lm.first_token(self._behaviour.written(value))


def _one_more(missed: int) -> int:
    if missed == _MISSES:
        raise InputError("Draw two examples that go together.", f"{missed} draws in a row without any", "other inputs to draw anew")
    return missed + 1


def _apart(template: str) -> str:
    return re.sub(r"\s*([.,:;?=+])\s*", r" \1 ", template).strip()
