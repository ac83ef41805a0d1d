"""Which few heads and MLPs, at one token, carry a variable of the task's causal model and nothing else?

A set of parts is sought that meets several desiderata at once: taken from a run in which the variable has another value, they take the answer with
them; taken from a run in which something else differs, they leave it as it is. The second kind keeps out what carries the variable and more.

Mediator:
    component; heads and MLPs, at one token.

Search:
    gates; trained on one half of each desideratum's examples.

Measure:
    accuracy on the other half, all desiderata together.

Controls:
    random components; trained on shuffled answers; first desideratum alone (where there are several); no interchange.

Method:
    c <- g_c c(base) + (1 - g_c) c(source) in all parts c at once, g_c in [0, 1]; minimised: - mean logit of the wanted answer, over the examples of
    all desiderata, + penalty x sum(1 - g). Adam; gates begin at 1/2 and are cut to [0, 1] after every step; found are those that end at 1/2 or
    below, and they are then taken whole. Desiderata: the inputs that the variable depends on are drawn anew, and the wanted answer is the causal
    model's when the variable has its new value (examples where that is the base's own are left out); then each other input is drawn anew by itself,
    and the wanted answer is the base's.

Source:
    Davies, Nadeau, Prakash, Rott Shaham, Bau 2023 (desiderata-based component masking), arXiv 2307.03637; Prakash et al. 2024, arXiv 2402.14811.

Returns:
    Scores, one row a part; unit: 1 - gate (1: taken from the source, 0: the base's); where there are several desiderata, a second column has what
    the first alone leads to. Numbers: how many were found, and the accuracy for each desideratum on held-out examples. Intervals over examples.

Does not show:
    Parts that carry the variable only together with another part that stands in for them, and what happens at other tokens. A logit that is already
    high enough still gains: parts that add little to it are found as long as that is worth the penalty.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> scores = cut.locate.desiderata(lm, "induction:n=16,length=6", steps=20)
    >>> scores.ranked()[0].startswith("layers[")
    True
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import numpy as np
import torch
from torch import Tensor

from cutaway.address import Address
from cutaway.errors import InputError, PromptError, UnknownNameError
from cutaway.methods.base import Started
from cutaway.methods.locate._alignment import Examples, Swapped, examples, position, shuffled
from cutaway.methods.locate._gated import Gated, random_sets
from cutaway.metrics.bootstrap import bootstrap, spread
from cutaway.models.language import LanguageModel
from cutaway.results.base import Control
from cutaway.results.scores import Scores
from cutaway.tasks.base import Task, find_task
from cutaway.tasks.behaviour import interchanges
from cutaway.tasks.causal_model import CausalModel

_DRAWS = 10
_PAIRS = "the counterfactual"
_ALONE = "first desideratum alone"
_UNIT = "accuracy on held-out examples"


def desiderata(
    lm: LanguageModel,
    task: Task | str,
    *,
    variable: str | None = None,
    unaffected: tuple[str, ...] = (),
    pos: str = "last",
    penalty: float = 0.01,
    rate: float = 0.1,
    steps: int = 150,
    seed: int = 0,
) -> Scores:
    """A gate for each head and MLP at one token; see the module.

    variable: one of the task's causal model; without it, all that tells the two sides of a pair apart, which is one desideratum. unaffected: inputs
    of the causal model that are to make no difference; without them, all that the variable does not depend on. pos: a role, number or `last`.
    penalty: logits that a part costs. rate, steps: of the optimizer. seed: of the examples, halves, training, controls and intervals.
    Raises InputError, UnknownNameError, PromptError for a desideratum without examples, AddressError, NumericError.
    """
    task = find_task(task, lm)
    arguments = {"variable": variable, "unaffected": unaffected, "pos": pos, "penalty": penalty, "rate": rate, "steps": steps}
    started = Started(lm, "locate.desiderata", task, seed, arguments)
    found = _Search(lm, _wanted(lm, task, variable, unaffected, seed), position(pos), (penalty, rate, steps, seed))
    gates = {"taken": found.gates(found.training, found.answers)}
    if len(found.names) > 1:
        gates[_ALONE] = found.gates(found.training[found.training < found.starts[1]], found.answers)
    controls, numbers = found.controls(gates), found.numbers(gates["taken"] <= 0.5)
    return Scores(
        title="Desiderata-based component masking",
        question="Which few heads and MLPs, taken from another run together, change the answer where they should and nowhere else?",
        limits="It does not show parts that others stand in for, nor what happens at other tokens.",
        provenance=started.provenance(),
        controls=controls,
        numbers=numbers,
        rows=tuple(map(str, found.gated.parts)),
        columns=tuple(gates),
        units=("1 - gate",) * len(gates),
        values=1 - np.stack(list(gates.values()), axis=1).astype(float),
    )


@final
class _Search:
    """Desiderata made ready to run: their examples side by side, those trained on and those held out."""

    def __init__(self, lm: LanguageModel, wanted: Mapping[str, Examples], pos: int | str, options: tuple[float, float, int, int]) -> None:
        self._penalty, self._rate, self._steps, self._seed = options
        every = [one for of_one in wanted.values() for one in of_one.swapped]
        starts = np.cumsum([0, *(len(of_one.swapped) for of_one in wanted.values())])
        self.training = torch.cat([of_one.training + int(start) for of_one, start in zip(wanted.values(), starts, strict=False)])
        self.held_out = torch.cat([of_one.held_out + int(start) for of_one, start in zip(wanted.values(), starts, strict=False)])
        self.answers = torch.tensor([one.answer for one in every])
        self.names, self.starts = tuple(wanted), starts.tolist()
        self.gated = Gated(lm, [one.base for one in every], [one.source for one in every], _points(lm, pos))

    def gates(self, rows: Tensor, answers: Tensor) -> np.ndarray:
        """Trained on these examples with these answers: (part,)."""

        def loss(logits: Tensor, batch: Tensor) -> Tensor:
            return -logits.gather(1, answers[batch, None].to(logits.device)).float().mean()

        return self.gated.train(loss, rows, penalty=self._penalty, rate=self._rate, steps=self._steps, seed=self._seed)

    def right(self, taken: np.ndarray) -> np.ndarray:
        """1 for each held-out example that is answered as wanted, else 0."""
        return (self.gated.taking(taken, self.held_out).argmax(-1) == self.answers[self.held_out]).double().numpy()

    def controls(self, gates: Mapping[str, np.ndarray]) -> tuple[Control, ...]:
        """What was found beside sets picked at random or found in other ways."""
        taken = gates["taken"] <= 0.5
        count, found = int(taken.sum()), bootstrap(self.right(taken), seed=self._seed)
        drawn = [self.right(one).mean() for one in random_sets(np.ones(len(taken), bool), count, _DRAWS, self._seed)]
        dealt = self.answers.clone()
        dealt[self.training] = dealt[self.training[shuffled(len(self.training), torch.Generator().manual_seed(self._seed))]]
        aimless = self.gates(self.training, dealt) <= 0.5
        rivals = {"trained on shuffled answers": ("The same training with each example's answer taken from another", aimless)}
        if _ALONE in gates:
            rivals[_ALONE] = ("The same training without the desiderata that keep parts out", gates[_ALONE] <= 0.5)
        rivals["no interchange"] = ("The base as it is", np.zeros(len(taken), bool))
        return (
            Control("random components", f"Sets of {count} picked at random (range of sets).", _UNIT, found, spread(np.array(drawn))),
            *(
                Control(name, f"{says}: {int(one.sum())} components.", _UNIT, found, bootstrap(self.right(one), seed=self._seed))
                for name, (says, one) in rivals.items()
            ),
        )

    def numbers(self, taken: np.ndarray) -> dict[str, float]:
        """What was found, and for each desideratum how much of it is met, by what was found and by taking everything."""
        numbers = {"components found": float(taken.sum()), "of": float(len(taken)), "held out": float(len(self.held_out))}
        of_one = np.searchsorted(self.starts, self.held_out.numpy(), side="right") - 1
        met, whole = self.right(taken), self.right(np.ones(len(taken), bool))
        for number, name in enumerate(self.names):
            says = f"unaffected by {name}" if number else f"follows {name}"
            numbers |= {says: float(met[of_one == number].mean()), f"{says}, all taken": float(whole[of_one == number].mean())}
        return numbers


def _wanted(lm: LanguageModel, task: Task, variable: str | None, unaffected: tuple[str, ...], seed: int) -> dict[str, Examples]:
    """Name of each desideratum and its examples; first the one in which the answer changes."""
    if variable is None:
        if unaffected:
            raise InputError(f"unaffected={unaffected} without a variable.", works="variable=, one of the task's causal model")
        return {_PAIRS: examples(lm, task, None, seed)}
    if task.behaviour is None:
        raise InputError(
            f"Desiderata for {variable!r} in the task {task.name}.", "no causal model", "a task that has one, such as entity_tracking"
        )
    model, shared = task.behaviour.model, task.behaviour.shared
    own = _causes(model, variable)
    for name in unaffected:
        if name not in model.inputs:
            raise UnknownNameError("input of this causal model", name, model.inputs)
    others = unaffected or tuple(name for name in model.inputs if name not in own and name not in shared)
    anew = {variable: tuple(name for name in model.inputs if name in own and name not in shared), **{name: (name,) for name in others}}
    return {name: _examples(lm, task, variable, drawn, name == variable, seed) for name, drawn in anew.items()}


def _examples(lm: LanguageModel, task: Task, variable: str, anew: tuple[str, ...], changes: bool, seed: int) -> Examples:
    """At most as many as the task has pairs, half of them held out; only those where the answer changes, or only those where it does not."""
    known = bool(task.arguments.get("known", True))
    made = interchanges(task, lm, variable, n=2 * len(task), seed=seed, known=known, anew=anew)
    fit = [one for one in made if one.changes == changes and one.base.text != one.source.text]
    kept = {(one.base.text, one.source.text): Swapped(one.base, one.source, lm.token_id(one.answer)) for one in fit}
    chosen = tuple(kept.values())[: len(task)]
    if len(chosen) < 2:
        works = "another variable, or unaffected= others" if changes else "unaffected= others"
        raise PromptError(
            f"Draw {', '.join(anew) or 'nothing'} anew so that the answer {'changes' if changes else 'stays'} by {variable!r}.",
            f"{len(chosen)} examples of {len(made)}",
            works,
        )
    return Examples(chosen, len(chosen) // 2)


def _causes(model: CausalModel, name: str) -> set[str]:
    """The inputs that a variable depends on. Raises UnknownNameError."""
    if name not in model.variables:
        raise UnknownNameError("variable", name, model.variables)
    parents = model.variables[name].parents
    return {name} if name in model.inputs else {cause for parent in parents for cause in _causes(model, parent)}


def _points(lm: LanguageModel, pos: int | str) -> list[Address]:
    names = [f"layers[{layer}].{part}" for layer in range(lm.sizes.n_layers) for part in ("attn.z", "mlp.output")]
    return [Address(name, pos=pos) for name in names if lm.find(name) is not None]
