"""Interchanges of one variable, ready to run: what aligning a variable with a place of a model needs, whatever the basis."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cutaway.address import Address
from cutaway.engine.place import Edit
from cutaway.engine.resuming import Suffix
from cutaway.errors import InputError, NumericError, PromptError, StorageError
from cutaway.mediators.featurizers.base import Featurizer, Learner, exists, load
from cutaway.mediators.interchange import interchange
from cutaway.models.language import LanguageModel
from cutaway.models.prompt import Prompt
from cutaway.tasks.base import Task
from cutaway.tasks.behaviour import interchanges

UNIT = "interchange accuracy"
_BATCH = 32
_RATE, _LAST_RATE = 1e-2, 1e-3
_WINDOW, _PATIENCE, _SOLVED = 10, 3, 1e-2
"""Training ends where the mean loss of a window of steps is below _SOLVED, or the best was _PATIENCE windows ago."""


@final
@dataclass(frozen=True)
class Swapped:
    """One interchange: prompts of both runs, and the token that the base is to be followed by when the variable is the source's."""

    base: Prompt
    source: Prompt
    answer: int


@final
@dataclass(frozen=True)
class Examples:
    """Interchanges, those trained on first: `training` and `held_out` are their numbers."""

    swapped: tuple[Swapped, ...]
    n_training: int

    @property
    def training(self) -> Tensor:
        """To train on, and to choose a place by."""
        return torch.arange(self.n_training)

    @property
    def held_out(self) -> Tensor:
        """To judge by."""
        return torch.arange(self.n_training, len(self.swapped))


def examples(lm: LanguageModel, task: Task, variable: str | None, seed: int) -> Examples:
    """As many interchanges as the task has pairs, each once, half of them held out.

    variable: one of the task's causal model; None: all that tells the two sides of a pair apart, interchanged both ways; the two ways of one
    pair stay on one side. Only examples that the model knows, unless the task was made with known=False. Raises InputError for a task without a
    causal model, PromptError for fewer than two examples.
    """
    groups: list[list[Swapped]]
    if variable is None:
        groups = [
            [
                Swapped(pair.base, pair.counterfactual, lm.token_id(pair.foil)),
                Swapped(pair.counterfactual, pair.base, lm.token_id(pair.answer)),
            ]
            for pair in {(p.base.text, p.counterfactual.text): p for p in task.pairs}.values()
        ]
    else:
        known = bool(task.arguments.get("known", True))
        found = interchanges(task, lm, variable, n=len(task), seed=seed, known=known)
        once = {(one.base.text, one.source.text): one for one in found}
        groups = [[Swapped(one.base, one.source, lm.token_id(one.answer))] for one in once.values()]
    if len(groups) < 2:
        raise PromptError(f"Train on one half of {task}, and judge by the other.", f"{len(groups)} different example", "two or more")
    random.Random(seed).shuffle(groups)
    half = len(groups) // 2
    return Examples(tuple(one for group in groups for one in group), sum(map(len, groups[:half])))


@final
class Alignment:
    """The base runs up to the places at one position, and what the sources have there.

    addresses: of the same position, in the layers asked for.
    """

    def __init__(self, lm: LanguageModel, every: Examples, addresses: Sequence[Address]) -> None:
        self.every = every
        self._suffix = Suffix(lm, [one.base for one in every.swapped], at=addresses)
        sources = lm.cache([one.source for one in every.swapped], addresses, batch=_BATCH)
        self._sources = {address: sources.stacked(address) for address in addresses}
        self.answers = torch.tensor([one.answer for one in every.swapped])

    def width(self, address: Address) -> int:
        """The length of the activations at a place."""
        return int(self._sources[address].shape[-1])

    def states(self, address: Address) -> Tensor:
        """What the sources that are trained on have there, (rows, width): what an unsupervised basis is fitted to."""
        return self._sources[address][: self.every.n_training].flatten(0, -2)

    def right(self, address: Address, basis: Featurizer | None, rows: Tensor, order: Tensor | None = None) -> np.ndarray:
        """1 where the base is followed by the answer when it has the source's features, else 0, (rows,).

        order: the sources that are taken instead of these rows' own.
        """
        found = []
        with torch.no_grad():
            for part, taken in zip(rows.split(_BATCH), (rows if order is None else order).split(_BATCH), strict=True):
                logits = self._suffix([(address, interchange(self._sources[address][taken], basis))], part)
                found.append((logits.argmax(-1).cpu() == self.answers[part]).double())
        return torch.cat(found).numpy()

    def untouched(self, rows: Tensor) -> np.ndarray:
        """1 where the base is followed by the answer although nothing is done to it: what an interchange of nothing scores."""
        with torch.no_grad():
            logits = torch.cat([self._suffix((), part) for part in rows.split(_BATCH)])
        return (logits.argmax(-1).cpu() == self.answers[rows]).double().numpy()

    def train(
        self, address: Address, learner: Learner, steps: int, generator: torch.Generator, answers: Tensor | None = None
    ) -> Featurizer:
        """Move the learner so that the training examples are followed by their answers (cross-entropy); returns what it came to.

        answers: others to train on, one an example. `about["steps taken"]`: fewer than `steps` where it was solved, or got no better.
        Raises NumericError for a loss that is not finite.
        """
        wanted = self.answers if answers is None else answers
        optimizer = torch.optim.Adam(list(learner.parameters), lr=_RATE)
        batches = _batches(self.every.n_training, generator)
        losses: list[float] = []
        for step in range(steps):
            done = step / max(steps - 1, 1)
            rows = next(batches)
            for group in optimizer.param_groups:
                group["lr"] = _RATE + done * (_LAST_RATE - _RATE)
            with torch.enable_grad():
                logits = self._suffix([(address, _taking(learner, self._sources[address][rows], done))], rows)
                loss = cross_entropy(logits.float(), wanted[rows].to(logits.device))
                # the model's own weights are left without gradients
                slopes = torch.autograd.grad(loss + learner.penalty(), list(learner.parameters))
            for parameter, slope in zip(learner.parameters, slopes, strict=True):
                parameter.grad = slope
            optimizer.step()
            losses.append(float(loss.detach()))
            if not np.isfinite(losses[-1]):
                raise NumericError(f"Train at {address}.", f"a loss of {losses[-1]} at step {step}", "a model in float32 (dtype='float32')")
            if not learner.anneals and _settled(losses):
                break
        return learner.learned().told(**{"steps taken": len(losses)})


@final
class Store:
    """A folder of trained bases, one a place, where a training that was interrupted goes on; None keeps nothing.

    about: what a basis must have been trained by to be taken from there.
    """

    def __init__(self, folder: str | None, about: Mapping[str, Any]) -> None:
        self._folder, self._about = folder, about

    def found_or(self, address: Address, make: Callable[[], Featurizer]) -> Featurizer:
        """The basis of a place. Raises StorageError where the folder has one that was trained otherwise."""
        about = {**self._about, "at": str(address)}
        if self._folder is None:
            return make().told(**about)
        path = Path(self._folder) / f"{address.point.replace('[', '-').replace(']', '')}-{address.pos}"
        if exists(path):
            stored = load(path)
            if any(stored.about.get(name) != value for name, value in about.items()):
                raise StorageError(f"Go on training in {self._folder}.", f"{path.name}, trained otherwise", "another folder")
            return stored
        made = make().told(**about)
        made.save(path)
        return made


def places(lm: LanguageModel, positions: Sequence[str], layers: Sequence[int]) -> list[list[Address]]:
    """The residual stream after each layer, for each position; no layers: all. Raises InputError for a layer that is not there."""
    n = lm.sizes.n_layers
    if not positions or not all(0 <= layer < n for layer in layers):
        raise InputError(f"positions={tuple(positions)}, layers={tuple(layers)}.", works=f"one position or more, layers from 0 to {n - 1}")
    return [[Address(f"layers[{layer}].output", pos=position(pos)) for layer in layers or range(n)] for pos in positions]


def shuffled(n: int, generator: torch.Generator) -> Tensor:
    """A random order of n in which nothing keeps its place, for n > 1: a random circle."""
    order = torch.randperm(n, generator=generator)
    out = torch.empty(n, dtype=torch.long)
    out[order] = order.roll(1)
    return out


def position(text: str) -> int | str:
    """A position as an option says it: a role, a whole number, `last`."""
    return int(text) if text.lstrip("-").isdigit() else text


def _taking(learner: Learner, source: Tensor, done: float) -> Edit:
    return lambda base: learner.interchanged(base, source.to(base.device), done)


def _batches(n: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        order = torch.randperm(n, generator=generator)
        yield from order.split(_BATCH)


def _settled(losses: list[float]) -> bool:
    if len(losses) % _WINDOW:
        return False
    means = np.reshape(losses, (-1, _WINDOW)).mean(1)
    return bool(means[-1] < _SOLVED or len(means) - 1 - means.argmin() >= _PATIENCE)
