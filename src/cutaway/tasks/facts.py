"""Factual recall: a subject is named, and the next word is a fact about it ("The Eiffel Tower is in the city of" -> " Paris").

The facts lie in `facts.toml`: relations with templates and pairs of subject and answer. The counterfactual names another subject of
the same relation, of as many tokens, with another answer. Role: `subject`. The kind of prompt follows Meng et al. 2022, arXiv 2202.05262.

    >>> find_subject("Some say that the Eiffel Tower stands in")
    ('landmark_city', 'the Eiffel Tower')
    >>> swaps("landmark_city", "the Eiffel Tower")[:2]
    ('the Colosseum', 'the Trevi Fountain')
"""

from __future__ import annotations

import random
import re
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cutaway.errors import InputError, PromptError, UnknownNameError
from cutaway.models.language import LanguageModel
from cutaway.models.prompt import Prompt
from cutaway.tasks.base import Pair, Task, count_at_least

_ARTICLES = frozenset({"a", "an", "the"})
_CHUNK = 64
"""Facts put to the model before it is seen whether there are enough."""


@dataclass(frozen=True)
class _Relation:
    templates: tuple[str, ...]
    answers: Mapping[str, str]


@dataclass(frozen=True)
class _Fact:
    """A subject in its prompt. Facts of one `shape` put the subject's tokens at the same places, so each can stand in for another."""

    prompt: Prompt
    answer: str
    shape: tuple[str, int, tuple[int, int]]


def facts(lm: LanguageModel, *, relation: str = "landmark_city", n: int = 50, seed: int = 0, template: int = 0, known: bool = True) -> Task:
    """At most n facts of a relation (`relations()`, or "all"), each against another subject's; fewer where the model knows fewer.

    template: which of the relation's templates, from 0. known: both sides are facts that the model gets right (likeliest next token).
    An answer of several tokens is represented by its first. Facts whose answers begin with the same token are never put against each
    other; a fact that has no rival left is dropped, and so is one whose answer begins with a token that is no text by itself.
    Raises UnknownNameError for the relation, InputError for the template, PromptError if no pair is left.
    """
    count_at_least("n", n, 1)
    arguments = {"relation": relation, "n": n, "seed": seed, "template": template, "known": known}
    order = random.Random(seed)
    asked = _asked(lm, relation, template)
    order.shuffle(asked)
    usable, pairs = list[_Fact](), list[Pair]()
    for start in range(0, len(asked), _CHUNK):
        chunk = asked[start : start + _CHUNK]
        usable += _answered(lm, chunk) if known else chunk
        pairs = _paired(usable, random.Random(seed))
        if len(pairs) >= n:
            break
    if not pairs:
        kept = f"{len(asked)} facts, {len(usable)} of them known to the model" if known else f"{len(asked)} facts"
        found = f"{kept}, no two of one length with different answers"
        raise PromptError(f"Pair facts of {relation!r} in template {template}.", found, "another relation or template, or known=False")
    return Task("facts", tuple(pairs[:n]), arguments)


def relations() -> tuple[str, ...]:
    """Names of the relations, in the order of the file."""
    return tuple(_facts())


def find_subject(text: str) -> tuple[str, str] | None:
    """The known subject that a text speaks of, as (relation, the subject as it stands in the text); None if there is none.

    The longest match counts; of several relations with that subject, the one whose template shares most words with the text.
    """
    words = set(_words(text))
    best, score = None, (0, 0)
    for name, relation in _facts().items():
        shared = max(len(words.intersection(_words(template))) for template in relation.templates)
        for form in (form for subject in relation.answers for form in _forms(subject)):
            if (len(form), shared) > score and form in text and re.search(rf"(?<!\w){re.escape(form)}(?!\w)", text):
                best, score = (name, form), (len(form), shared)
    return best


def swaps(relation: str, subject: str) -> tuple[str, ...]:
    """Subjects of the relation that have another answer, written as `subject` is: with or without article, within or opening a sentence.

    Raises UnknownNameError for a relation or subject that is not in the file.
    """
    answers = _relation(relation).answers
    found = [(own, forms.index(subject)) for own in answers if subject in (forms := _forms(own))]
    if not found:
        raise UnknownNameError("subject", subject, answers)
    own, form = found[0]
    return tuple(_forms(other)[form] for other, answer in answers.items() if answer != answers[own])


@cache
def _facts() -> Mapping[str, _Relation]:
    document = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
    return {name: _Relation(tuple(table["templates"]), dict(table["pairs"])) for name, table in document.items()}


def _relation(name: str) -> _Relation:
    if name not in _facts():
        raise UnknownNameError("relation", name, relations())
    return _facts()[name]


@cache
def _forms(subject: str) -> tuple[str, str, str]:
    """A subject as the file has it, as it stands elsewhere in a sentence, and without its article: always three, some may be equal."""
    article, _, bare = subject.partition(" ")
    has_article = article.lower() in _ARTICLES and bare != ""
    elsewhere = subject[0].swapcase() + subject[1:] if has_article or subject[0].islower() else subject
    return subject, elsewhere, bare if has_article else subject


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))


def _asked(lm: LanguageModel, relation: str, template: int) -> list[_Fact]:
    """Every fact of the relation in its template, save those whose answer begins with a token that cannot be written alone."""
    named = [(name, _relation(name)) for name in (relations() if relation == "all" else (relation,))]
    fewest = min(len(r.templates) for _, r in named)
    if not 0 <= template < fewest:
        raise InputError(f"template={template} of {relation!r}.", f"{fewest} templates", f"template=0 to template={fewest - 1}")
    rows = [(name, Prompt.fill(r.templates[template], subject=s), answer) for name, r in named for s, answer in r.answers.items()]
    tokens = lm.tokens([prompt for _, prompt, _ in rows])
    asked = [
        _Fact(prompt, lm.first_token(f" {answer}"), (name, length, spans["subject"]))
        for (name, prompt, answer), length, spans in zip(rows, tokens.lengths, tokens.spans, strict=True)
    ]
    return [fact for fact in asked if _is_one_token(lm, fact.answer)]


def _is_one_token(lm: LanguageModel, text: str) -> bool:
    """False for a part of a letter, which byte-level tokenizers may split a word into."""
    try:
        lm.token_id(text)
    except PromptError:
        return False
    return True


def _answered(lm: LanguageModel, asked: Sequence[_Fact]) -> list[_Fact]:
    """Those whose answer is the model's likeliest next token."""
    top = lm.next_logits([fact.prompt for fact in asked]).argmax(-1).tolist()
    return [fact for fact, token in zip(asked, top, strict=True) if token == lm.token_id(fact.answer)]


def _paired(usable: Sequence[_Fact], rng: random.Random) -> list[Pair]:
    """Each fact against one of the same shape and another answer, drawn at random; a fact without one is left out."""
    groups = defaultdict[tuple[str, int, tuple[int, int]], list[_Fact]](list)
    for fact in usable:
        groups[fact.shape].append(fact)
    pairs = []
    for fact in usable:
        rivals = [other for other in groups[fact.shape] if other.answer != fact.answer]
        if rivals:
            other = rng.choice(rivals)
            pairs.append(Pair(fact.prompt, other.prompt, fact.answer, other.answer))
    return pairs
