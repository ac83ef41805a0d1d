"""What every search for the features that carry a variable does around its training: places, baselines, held-out accuracy, controls, a grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from cutaway.address import Address
from cutaway.errors import InputError
from cutaway.mediators.featurizers.base import Featurizer
from cutaway.mediators.featurizers.rotation import drawn, orthonormal
from cutaway.mediators.featurizers.subspace import Subspace
from cutaway.methods.base import Started
from cutaway.methods.locate._alignment import UNIT, Alignment, Store, examples, places, shuffled
from cutaway.metrics.bootstrap import bootstrap, bounds, spread
from cutaway.models.language import LanguageModel
from cutaway.progress import progress
from cutaway.results.base import Control
from cutaway.results.grid import Grid
from cutaway.tasks.base import Task

_DRAWS = 10

Fit = Callable[[Alignment, Address, torch.Generator, Tensor | None], Featurizer]
"""Trains features at a place, from a generator that starts with the seed; on other answers than the examples', where some are given."""

Rival = Callable[[Alignment, Address, Featurizer, torch.Generator], Featurizer]
"""As many features as were found at a place, picked at random."""


@final
@dataclass(frozen=True)
class Search:
    """method: its name in the registry. name: of what it finds, in the panel. random: of the rival."""

    method: str
    name: str
    random: str
    title: str
    question: str
    limits: str
    fit: Fit
    rival: Rival


@final
@dataclass(frozen=True)
class Where:
    """Which variable is looked for, and at which places; to: the folder that keeps what was trained."""

    variable: str | None
    positions: tuple[str, ...]
    layers: tuple[int, ...]
    to: str | None


@final
@dataclass(frozen=True)
class _Cell:
    """One place: what was found there, and 1 or 0 for each example that is judged."""

    alignment: Alignment
    address: Address
    basis: Featurizer
    in_training: float
    found: np.ndarray
    full: np.ndarray
    random: np.ndarray


def search(lm: LanguageModel, task: Task, one: Search, where: Where, trained: Mapping[str, Any], seed: int) -> Grid:
    """Train at every place and judge by the held-out half. trained: the method's other options."""
    arguments = {"variable": where.variable, "positions": where.positions, "layers": where.layers, **trained, "to": where.to}
    started = Started(lm, one.method, task, seed, arguments)
    at = places(lm, where.positions, where.layers)
    every = examples(lm, task, where.variable, seed)
    about = {"method": one.method, "model": lm.name, "revision": lm.revision, "task": str(task), "variable": where.variable, "seed": seed}
    store = Store(where.to, {**about, **trained})
    cells: list[_Cell] = []
    with progress(one.title, sum(map(len, at))) as done:
        for row in at:
            alignment = Alignment(lm, every, row)
            for address in row:
                cells.append(_cell(alignment, address, one, store, seed))
                done(1)
    best = max(cells, key=lambda cell: cell.in_training)
    values, low, high = bounds(np.stack([[cell.found, cell.full, cell.random] for cell in cells], axis=-1).transpose(1, 0, 2), seed=seed)
    shape = (3, len(where.positions), len(at[0]))
    untouched = best.alignment.untouched(every.held_out)
    controls = _controls(best, one, untouched, seed)  # before the provenance, which counts what they cost
    return Grid(
        title=one.title,
        question=one.question,
        limits=one.limits,
        provenance=started.provenance(),
        controls=controls,
        numbers={
            "interchanges trained on": every.n_training,
            "held out": len(every.held_out),
            "without an interchange": float(untouched.mean()),
        },
        row_axis="position",
        column_axis="layer",
        rows=where.positions,
        columns=tuple(str(address.layer) for address in at[0]),
        panels=(one.name, "full vector", one.random),
        values=values.reshape(shape),
        low=low.reshape(shape),
        high=high.reshape(shape),
        cells=_texts(cells, values.reshape(shape)),
        unit=UNIT,
    )


def random_directions(alignment: Alignment, address: Address, like: Featurizer, generator: torch.Generator) -> Featurizer:
    """As many random orthonormal directions; where that is none, none."""
    directions = orthonormal(drawn(like.width, max(like.n, 1), generator))
    return Subspace(directions=directions[:, : like.n])


def check_steps(steps: int) -> None:
    """Raises InputError for a training of no steps."""
    if steps < 1:
        raise InputError(f"steps={steps}.", works="one step or more")


def _cell(alignment: Alignment, address: Address, one: Search, store: Store, seed: int) -> _Cell:
    held_out, training = alignment.every.held_out, alignment.every.training
    basis = store.found_or(address, lambda: one.fit(alignment, address, _generator(seed), None))
    return _Cell(
        alignment,
        address,
        basis,
        float(alignment.right(address, basis, training).mean()),
        alignment.right(address, basis, held_out),
        alignment.right(address, None, held_out),
        alignment.right(address, one.rival(alignment, address, basis, _generator(seed)), held_out),
    )


def _controls(best: _Cell, one: Search, untouched: np.ndarray, seed: int) -> tuple[Control, ...]:
    """At the place that did best in training: random features, features trained for nothing, nothing at all."""
    alignment, address, rows = best.alignment, best.address, best.alignment.every.held_out
    generator = _generator(seed)
    drawn = [alignment.right(address, one.rival(alignment, address, best.basis, generator), rows).mean() for _ in range(_DRAWS)]
    answers = alignment.answers.clone()
    answers[: alignment.every.n_training] = answers[shuffled(alignment.every.n_training, generator)]
    aimless = one.fit(alignment, address, _generator(seed), answers)
    found, there = bootstrap(best.found, seed=seed), f"at {address}, the best in training"
    return (
        Control(one.random, f"As many features, picked at random, {there} (range of draws).", UNIT, found, spread(np.array(drawn))),
        Control(
            "trained on shuffled answers",
            f"The same training with each example's answer taken from another, {there}.",
            UNIT,
            found,
            bootstrap(alignment.right(address, aimless, rows), seed=seed),
        ),
        Control("no interchange", f"The base as it is, {there}.", UNIT, found, bootstrap(untouched, seed=seed)),
    )


def _texts(cells: Sequence[_Cell], values: np.ndarray) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """The number of features beside each accuracy."""
    n_columns = values.shape[2]
    sizes = np.array([(cell.basis.n, cell.basis.width, cell.basis.n) for cell in cells]).T.reshape(values.shape)
    return tuple(
        tuple(tuple(f"{values[p, r, c]:.2f}/{sizes[p, r, c]}" for c in range(n_columns)) for r in range(values.shape[1])) for p in range(3)
    )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
