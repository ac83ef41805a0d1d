"""How many directions of a state hold a variable of the task's causal model, and which?

As `locate.das`, but the number of directions is learned too: all start to be interchanged in part, and a soft boundary moves until few are left.

Mediator:
    subspace; of the state at one token, its size learned.

Search:
    rotation; trained on one half of the interchanges.

Measure:
    interchange accuracy on the other half.

Controls:
    random directions; trained on shuffled answers; no interchange.

Method:
    h <- h_base + R m Rᵀ (h_source - h_base), R (d_model, d_model) orthogonal, m_i = sigmoid((b - i - 1/2) / t) with a learned boundary b and t from
    d_model / 4 to 0.1. Loss: cross-entropy of the causal model's answer + price * b / d_model. In the end the first round(b) directions are kept.

Source:
    Wu, Geiger, Icard, Potts, Goodman 2023, arXiv 2305.08809.

Returns:
    Grid, unit: interchange accuracy on held-out interchanges; panels: boundless DAS, full vector, as many random directions; rows:
    positions; columns: layers; each cell with the number of directions; intervals over examples. `to` keeps the directions, as `locate.das` does.

Does not show:
    The least number of directions: which is kept depends on the price and on the length of the training.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> cut.locate.boundless_das(lm, "induction:n=16,length=6", layers=(1,), steps=20).panels
    ('boundless DAS', 'full vector', 'random directions')
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from cutaway.address import Address
from cutaway.mediators.featurizers.base import Featurizer
from cutaway.mediators.featurizers.boundless import Boundless
from cutaway.methods.locate._alignment import Alignment
from cutaway.methods.locate._search import Search, Where, check_steps, random_directions, search
from cutaway.models.language import LanguageModel
from cutaway.registry import Opens
from cutaway.results.grid import Grid
from cutaway.tasks.base import Task, find_task


def boundless_das(
    lm: LanguageModel,
    task: Task | str,
    *,
    variable: str | None = None,
    positions: tuple[str, ...] = ("last",),
    layers: tuple[int, ...] = (),
    price: float = 1.0,
    steps: int = 400,
    to: Annotated[str, Opens()] | None = None,
    seed: int = 0,
) -> Grid:
    """Directions that carry a variable, and how many, in each layer; see the module.

    variable, positions, layers, to: as in `locate.das`. price: of all directions together, in nats. steps: of training. seed: of the halves, the
    training, the controls and the intervals. Raises InputError, PromptError, StorageError, UnknownNameError.
    """
    check_steps(steps)

    def fit(alignment: Alignment, address: Address, generator: torch.Generator, answers: Tensor | None) -> Featurizer:
        width = alignment.width(address)
        return alignment.train(address, Boundless(width, width, price=price, generator=generator), steps, generator, answers)

    one = Search(
        method="locate.boundless_das",
        name="boundless DAS",
        random="random directions",
        title="Boundless distributed alignment search",
        question="How many directions hold the variable in each layer, so that interchanging along them changes the answer as it should?",
        limits="It does not show the least number of directions: how many are kept depends on their price and on the training.",
        fit=fit,
        rival=random_directions,
    )
    return search(lm, find_task(task, lm), one, Where(variable, positions, layers, to), {"price": price, "steps": steps}, seed)
