"""Two-digit addition without a third digit, after three sums as examples ("27 + 45 = " -> "7" of 72, or "72" where that is one token).

Causal model: the `units` sum says whether there is a `carry`, and the sum is 10 (tens + tens + carry) + units. A tokenizer that splits
digits is asked for the tens, which is where the carry shows; the space before them ends the prompt where it is a token by itself. The
counterfactual has another tens digit in the first number. Roles: `a_tens`, `a_units`, `b_tens`, `b_units`.
The variables are those of MIB (Mueller et al. 2025, arXiv 2504.13151).
"""

from __future__ import annotations

from collections.abc import Mapping

from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task
from cutaway.tasks.behaviour import Behaviour, causal_task
from cutaway.tasks.causal_model import CausalModel, Settings, caused, one_of

_EXAMPLES = "14 + 23 = 37\n38 + 45 = 83\n51 + 29 = 80\n"
_SUM = "{a_tens}{a_units} + {b_tens}{b_units} ="
_DIGITS = ("a_tens", "a_units", "b_tens", "b_units")


def behaviour(*, space: bool = True) -> Behaviour:
    """Sums of two two-digit numbers that stay below 100. space: it ends the prompt, and does not begin the answer."""
    model = CausalModel(
        {
            "a_tens": one_of(range(1, 9)),
            "a_units": one_of(range(10)),
            "b_tens": one_of(range(1, 9)),
            "b_units": one_of(range(10)),
            "tens": caused(lambda a_tens, b_tens: a_tens + b_tens),
            "units": caused(lambda a_units, b_units: a_units + b_units),
            "carry": caused(lambda units: int(units >= 10)),
            "answer": caused(lambda tens, carry, units: 10 * (tens + carry) + units % 10),
        }
    )

    def wording(s: Settings) -> tuple[str, Mapping[str, str]]:
        return _EXAMPLES + _SUM + " " * space, {digit: str(s[digit]) for digit in _DIGITS}

    return Behaviour(model, wording, ("a_tens",), valid=lambda s: s["answer"] < 100, written=("{}" if space else " {}").format)


def arithmetic(lm: LanguageModel, *, n: int = 50, seed: int = 0, known: bool = True) -> Task:
    """At most n pairs of sums.

    known: keep only pairs that the model gets right (likeliest next token), on both sides. Raises PromptError if no pair is left.
    """
    space = not lm.first_token(" 83").strip()
    return causal_task("arithmetic", behaviour(space=space), lm, role="a_tens", arguments={"n": n, "seed": seed, "known": known})
