"""Subject-verb agreement: the verb agrees with the subject, not with the noun that stands nearer ("We knew that the keys near the door" -> " were").

Causal model: `number`, whether the subject is singular or plural, decides between the two forms of the verb; the noun between them, in either
number, does not matter. The counterfactual has the same subject in the other number. Roles: `subject`, `attractor`.
The kind of prompt follows Linzen et al. 2016, arXiv 1611.01368.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task
from cutaway.tasks.behaviour import Behaviour, causal_task, one_token
from cutaway.tasks.causal_model import CausalModel, Settings, caused, one_of

_NOUNS = (
    *("key", "book", "letter", "picture", "chair", "table", "lamp", "door", "window", "car", "boat", "house", "garden", "road", "river"),
    *("teacher", "doctor", "student", "farmer", "writer", "singer", "driver", "friend", "neighbor", "brother", "sister", "king", "dog"),
)
_TEMPLATES = (
    "The {subject} that I saw near the {attractor} yesterday",
    "The {subject} that we found behind the {attractor} last week",
    "We knew that the {subject} near the {attractor}",
    "They said that the {subject} beside the {attractor}",
)
_VERB = {"singular": "was", "plural": "were"}


def behaviour(nouns: Sequence[str] = _NOUNS) -> Behaviour:
    """The behaviour on some nouns, all of which take an s."""
    model = CausalModel(
        {
            "template": one_of(_TEMPLATES),
            "noun": one_of(nouns),
            "plural": one_of((False, True)),
            "attractor": one_of(nouns),
            "attractor_plural": one_of((False, True)),
            "number": caused(lambda plural: "plural" if plural else "singular"),
            "answer": caused(lambda number: _VERB[number]),
        }
    )
    return Behaviour(model, _wording, ("plural",), ("template",), lambda s: s["noun"] != s["attractor"])


def subject_verb_agreement(lm: LanguageModel, *, n: int = 50, seed: int = 0, known: bool = True) -> Task:
    """At most n pairs of a singular and a plural subject. Only nouns are used that are one token in either number.

    known: keep only pairs that the model gets right (likeliest next token), on both sides. Raises PromptError if no pair is left.
    """
    whole = set(one_token([form for noun in _NOUNS for form in (noun, f"{noun}s")], lm))
    nouns = [noun for noun in _NOUNS if {noun, f"{noun}s"} <= whole]
    arguments = {"n": n, "seed": seed, "known": known}
    return causal_task("subject_verb_agreement", behaviour(nouns), lm, role="subject", arguments=arguments)


def _wording(s: Settings) -> tuple[str, Mapping[str, str]]:
    subject, attractor = (s[noun] + "s" * s[plural] for noun, plural in (("noun", "plural"), ("attractor", "attractor_plural")))
    return s["template"], {"subject": subject, "attractor": attractor}
