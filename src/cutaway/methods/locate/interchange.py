"""At which layer and token does the model hold a variable of the task's causal model, the state being taken whole?

The base is run with one state taken from another run; where the model then answers as the causal model does when the variable takes that run's value,
the state carries the variable, and all else that it carries makes no difference.

Mediator:
    state; of the residual stream, at one token.

Search:
    exhaustive; every layer and position.

Measure:
    interchange accuracy.

Controls:
    another's source; no interchange.

Method:
    For every place: h_base <- h_source in the residual stream; accuracy = part of the interchanges in which the likeliest next token is the causal
    model's answer. Nothing is trained.

Source:
    Geiger, Lu, Icard, Potts 2021, arXiv 2106.02997; as the full-vector baseline: Mueller et al. 2025, arXiv 2504.13151.

Returns:
    Grid, unit: interchange accuracy; panels: the source's state, and the state of another example's source; rows: positions; columns:
    layers; intervals over examples.

Does not show:
    A variable that shares its place with another: a state that carries both takes both along, and fails for either. `locate.das` looks for a part.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> cut.locate.interchange(lm, "induction:n=8,length=6").rows
    ('previous.last', 'target.last', 'repeat.last', 'last')
"""

from __future__ import annotations

import numpy as np
import torch

from cutaway.methods.base import Started
from cutaway.methods.locate._alignment import UNIT, Alignment, Examples, examples, places, shuffled
from cutaway.metrics.bootstrap import bootstrap, bounds
from cutaway.models.language import LanguageModel
from cutaway.progress import progress
from cutaway.results.base import Control
from cutaway.results.grid import Grid
from cutaway.tasks.base import Task, find_task


def interchange(
    lm: LanguageModel,
    task: Task | str,
    *,
    variable: str | None = None,
    positions: tuple[str, ...] = (),
    layers: tuple[int, ...] = (),
    seed: int = 0,
) -> Grid:
    """Accuracy of interchanging the whole state, at each position and layer; see the module.

    variable: one of the task's causal model; without it, all that tells the two sides of a pair apart. positions: roles, numbers or `last`; without
    them the last token of every role, and the last. layers: none for all. Raises InputError, PromptError, UnknownNameError.
    """
    task = find_task(task, lm)
    started = Started(lm, "locate.interchange", task, seed, {"variable": variable, "positions": positions, "layers": layers})
    every = examples(lm, task, variable, seed)
    positions = positions or _positions(every)
    at = places(lm, positions, layers)
    rows = torch.arange(len(every.swapped))
    others = shuffled(len(rows), torch.Generator().manual_seed(seed))
    own, other = [], []
    with progress("interchange", len(at)) as done:
        for row in at:
            alignment = Alignment(lm, every, row)
            own += [alignment.right(address, None, rows) for address in row]
            other += [alignment.right(address, None, rows, others) for address in row]
            done(1)
    best = int(np.argmax([values[every.training].mean() for values in own]))
    untouched = alignment.untouched(every.held_out)
    mean, low, high = bounds(np.stack([own, other]).transpose(2, 0, 1), seed=seed)
    shape = (2, len(positions), len(at[0]))
    place = at[best // len(at[0])][best % len(at[0])]
    found = bootstrap(own[best][every.held_out], seed=seed)
    return Grid(
        title="Interchange interventions",
        question="Where does the whole state carry the variable, so that taking it from another run changes the answer as it should?",
        limits="It does not show a variable that shares its place with another, which the whole state takes along.",
        provenance=started.provenance(),
        controls=(
            Control(
                "another's source",
                f"The state of another example's source at {place}, the best on the other half.",
                UNIT,
                found,
                bootstrap(other[best][every.held_out], seed=seed),
            ),
            Control("no interchange", f"The base as it is, beside {place}.", UNIT, found, bootstrap(untouched, seed=seed)),
        ),
        numbers={"interchanges": len(rows), "without an interchange": float(untouched.mean())},
        row_axis="position",
        column_axis="layer",
        rows=positions,
        columns=tuple(str(address.layer) for address in at[0]),
        panels=("full vector", "another's source"),
        values=mean.reshape(shape),
        low=low.reshape(shape),
        high=high.reshape(shape),
        unit=UNIT,
    )


def _positions(every: Examples) -> tuple[str, ...]:
    """The last token of each role that all prompts have, and the last token."""
    prompts = [prompt for one in every.swapped for prompt in (one.base, one.source)]
    return (*(f"{role}.last" for role in prompts[0].spans if all(role in prompt.spans for prompt in prompts)), "last")
