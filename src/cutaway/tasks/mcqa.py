"""Multiple choice with a copied colour: the text says what colour a thing is, and the answer is the letter before that colour.

"The box is brown. What color is the box? A. grey B. brown C. white D. pink Answer:" -> " B". Causal model: the colour in the text is
found among the choices, which gives the `pointer`, 0 for the first choice; the letter that stands there is the answer. The counterfactual
has another of the choices in the text. Letters and choices are drawn for each example, so that the pointer of one prompt leads to a third
letter in another. Roles: `thing`, `color`, `thing_2`, `choice_1` ..., `symbol_1` ....
The task and its variables: Wiegreffe et al. 2024, arXiv 2407.15018; Mueller et al. 2025 (MIB), arXiv 2504.13151.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task, count_at_least
from cutaway.tasks.behaviour import Behaviour, causal_task, one_token
from cutaway.tasks.causal_model import CausalModel, Settings, caused, one_of, some_of

_THINGS = ("box", "car", "hat", "door", "chair", "ball", "cup", "coat", "boat", "lamp", "shirt", "flag", "book", "house")
_COLORS = ("red", "blue", "green", "black", "white", "pink", "brown", "yellow", "orange", "purple", "gray", "gold", "silver")
_SYMBOLS = tuple("ABCDEFGH")


def behaviour(choices: int = 4, things: Sequence[str] = _THINGS, colors: Sequence[str] = _COLORS) -> Behaviour:
    """The behaviour with a number of choices, on some things and colours."""
    model = CausalModel(
        {
            "thing": one_of(things),
            "choices": some_of(colors, choices),
            "symbols": some_of(_SYMBOLS, choices),
            "asked": one_of(range(choices)),
            "color": caused(lambda choices, asked: choices[asked]),
            "pointer": caused(lambda choices, color: choices.index(color) if color in choices else None),
            "answer": caused(lambda symbols, pointer: None if pointer is None else symbols[pointer]),
        }
    )
    return Behaviour(model, _wording, ("asked",), valid=lambda s: s["answer"] is not None)


def mcqa(lm: LanguageModel, *, choices: int = 4, n: int = 50, seed: int = 0, known: bool = True) -> Task:
    """At most n pairs of questions with 2 to 8 choices; only things and colours of one token are used.

    known: keep only pairs that the model gets right (likeliest next token), on both sides. Raises InputError, PromptError if no pair is left.
    """
    count_at_least("choices", choices, 2)
    colors = one_token(_COLORS, lm, least=choices)
    arguments = {"choices": choices, "n": n, "seed": seed, "known": known}
    return causal_task("mcqa", behaviour(choices, one_token(_THINGS, lm), colors), lm, role="color", arguments=arguments)


def _wording(s: Settings) -> tuple[str, Mapping[str, str]]:
    roles = {"thing": s["thing"], "color": s["color"]}
    lines = []
    for i, (symbol, choice) in enumerate(zip(s["symbols"], s["choices"], strict=True), 1):
        lines.append(f"{{symbol_{i}}}. {{choice_{i}}}")
        roles |= {f"symbol_{i}": symbol, f"choice_{i}": choice}
    return "The {thing} is {color}. What color is the {thing}?\n" + "\n".join(lines) + "\nAnswer:", roles
