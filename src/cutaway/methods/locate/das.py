"""In which directions does a state hold a variable of the task's causal model?

Orthonormal directions are trained at each place so that the model, given another run's features along them, answers as the causal model does when the
variable takes that run's value. How often it then does so for interchanges that were not trained on is the accuracy.

Mediator:
    subspace; of the state at one token, `rank` directions.

Search:
    rotation; trained on one half of the interchanges.

Measure:
    interchange accuracy on the other half.

Controls:
    random directions; trained on shuffled answers; no interchange.

Method:
    h <- h_base + R Rᵀ (h_source - h_base) at one place, R (d_model, rank) with RᵀR = 1, trained by the cross-entropy of the causal model's answer
    (Adam, 1e-2 falling to 1e-3, batches of 32, at most `steps`; less where the loss stops falling). Half of the interchanges are trained on, the
    others judge. Beside it: the full vector, and random directions of the same rank.

Source:
    Geiger, Wu, Potts, Icard, Goodman 2024, arXiv 2303.02536; the setting is that of Mueller et al. 2025, arXiv 2504.13151, causal-variable track.

Returns:
    Grid, unit: interchange accuracy (part of the held-out interchanges answered as the causal model does); panels: DAS, full vector, random
    directions; rows: positions; columns: layers; each cell with the number of directions; intervals over examples. `to` keeps the directions: one
    file a place, which `cutaway.mediators.featurizers.base.load` reads.

Does not show:
    That the model uses the variable when left alone: directions that are trained may find a way to the answer that the model does not take. A rank as
    large as d_model is the full vector. The accuracy of doing nothing is not 0 where the answer often stays the base's.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> cut.locate.das(lm, "induction:n=16,length=6", rank=4, steps=20).panels
    ('DAS', 'full vector', 'random directions')
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from cutaway.address import Address
from cutaway.mediators.featurizers.base import Featurizer
from cutaway.mediators.featurizers.rotation import Turning
from cutaway.methods.locate._alignment import Alignment
from cutaway.methods.locate._search import Search, Where, check_steps, random_directions, search
from cutaway.models.language import LanguageModel
from cutaway.registry import Opens
from cutaway.results.grid import Grid
from cutaway.tasks.base import Task, find_task


def das(
    lm: LanguageModel,
    task: Task | str,
    *,
    variable: str | None = None,
    positions: tuple[str, ...] = ("last",),
    layers: tuple[int, ...] = (),
    rank: int = 16,
    steps: int = 200,
    to: Annotated[str, Opens()] | None = None,
    seed: int = 0,
) -> Grid:
    """Accuracy of interchanging a variable along trained directions, in each layer; see the module.

    variable: one of the task's causal model; without it, all that tells the two sides of a pair apart. positions, layers: where; no layers: all.
    rank: directions at each place. steps: of training, at most. to: a folder for what was trained, in which an interrupted training goes on.
    seed: of the halves, the training, the controls and the intervals. Raises InputError, PromptError, StorageError, UnknownNameError.
    """
    check_steps(steps)

    def fit(alignment: Alignment, address: Address, generator: torch.Generator, answers: Tensor | None) -> Featurizer:
        learner = Turning(alignment.width(address), rank, generator=generator)
        return alignment.train(address, learner, steps, generator, answers)

    one = Search(
        method="locate.das",
        name="DAS",
        random="random directions",
        title="Distributed alignment search",
        question="In which layers do a few directions hold the variable, so that interchanging along them changes the answer as it should?",
        limits="It does not show that the model uses the variable by itself: trained directions may take a way to the answer that it does not.",
        fit=fit,
        rival=random_directions,
    )
    return search(lm, find_task(task, lm), one, Where(variable, positions, layers, to), {"rank": rank, "steps": steps}, seed)
