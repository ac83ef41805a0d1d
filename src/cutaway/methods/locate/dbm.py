"""Which neurons, principal components or other given features of a state hold a variable of the task's causal model?

A gate on each feature of a basis is trained so that the model, given another run's features where gates are shut, answers as the causal model does
when the variable takes that run's value. The basis itself stays as it is.

Mediator:
    feature; neurons or features of a given basis of the state at one token.

Search:
    gates; trained on one half of the interchanges.

Measure:
    interchange accuracy on the other half.

Controls:
    random features; trained on shuffled answers; no interchange.

Method:
    f <- g f_base + (1 - g) f_source, g_i = sigmoid(w_i / t), t from 1 to 0.01 in `steps` steps; loss: cross-entropy of the causal model's answer +
    0.1 mean(1 - g); Adam, 1e-2 falling to 1e-3, batches of 32. What is found are the features with g_i <= 1/2 in the end. What the basis does
    not see stays the base's. Principal components are those of the states of the sources that are trained on.

Source:
    De Cao, Schlichtkrull, Aziz, Titov 2020, arXiv 2004.14992; Davies et al. 2023, arXiv 2307.03637; as a baseline: Mueller et al. 2025,
    arXiv 2504.13151.

Returns:
    Grid, unit: interchange accuracy on held-out interchanges; panels: the mask, the full vector, as many features at random; rows:
    positions; columns: layers; each cell with the number of features; intervals over examples. `to` keeps the features, as `locate.das` does.

Does not show:
    A variable that lies across the features of this basis: a mask can only take or leave each.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> cut.locate.dbm(lm, "induction:n=8,length=6", layers=(1,), basis="pca", steps=20).panels
    ('mask on pca', 'full vector', 'random features')
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from cutaway.address import Address
from cutaway.errors import InputError
from cutaway.mediators.featurizers.base import Featurizer, load
from cutaway.mediators.featurizers.mask import Mask
from cutaway.mediators.featurizers.neurons import Neurons
from cutaway.mediators.featurizers.pca import pca
from cutaway.methods.locate._alignment import Alignment
from cutaway.methods.locate._search import Search, Where, check_steps, search
from cutaway.models.language import LanguageModel
from cutaway.registry import Opens
from cutaway.results.grid import Grid
from cutaway.tasks.base import Task, find_task

PRICE = 0.1
"""Of all features together, in nats: enough to shut out those that do nothing."""

Basis = Callable[[Alignment, Address], Featurizer]


def dbm(
    lm: LanguageModel,
    task: Task | str,
    *,
    variable: str | None = None,
    positions: tuple[str, ...] = ("last",),
    layers: tuple[int, ...] = (),
    basis: Annotated[str, Opens("neurons", "pca")] = "neurons",
    steps: int = 200,
    to: Annotated[str, Opens()] | None = None,
    seed: int = 0,
) -> Grid:
    """Accuracy of interchanging a variable by some features of a basis, in each layer; see the module.

    variable, positions, layers, to: as in `locate.das`. basis: neurons, pca, or the path of a saved featurizer. steps: of training.
    seed: of the halves, the training, the controls and the intervals. Raises InputError, PromptError, StorageError, UnknownNameError.
    """
    check_steps(steps)
    make = _basis(basis)
    bases: dict[Address, Featurizer] = {}

    def fit(alignment: Alignment, address: Address, generator: torch.Generator, answers: Tensor | None) -> Featurizer:
        whole = bases.setdefault(address, make(alignment, address))
        if whole.width != alignment.width(address):
            works = f"a basis of {alignment.width(address)}"
            raise InputError(f"Mask the features of {basis} at {address}.", f"a basis of activations of length {whole.width}", works)
        return alignment.train(address, Mask(whole, price=PRICE), steps, generator, answers)

    def rival(alignment: Alignment, address: Address, like: Featurizer, generator: torch.Generator) -> Featurizer:
        whole = bases.setdefault(address, make(alignment, address))
        return whole.select(torch.randperm(whole.n, generator=generator)[: like.n].tolist())

    one = Search(
        method="locate.dbm",
        name=f"mask on {basis}",
        random="random features",
        title="Differential binary masking",
        question=f"Which of the {basis} hold the variable, so that interchanging them changes the answer as it should?",
        limits="It does not show a variable that lies across the features of the basis: a mask can only take or leave each.",
        fit=fit,
        rival=rival,
    )
    return search(lm, find_task(task, lm), one, Where(variable, positions, layers, to), {"basis": basis, "steps": steps}, seed)


def _basis(name: str) -> Basis:
    if name == "neurons":
        return _neurons
    if name == "pca":
        return lambda alignment, address: pca(alignment.states(address))
    stored = load(name)
    return lambda alignment, address: stored


def _neurons(alignment: Alignment, address: Address) -> Featurizer:
    width = alignment.width(address)
    return Neurons(size=width, which=torch.arange(width))
