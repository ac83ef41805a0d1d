from __future__ import annotations

from itertools import product

import pytest

from cutaway.errors import UnknownNameError
from cutaway.models.language import LanguageModel
from cutaway.tasks import algebra as module
from cutaway.tasks.algebra import GROUPS, ROUTES, algebra, behaviour, cyclic, dihedral


@pytest.mark.parametrize("group", [*GROUPS, dihedral(4), cyclic(7)])
def test_groups_are_groups(group: module.Group) -> None:
    elements = range(len(group))
    assert all(group[0][x] == x == group[x][0] for x in elements)
    assert all(sorted(row) == list(elements) for row in (*group, *zip(*group, strict=True)))
    assert all(group[group[x][y]][z] == group[x][group[y][z]] for x, y, z in product(elements, repeat=3))


def test_only_the_dihedral_ones_have_an_order() -> None:
    def commutes(group: module.Group) -> bool:
        return all(group[x][y] == group[y][x] for x, y in product(range(len(group)), repeat=2))

    assert commutes(cyclic(6)) and not commutes(dihedral(3))


@pytest.mark.parametrize("route", ROUTES)
def test_a_question_is_answered_by_its_route_and_by_none_before_it(spoken: LanguageModel, route: str) -> None:
    for pair in algebra(spoken, route=route, n=8, known=False).pairs:
        for prompt, answer in ((pair.base, pair.answer), (pair.counterfactual, pair.foil)):
            *shown, asked = [part.split() for part in prompt.text.removeprefix("Facts:").split(",")]
            facts = {(left, right): result for left, right, _, result in shown}
            left, right, _ = asked
            said = answer.strip()
            identities = {a for (a, b), c in facts.items() if c == b} | {b for (a, b), c in facts.items() if c == a}
            assert (facts.get((left, right)) == said) == (route == "copy")
            if route == "commuted":
                assert facts[(right, left)] == said
            if route == "identity":
                assert {left, right} & identities and said in (left, right)
            elif route not in ("copy", "commuted"):
                assert not {left, right} & identities
            if route == "cancelled":
                letters = {x for fact, result in facts.items() for x in (*fact, result)}
                assert letters - {result for (a, b), result in facts.items() if a == left or b == right} == {said}


def test_associativity_is_followed_by_hand() -> None:
    group = cyclic(5)
    solves = ROUTES["associated"]
    assert solves((3, 4), group, {(1, 2), (2, 4), (1, 1)}), "3 4 = (1 2) 4 = 1 (2 4) = 1 1"
    assert solves((4, 3), group, {(1, 2), (4, 1), (0, 2)}), "4 3 = 4 (1 2) = (4 1) 2 = 0 2"
    assert not solves((3, 4), group, {(1, 2), (2, 4)})


def test_mirrored_facts_answer_nothing_where_order_matters() -> None:
    group = dihedral(3)
    assert group[1][3] != group[3][1]
    assert not ROUTES["commuted"]((1, 3), group, {(3, 1)}) and ROUTES["commuted"]((1, 2), group, {(2, 1)})


def test_letters_are_given_anew(spoken: LanguageModel) -> None:
    assert len({pair.answer for pair in algebra(spoken, n=30, known=False).pairs}) >= 8
    with pytest.raises(UnknownNameError, match="commuted"):
        behaviour("comuted")
