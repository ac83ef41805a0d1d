"""Variable binding: letters are given values, and one of them is asked for ("Given c=3, k=7, m=5, it follows that k=" -> "7").

Causal model: the letter that is asked for is found among those bound, which gives a `position`; the value that stands there is the answer. So a
part that carries the position leads to another value where it is put into another prompt, and one that carries the value brings its own. The
counterfactual asks for another letter. Roles: `name_1`, `value_1`, `name_2`, ... in the order of the text, and `asked`.
Davies et al. 2023, arXiv 2307.03637.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task, count_at_least
from cutaway.tasks.behaviour import Behaviour, causal_task, one_token, vocabulary
from cutaway.tasks.causal_model import CausalModel, Settings, caused, one_of, some_of

_NAMES = tuple("bcdfghjkmnpqrstvwxyz")
_VALUES = tuple("0123456789")
WORDS = vocabulary("Given {name}={value}, it follows that {name}=", *_NAMES, *_VALUES)
"""All that stands in a prompt, and the answers, where punctuation stands apart."""


def behaviour(bindings: int = 4, names: Sequence[str] = _NAMES, values: Sequence[str] = _VALUES) -> Behaviour:
    """The behaviour with a number of bindings, on some letters and values."""
    model = CausalModel(
        {
            "names": some_of(names, bindings),
            "values": some_of(values, bindings),
            "asked": one_of(range(bindings)),
            "name": caused(lambda names, asked: names[asked]),
            "position": caused(lambda names, name: names.index(name) if name in names else None),
            "answer": caused(lambda values, position: None if position is None else values[position]),
        }
    )
    return Behaviour(model, _wording, ("asked",), valid=lambda s: s["answer"] is not None, written="{}".format)


def variable_binding(lm: LanguageModel, *, bindings: int = 4, n: int = 50, seed: int = 0, known: bool = True) -> Task:
    """At most n pairs of prompts with 2 to 10 letters bound.

    known: keep only pairs that the model gets right (likeliest next token), on both sides. Raises InputError, PromptError if no pair is left.
    """
    count_at_least("bindings", bindings, 2)
    names, values = one_token(_NAMES, lm, least=bindings), one_token(_VALUES, lm, least=bindings, before="")
    arguments = {"bindings": bindings, "n": n, "seed": seed, "known": known}
    return causal_task("variable_binding", behaviour(bindings, names, values), lm, role="asked", arguments=arguments)


def _wording(s: Settings) -> tuple[str, Mapping[str, str]]:
    roles = {"asked": s["name"]}
    for i, (name, value) in enumerate(zip(s["names"], s["values"], strict=True), 1):
        roles |= {f"name_{i}": name, f"value_{i}": value}
    bound = ", ".join(f"{{name_{i}}}={{value_{i}}}" for i in range(1, len(s["names"]) + 1))
    return f"Given {bound}, it follows that {{asked}}=", roles
