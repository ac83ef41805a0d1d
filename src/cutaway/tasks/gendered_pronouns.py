"""Gendered pronouns: a person is named, and the pronoun that stands for them is the usual one for the name ("Everyone likes Mary because" -> " she").

Causal model: the name has a `gender` by convention, and the gender decides the pronoun. The counterfactual has a name of the other
gender. What it measures is a convention that a model has learned, not a fact about people. Role: `name`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task
from cutaway.tasks.behaviour import Behaviour, causal_task, one_token
from cutaway.tasks.causal_model import CausalModel, Settings, caused, one_of

_NAMES = {
    "she": tuple("Mary Sarah Anna Kate Laura Susan Emily Alice Helen Lisa Jane Lucy Emma Rachel Linda Jessica Amy Maria".split()),
    "he": tuple("John Tom James Dan Paul Mark David Peter Jack Michael Robert Henry George Martin Ben Adam Simon Andrew".split()),
}
_TEMPLATES = (
    "Everyone likes {name} because",
    "The teacher praised {name} because",
    "We thanked {name} because",
    "I asked {name} to wait, but",
    "They invited {name} to the party, but",
    "I called {name} last night, but",
)


def behaviour(names: Mapping[str, Sequence[str]] = _NAMES) -> Behaviour:
    """The behaviour on some names, listed by pronoun."""
    gender_of = {name: "male" if pronoun == "he" else "female" for pronoun, listed in names.items() for name in listed}
    model = CausalModel(
        {
            "template": one_of(_TEMPLATES),
            "name": one_of(gender_of),
            "gender": caused(lambda name: gender_of[name]),
            "answer": caused(lambda gender: {"male": "he", "female": "she"}[gender]),
        }
    )
    return Behaviour(model, _wording, ("name",), ("template",))


def gendered_pronouns(lm: LanguageModel, *, n: int = 50, seed: int = 0, known: bool = True) -> Task:
    """At most n pairs of a woman's and a man's name; only names of one token are used.

    known: keep only pairs that the model gets right (likeliest next token), on both sides. Raises PromptError if no pair is left.
    """
    names = {pronoun: one_token(listed, lm) for pronoun, listed in _NAMES.items()}
    return causal_task("gendered_pronouns", behaviour(names), lm, role="name", arguments={"n": n, "seed": seed, "known": known})


def _wording(s: Settings) -> tuple[str, Mapping[str, str]]:
    return s["template"], {"name": s["name"]}
