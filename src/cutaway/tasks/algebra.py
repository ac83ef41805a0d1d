"""In-context algebra: products of a small group whose elements have other letters each time ("b d = k, d b = k, ... b d =" -> " k").

The letters are given to the elements anew for each prompt, so what they stand for can be learned from the facts alone. Every question is
answered by one `route` and by none that comes before it:

- copy: the fact itself is among those shown;
- commuted: its mirror image is, in a group or of elements where order does not matter;
- identity: one of the two elements is the identity, which another fact gives away by x e = x or e x = x;
- associated: x (y z) = (x y) z, where all but this product are shown;
- cancelled: of all the letters shown, one alone is no product yet of the same left or of the same right element.

Causal model: what is asked is a `question` (left, right); the group has a `product`; the answer is its letter. The counterfactual asks another
question of the same route after the same facts. Roles: `left` and `right`, what is asked; for fact i `left_i`, `right_i`, `product_i`.
Todd et al. 2025, arXiv 2512.16902.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from cutaway.errors import UnknownNameError
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task, count_at_least
from cutaway.tasks.behaviour import Behaviour, causal_task, one_token, vocabulary
from cutaway.tasks.causal_model import CausalModel, Settings, caused, drawn, one_of, some_of

Question = tuple[int, int]
Group = tuple[tuple[int, ...], ...]
"""Products: `group[a][b]`. Element 0 is the identity."""

_LETTERS = tuple("bcdfghjkmnpqrstv")
WORDS = vocabulary("Facts: = ,", *_LETTERS)
"""All that stands in a prompt, and the answers."""


def cyclic(order: int) -> Group:
    """The integers modulo `order`, under addition."""
    return tuple(tuple((a + b) % order for b in range(order)) for a in range(order))


def dihedral(sides: int) -> Group:
    """The rotations and reflections of a regular polygon. Element r + sides * f turns it r times, after reflecting it where f = 1."""

    def product(a: int, b: int) -> int:
        (turned, flipped), (then, again) = (divmod(x, sides)[::-1] for x in (a, b))
        return (turned + (-then if flipped else then)) % sides + sides * (flipped ^ again)

    return tuple(tuple(product(a, b) for b in range(2 * sides)) for a in range(2 * sides))


GROUPS: tuple[Group, ...] = (cyclic(4), cyclic(5), cyclic(6), dihedral(3))


def _copied(pair: Question, group: Group, facts: Collection[Question]) -> bool:
    return pair in facts


def _commuted(pair: Question, group: Group, facts: Collection[Question]) -> bool:
    left, right = pair
    return (right, left) in facts and group[left][right] == group[right][left]


def _identity(pair: Question, group: Group, facts: Collection[Question]) -> bool:
    return 0 in pair and any(0 in fact for fact in facts)


def _associated(pair: Question, group: Group, facts: Collection[Question]) -> bool:
    """left right = (x y) right = x (y right), or left (y z) = (left y) z."""
    left, right = pair
    by_left = any(group[x][y] == left and {(y, right), (x, group[y][right])} <= set(facts) for x, y in facts)
    return by_left or any(group[y][z] == right and {(left, y), (group[left][y], z)} <= set(facts) for y, z in facts)


def _cancelled(pair: Question, group: Group, facts: Collection[Question]) -> bool:
    left, right = pair
    shown = {x for a, b in facts for x in (a, b, group[a][b])}
    return shown - {group[a][b] for a, b in facts if a == left or b == right} == {group[left][right]}


ROUTES: dict[str, Callable[[Question, Group, Collection[Question]], bool]] = {
    "copy": _copied,
    "commuted": _commuted,
    "identity": _identity,
    "associated": _associated,
    "cancelled": _cancelled,
}
"""Whether a route answers a question, by name; the simplest first."""


def behaviour(route: str = "copy", facts: int = 16, letters: Sequence[str] = _LETTERS, groups: Sequence[Group] = GROUPS) -> Behaviour:
    """Questions of a route, after a number of facts. Raises UnknownNameError."""
    if route not in ROUTES:
        raise UnknownNameError("route", route, ROUTES)

    def draw(rng: random.Random) -> tuple[Group, tuple[Question, ...]]:
        group = rng.choice(groups)
        return group, tuple((rng.randrange(len(group)), rng.randrange(len(group))) for _ in range(facts))

    def question(shown: tuple[Group, tuple[Question, ...]], asked: int) -> Question | None:
        fitting = _questions(route, *shown)
        return fitting[asked % len(fitting)] if fitting else None

    def product(shown: tuple[Group, tuple[Question, ...]], question: Question | None) -> int | None:
        group = shown[0]
        return None if question is None or max(question) >= len(group) else group[question[0]][question[1]]

    model = CausalModel(
        {
            "shown": drawn(draw),
            "letters": some_of(letters, max(map(len, groups))),
            "asked": one_of(range(1000)),
            "question": caused(question),
            "product": caused(product),
            "answer": caused(lambda letters, product: None if product is None else letters[product]),
        }
    )

    def valid(s: Settings) -> bool:
        (group, shown), product = s["shown"], s["product"]
        products = {group[left][right] for left, right in _questions(route, group, shown)}
        return product is not None and product < len(group) and len(products) > 1

    return Behaviour(model, _wording, ("asked",), ("shown",), valid)


def algebra(lm: LanguageModel, *, route: str = "copy", facts: int = 16, n: int = 50, seed: int = 0, known: bool = True) -> Task:
    """At most n pairs of questions that a route answers; only letters of one token are used. Groups have 4 to 6 elements.

    known: keep only pairs that the model gets right (likeliest next token), on both sides. Raises UnknownNameError for the route, InputError
    where so many facts leave it no question, PromptError if no pair is left.
    """
    count_at_least("facts", facts, 2)
    letters = one_token(_LETTERS, lm, least=max(map(len, GROUPS)))
    arguments = {"route": route, "facts": facts, "n": n, "seed": seed, "known": known}
    return causal_task("algebra", behaviour(route, facts, letters), lm, role="right", arguments=arguments)


@lru_cache(maxsize=1024)
def _questions(route: str, group: Group, facts: tuple[Question, ...]) -> tuple[Question, ...]:
    """The pairs that this route answers, and none before it."""
    seen, earlier = frozenset(facts), list(ROUTES.values())[: list(ROUTES).index(route)]
    pairs = ((a, b) for a in range(len(group)) for b in range(len(group)))
    fresh = (pair for pair in pairs if not any(solves(pair, group, seen) for solves in earlier))
    return tuple(pair for pair in fresh if ROUTES[route](pair, group, seen))


def _wording(s: Settings) -> tuple[str, Mapping[str, Any]]:
    (group, facts), letters = s["shown"], s["letters"]
    roles = {"left": letters[s["question"][0]], "right": letters[s["question"][1]]}
    for i, (left, right) in enumerate(facts, 1):
        roles |= {f"left_{i}": letters[left], f"right_{i}": letters[right], f"product_{i}": letters[group[left][right]]}
    shown = "".join(f" {{left_{i}}} {{right_{i}}} = {{product_{i}}}," for i in range(1, len(facts) + 1))
    return f"Facts:{shown} {{left}} {{right}} =", roles
