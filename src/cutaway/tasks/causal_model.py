"""A high-level causal model: variables, what each is computed from, and what follows when some of them are set.

A variable is either an input, which is drawn, or computed from its parents: the parameters of its mechanism bear their names. An
intervention sets a variable whatever its parents say; an interchange sets it to the value that it has for other inputs. What the model then
outputs is what a network that computes the same way should answer when the same is done to its activations.

    >>> equality = CausalModel({
    ...     "w": one_of("ab"), "x": one_of("ab"), "y": one_of("ab"), "z": one_of("ab"),
    ...     "left": caused(lambda w, x: w == x), "right": caused(lambda y, z: y == z), "answer": caused(lambda left, right: left == right),
    ... })
    >>> base, source = dict(w="a", x="a", y="a", z="a"), dict(w="a", x="b", y="b", z="b")
    >>> equality.run(base)["answer"], equality.interchange(base, {"left": source})["answer"]
    (True, False)

Interchange interventions: Geiger et al. 2021, arXiv 2106.02997.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, final

from cutaway.errors import InputError, UnknownNameError

Settings = Mapping[str, Any]
"""Variable -> value. Values are compared with ==."""

Condition = Callable[[Settings], bool]
Draw = Callable[[random.Random], Any]

_TRIES = 1000
"""Draws before it is accepted that a condition cannot be met."""


@final
@dataclass(frozen=True)
class Variable:
    """An input has `draw`; any other has `mechanism`, called with the values of `parents` in their order."""

    draw: Draw | None = None
    parents: tuple[str, ...] = ()
    mechanism: Callable[..., Any] | None = None


def one_of(values: Iterable[Any]) -> Variable:
    """An input that is one of the values, each as likely as the others."""
    listed = tuple(values)
    return Variable(lambda rng: rng.choice(listed))


def some_of(values: Iterable[Any], count: int) -> Variable:
    """An input that is a tuple of `count` different ones of the values, in any order."""
    listed = tuple(values)
    return Variable(lambda rng: tuple(rng.sample(listed, count)))


def drawn(draw: Draw) -> Variable:
    """An input that a function draws from a generator."""
    return Variable(draw)


def caused(mechanism: Callable[..., Any]) -> Variable:
    """A variable that is computed from those its mechanism's parameters are named after."""
    return Variable(None, tuple(inspect.signature(mechanism).parameters), mechanism)


@final
class CausalModel:
    """`output`: the variable that is answered with. `order`: all variables, causes first; `inputs`: those that nothing causes.

    Raises UnknownNameError for a parent or output that is no variable, InputError where variables cause one another in a circle.
    """

    def __init__(self, variables: Mapping[str, Variable], *, output: str = "answer") -> None:
        self.variables, self.output = dict(variables), output
        for name in (output, *(parent for variable in self.variables.values() for parent in variable.parents)):
            self._check(name)
        try:
            self.order = tuple(TopologicalSorter({name: v.parents for name, v in self.variables.items()}).static_order())
        except CycleError as error:
            raise InputError("Order the variables.", f"a circle: {' <- '.join(error.args[1])}", "a graph without circles") from error
        self.inputs = tuple(name for name, variable in self.variables.items() if variable.mechanism is None)

    @property
    def computed(self) -> tuple[str, ...]:
        """The variables that are not inputs, causes first."""
        return tuple(name for name in self.order if name not in self.inputs)

    def run(self, inputs: Settings) -> dict[str, Any]:
        """The value of every variable for these inputs. Raises as `intervene` does."""
        return self.intervene(inputs, {})

    def intervene(self, inputs: Settings, do: Settings) -> dict[str, Any]:
        """The value of every variable when those in `do` are set to what is said there.

        Raises UnknownNameError for what is no variable, InputError unless `inputs` has exactly the inputs.
        """
        for name in (*inputs, *do):
            self._check(name)
        if set(inputs) != set(self.inputs):
            raise InputError("Run a causal model.", f"values for {', '.join(inputs) or 'nothing'}", f"for {', '.join(self.inputs)}")
        settings: dict[str, Any] = {}
        for name in self.order:
            variable = self.variables[name]
            if name in do:
                settings[name] = do[name]
            elif variable.mechanism is None:
                settings[name] = inputs[name]
            else:
                settings[name] = variable.mechanism(*(settings[parent] for parent in variable.parents))
        return settings

    def interchange(self, base: Settings, sources: Mapping[str, Settings]) -> dict[str, Any]:
        """The value of every variable on the base's inputs, when each variable of `sources` has the value it has for the inputs given there."""
        for name in sources:
            self._check(name)
        return self.intervene(base, {name: self.run(source)[name] for name, source in sources.items()})

    def sample(self, rng: random.Random, where: Condition | None = None) -> dict[str, Any]:
        """Inputs, drawn until the settings they give rise to meet the condition. Raises InputError where none are found."""
        return self._draw({}, self.inputs, rng, where)

    def redraw(self, inputs: Settings, names: Sequence[str], rng: random.Random, where: Condition | None = None) -> dict[str, Any]:
        """The inputs with those of the names drawn anew, until the condition is met. Raises UnknownNameError, InputError."""
        for name in names:
            if name not in self.inputs:
                raise UnknownNameError("input of this causal model", name, self.inputs)
        return self._draw(inputs, names, rng, where)

    def counterfactual(self, base: Settings, names: Sequence[str], rng: random.Random, where: Condition | None = None) -> dict[str, Any]:
        """The inputs with every one of the names changed, so that the output changes as well. Raises UnknownNameError, InputError."""
        answer = self.run(base)[self.output]

        def changed(settings: Settings) -> bool:
            differs = settings[self.output] != answer and all(settings[name] != base[name] for name in names)
            return differs and (where is None or where(settings))

        return self.redraw(base, names, rng, changed)

    def _draw(self, inputs: Settings, names: Sequence[str], rng: random.Random, where: Condition | None) -> dict[str, Any]:
        for _ in range(_TRIES):
            found = dict(inputs)
            for name in names:
                draw = self.variables[name].draw
                assert draw is not None
                found[name] = draw(rng)
            if where is None or where(self.run(found)):
                return found
        raise InputError(f"Draw {', '.join(names) or 'nothing'}.", f"{_TRIES} draws, none that meets the condition", "a weaker condition")

    def _check(self, name: str) -> None:
        if name not in self.variables:
            raise UnknownNameError("variable", name, self.variables)
