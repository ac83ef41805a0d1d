"""One step of a sampler as a module, and the state between two steps as plain data.

A step takes the latent to the next: the denoiser predicts under every condition of the guidance, in one batch; the predictions become one; it
says what the clean sample would be; the scheduler goes on. Values that are no module's output are taps of `Step`.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.engine.site import View, tap, tapped
from cutaway.errors import AddressError, InputError, StorageError
from cutaway.models.guidance import Guidance
from cutaway.models.schedule import Schedule, clean, predicting
from cutaway.results.base import write_atomically

FORMAT = 1
"""Version of a stored state."""


@final
@dataclass(frozen=True, eq=False)
class SamplerState:
    """Where a run of a sampler stands: before step `index` of `steps`. The next steps follow from it alone, the conditions apart.

    latent: (sample, channel, y, x), one row per sample. generators: one state per sample. memory: what the scheduler, a `scheduler`, remembers of
    the steps so far; empty to take the next step as a first one, with another scheduler for instance.
    """

    latent: Float[Tensor, "sample *shape"]
    index: int
    steps: int
    generators: tuple[Tensor, ...]
    scheduler: str
    memory: Mapping[str, Any] = field(default_factory=dict)

    def drawing(self) -> list[torch.Generator]:
        """The generators, one per sample, where they stand."""
        made = [torch.Generator() for _ in self.generators]
        for generator, state in zip(made, self.generators, strict=True):
            generator.set_state(state)
        return made

    def to(self, device: torch.device) -> SamplerState:
        """The same on another device; generators stay where they are, so that a sample is the same on every device."""
        return replace(self, latent=self.latent.to(device), memory=_moved(self.memory, device))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `path` (.json) and beside it the tensors (.safetensors); returns the JSON's path. Raises StorageError."""
        from safetensors.torch import save as serialize

        path = Path(path).with_suffix(".json")
        tensors: dict[str, Tensor] = {}
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        text = json.dumps({"cutaway": FORMAT, "kind": "sampler_state", "state": _packed(values, "", tensors)}, indent=1)
        write_atomically(path.with_suffix(".safetensors"), lambda temporary: temporary.write_bytes(serialize(tensors)))
        return write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SamplerState:
        """Read a stored state back. Raises StorageError."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = Path(path).with_suffix(".json")
        try:
            document = json.loads(path.read_text("utf-8"))
            form = document["cutaway"], document["kind"]
            values = _unpacked(document["state"], load_file(path.with_suffix(".safetensors")))
            found = cls(**(values | {"generators": tuple(values["generators"])}))
        except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
            raise StorageError(
                f"Read the sampler's state {path}.", f"{type(error).__name__}: {error}", "a .json written by save"
            ) from error
        if form != (FORMAT, "sampler_state"):
            raise StorageError(f"Read the sampler's state {path}.", f"a {form[1]} of format {form[0]}", "a .json written by save")
        return found


@final
@dataclass(frozen=True, eq=False)
class Sampling:
    """What stays the same over the steps of one run. repeatable: every call of a step finds schedule and generators as they are now, and a batch
    may hold the samples several times over, as a sweep does."""

    schedule: Schedule
    guidance: Guidance
    generators: Sequence[torch.Generator]
    steps: int
    repeatable: bool = False

    @property
    def samples(self) -> int:
        """How many are drawn."""
        return len(self.generators)

    def drawing(self, rows: int) -> tuple[Schedule, Sequence[torch.Generator]]:
        """Schedule and generators for a step of that many rows."""
        if not self.repeatable:
            return self.schedule, self.generators
        copies = rows // self.samples
        generators = [torch.Generator().set_state(generator.get_state()) for _ in range(copies) for generator in self.generators]
        return self.schedule.again(copies, self.samples), generators

    def state(self, latent: Tensor, index: int) -> SamplerState:
        """The run's state before a step."""
        drawn = tuple(generator.get_state() for generator in self.generators)
        return SamplerState(latent.detach().clone(), index, self.steps, drawn, self.schedule.name, self.schedule.memory())


@final
class Step(nn.Module):
    """Taps, in the order of a step: state, latent, `<branch>.prediction`, prediction, x0. A latent's axes are (sample, channel, y, x)."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser
        self._branches: dict[int, tuple[str, ...]] = {}

    def forward(self, latent: Tensor, index: int, run: Sampling) -> Tensor:
        """The latent after step `index`."""
        self._branches[threading.get_ident()] = tuple(run.guidance.branches)
        if tapped(self, "state"):
            tap(self, "state", run.state(latent, index))
        schedule, generators = run.drawing(latent.shape[0])
        latent = tap(self, "latent", latent)
        predictions = self._predictions(latent, schedule.scaled(latent, index), schedule.timesteps[index], run)
        prediction = tap(self, "prediction", run.guidance.compose(predictions, index))
        level = schedule.level(index)
        if level is not None and tapped(self, "x0"):
            prediction = self._through_x0(prediction, latent, level, schedule.predicts)
        return schedule.step(prediction, latent, index, generators)

    def branch(self, name: str) -> View:
        """The rows of one branch, of a value that has those of all, one branch after another. Raises AddressError for one that is not run."""

        def rows(raw: Tensor) -> slice:
            names = self._branches[threading.get_ident()]
            if name not in names:
                raise AddressError(f"Branch {name!r} of this run.", f"branches {', '.join(names)}", "a guidance with that branch")
            n = raw.shape[0] // len(names)
            return slice(names.index(name) * n, (names.index(name) + 1) * n)

        def write(raw: Tensor, new: Tensor) -> Tensor:
            at = rows(raw)
            return torch.cat([raw[: at.start], new, raw[at.stop :]])

        return View(lambda raw: raw[rows(raw)], write)

    def _predictions(self, latent: Tensor, scaled: Tensor, timestep: Tensor, run: Sampling) -> dict[str, Tensor]:
        branches = run.guidance.branches
        rows = latent.shape[0]
        given = [_rows(conditions, run.samples, rows, latent.device) for conditions in branches.values()]
        batch = torch.cat([scaled] * len(branches)) if len(branches) > 1 else scaled
        out = self.denoiser(batch, timestep.to(latent.device).expand(batch.shape[0]), **_joined(given))
        out = out if isinstance(out, Tensor) else out[0]
        if out.shape[1] == 2 * latent.shape[1]:  # the second half is a learned variance, which no scheduler here is given
            out = out[:, : latent.shape[1]]
        parts = zip(branches, out.split(rows), strict=True)
        return {name: tap(self, f"{name}.prediction", prediction) for name, prediction in parts}

    def _through_x0(self, prediction: Tensor, latent: Tensor, level: tuple[float, float], predicts: str) -> Tensor:
        """Offer x0; the prediction changes only if x0 was changed, so that looking changes nothing."""
        found = clean(prediction, latent, level, predicts)
        before = found.detach().clone()
        x0 = tap(self, "x0", found)
        if x0 is found and torch.equal(x0, before):
            return prediction
        return predicting(x0, latent, level, predicts)


def _rows(value: Any, samples: int, rows: int, device: torch.device) -> Any:
    """Conditions of one row, or of one per sample, for a batch of that many rows. Raises InputError."""
    if isinstance(value, Mapping):
        return {name: _rows(v, samples, rows, device) for name, v in value.items()}
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 0 or value.shape[0] not in (1, samples):
        raise InputError(f"A condition of shape {tuple(value.shape)}.", f"{samples} samples", "one row, or one per sample")
    return value.to(device).repeat(rows // value.shape[0], *([1] * (value.ndim - 1)))


def _joined(values: Sequence[Any]) -> Any:
    """The conditions of all branches as one batch. Raises InputError where their shapes differ."""
    if isinstance(values[0], Mapping):
        return {name: _joined([value[name] for value in values]) for name in values[0]}
    if not isinstance(values[0], Tensor):
        return values[0]
    shapes = {tuple(value.shape[1:]) for value in values}
    if len(shapes) > 1:
        raise InputError(
            "Run all branches in one batch.", f"conditions of shapes {', '.join(map(str, shapes))} a row", "texts padded alike"
        )
    return torch.cat(list(values))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):
        return {name: _moved(v, device) for name, v in value.items()}
    if isinstance(value, list):
        return [_moved(v, device) for v in value]
    return value.to(device) if isinstance(value, Tensor) else value


def _packed(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value.detach().clone(memory_format=torch.contiguous_format)  # safetensors refuses tensors that share memory
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"map": {name: _packed(v, f"{path}/{name}", tensors) for name, v in value.items()}}
    if isinstance(value, (list, tuple)):
        return [_packed(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
    return value


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    return tensors[value["tensor"]] if "tensor" in value else {name: _unpacked(v, tensors) for name, v in value["map"].items()}
