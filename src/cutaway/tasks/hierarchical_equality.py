"""Hierarchical equality: are two pairs alike in being alike? ("dog dog, cup sun:" -> " no"; "dog hat, cup sun:" -> " yes")

Causal model: `left`, whether the first two words are the same; `right`, whether the last two are; the answer says whether left equals
right. The counterfactual has another first pair. Roles: `w`, `x`, `y`, `z`.
Geiger et al. 2023, arXiv 2303.02536.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task
from cutaway.tasks.behaviour import Behaviour, causal_task, one_token, vocabulary
from cutaway.tasks.causal_model import CausalModel, Settings, caused, drawn

_WORDS = ("dog", "cup", "sun", "hat", "tree", "fish", "car", "book", "bird", "door", "rain", "song", "gold", "moon", "milk", "king")
_QUESTION = "{w} {x}, {y} {z}:"
_EXAMPLES = "red red, six six: yes\nred six, red red: no\nsix red, red six: yes\nsix six, red six: no\n"
WORDS = vocabulary(_QUESTION, _EXAMPLES, *_WORDS)
"""All that stands in a prompt, and the answers, where punctuation stands apart."""


def behaviour(words: Sequence[str] = _WORDS, examples: str = "") -> Behaviour:
    """The behaviour on some words; each pair is of the same words half of the time. examples: what stands before the question."""

    def pair(rng: random.Random) -> tuple[str, str]:
        first, second = rng.sample(words, 2)
        return first, (first if rng.random() < 0.5 else second)

    model = CausalModel(
        {
            "first": drawn(pair),
            "second": drawn(pair),
            "left": caused(lambda first: first[0] == first[1]),
            "right": caused(lambda second: second[0] == second[1]),
            "answer": caused(lambda left, right: "yes" if left == right else "no"),
        }
    )

    def wording(s: Settings) -> tuple[str, Mapping[str, str]]:
        return examples + _QUESTION, dict(zip("wxyz", (*s["first"], *s["second"]), strict=True))

    return Behaviour(model, wording, ("first",))


def hierarchical_equality(lm: LanguageModel, *, examples: bool = False, n: int = 50, seed: int = 0, known: bool = True) -> Task:
    """At most n pairs; only words of one token are used. examples: put four before the question, for a model that was not trained on it.

    known: keep only pairs that the model gets right (likeliest next token), on both sides. Raises PromptError if no pair is left.
    """
    words = one_token(one_token(_WORDS, lm, least=4), lm, least=4, before="")
    arguments = {"examples": examples, "n": n, "seed": seed, "known": known}
    return causal_task("hierarchical_equality", behaviour(words, _EXAMPLES * examples), lm, role="x", arguments=arguments)
