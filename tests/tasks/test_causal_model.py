from __future__ import annotations

import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.errors import InputError, UnknownNameError
from cutaway.tasks.causal_model import CausalModel, Variable, caused, drawn, one_of, some_of

EQUALITY = CausalModel(
    {name: one_of("ab") for name in "wxyz"}
    | {
        "answer": caused(lambda left, right: left == right),
        "left": caused(lambda w, x: w == x),
        "right": caused(lambda y, z: y == z),
    }
)
ALL = [dict(zip("wxyz", values, strict=True)) for values in product("ab", repeat=4)]


@st.composite
def models(draw: st.DrawFn) -> tuple[CausalModel, dict[str, int], dict[str, int]]:
    """Sums modulo 5 over a random graph, with inputs of a base and a source."""
    n_inputs, n_computed = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    names = [f"v{i}" for i in range(n_inputs + n_computed - 1)] + ["answer"]
    variables = {name: one_of(range(5)) for name in names[:n_inputs]}
    for i, name in enumerate(names[n_inputs:], n_inputs):
        parents = draw(st.lists(st.sampled_from(names[:i]), min_size=1, unique=True))
        weights = draw(st.lists(st.integers(1, 4), min_size=len(parents), max_size=len(parents)))
        variables[name] = Variable(
            None, tuple(parents), lambda *values, weights=weights: sum(w * v for w, v in zip(weights, values, strict=True)) % 5
        )
    shuffled = {name: variables[name] for name in draw(st.permutations(names))}
    base, source = ({name: draw(st.integers(0, 4)) for name in names[:n_inputs]} for _ in range(2))
    return CausalModel(shuffled), base, source


@pytest.mark.parametrize("base", ALL)
def test_hierarchical_equality_by_hand(base: dict[str, str]) -> None:
    got = EQUALITY.run(base)
    assert got["left"] == (base["w"] == base["x"]) and got["right"] == (base["y"] == base["z"])
    assert got["answer"] == (len({base["w"], base["x"]}) == len({base["y"], base["z"]}))
    for source in ALL:
        other = EQUALITY.run(source)
        assert EQUALITY.interchange(base, {"left": source})["answer"] == (other["left"] == got["right"])
        assert EQUALITY.interchange(base, {"left": source, "right": source})["answer"] == other["answer"]


@settings(max_examples=60, deadline=None)
@given(models())
def test_interchanges_of_all_none_and_inputs(made: tuple[CausalModel, dict[str, int], dict[str, int]]) -> None:
    model, base, source = made
    assert model.interchange(base, {}) == model.run(base)
    assert model.interchange(base, dict.fromkeys(model.variables, source)) == model.run(source)
    assert model.interchange(base, dict.fromkeys(model.inputs, source)) == model.run(source)
    assert model.interchange(base, {"answer": source})["answer"] == model.run(source)["answer"]
    for name in model.variables:
        assert model.interchange(base, {name: base}) == model.run(base)
    for name in model.inputs:
        assert model.intervene(base, {name: source[name]}) == model.run(base | {name: source[name]})


@settings(max_examples=60, deadline=None)
@given(models(), st.integers(0, 4))
def test_an_intervention_touches_only_what_comes_after(made: tuple[CausalModel, dict[str, int], dict[str, int]], value: int) -> None:
    model, base, _ = made
    before = model.run(base)
    for name in model.variables:
        after = model.intervene(base, {name: value})
        descendants = {name}
        for later in model.order:
            if descendants & set(model.variables[later].parents):
                descendants.add(later)
        assert after[name] == value
        assert {other for other in model.order if after[other] != before[other]} <= descendants


def test_causes_come_first() -> None:
    assert EQUALITY.inputs == ("w", "x", "y", "z") and set(EQUALITY.computed) == {"left", "right", "answer"}
    for name, variable in EQUALITY.variables.items():
        assert all(EQUALITY.order.index(parent) < EQUALITY.order.index(name) for parent in variable.parents)


def test_what_is_drawn_meets_the_condition_and_follows_the_seed() -> None:
    def draw(seed: int) -> list[dict[str, str]]:
        rng = random.Random(seed)
        return [EQUALITY.sample(rng, lambda s: s["left"] and not s["answer"]) for _ in range(10)]

    assert draw(1) == draw(1) != draw(2)
    assert all(inputs["w"] == inputs["x"] and inputs["y"] != inputs["z"] for inputs in draw(1))
    model = CausalModel({"some": some_of("abcd", 3), "own": drawn(lambda rng: rng.randrange(7)), "answer": caused(lambda some: some[0])})
    inputs = model.sample(random.Random(0))
    assert len(set(inputs["some"])) == 3 and set(inputs["some"]) <= set("abcd") and inputs["own"] in range(7)


def test_a_counterfactual_changes_what_is_named_and_the_output() -> None:
    rng = random.Random(0)
    for base in ALL:
        other = EQUALITY.counterfactual(base, ["w"], rng)
        assert other["w"] != base["w"] and {**other, "w": base["w"]} == base
        assert EQUALITY.run(other)["answer"] != EQUALITY.run(base)["answer"]
    with pytest.raises(InputError, match="1000 draws, none that meets the condition"):
        EQUALITY.counterfactual(ALL[0], ["w", "x"], rng)  # both letters changed are as equal as before


def test_what_is_not_understood_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="left"):
        EQUALITY.intervene(ALL[0], {"lefft": True})
    with pytest.raises(UnknownNameError, match="left"):
        EQUALITY.interchange(ALL[0], {"lefft": ALL[1]})
    with pytest.raises(UnknownNameError, match="input of this causal model"):
        EQUALITY.redraw(ALL[0], ["left"], random.Random(0))
    for inputs in ({}, {"w": "a"}, ALL[0] | {"left": True}):
        with pytest.raises(InputError, match="for w, x, y, z"):
            EQUALITY.run(inputs)
    with pytest.raises(UnknownNameError, match="answer"):
        CausalModel({"a": one_of("a")})
    with pytest.raises(UnknownNameError, match="nobody"):
        CausalModel({"answer": caused(lambda nobody: nobody)})
    with pytest.raises(InputError, match="a circle: "):
        CausalModel({"a": caused(lambda answer: answer), "answer": caused(lambda a: a)})
