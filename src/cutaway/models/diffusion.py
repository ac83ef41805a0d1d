"""A diffusion model with its sampler: every step is a forward that can be watched, changed, stopped, and gone on with.

    dm = DiffusionModel(unet, DDIMScheduler())
    with torch.no_grad(), dm.sample({"class_labels": labels}, seeds=[0, 1, 2], steps=20) as run:
        for step in run.steps:
            dm.x0 = dm.x0.clamp(-1, 1)
            h = dm.down[1].output
    images = run.output

Every sample has a generator of its own, so a sample depends on its seed and conditions and not on what else is in the batch, and runs
with and without an edit share their noise.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from cutaway.address import Address
from cutaway.engine.interleave import Trace
from cutaway.engine.model import Model
from cutaway.engine.passes import Readings, editing
from cutaway.engine.place import Intervention, parsed
from cutaway.engine.site import EVENTS, Callback, Site, attached
from cutaway.engine.stack import Stack
from cutaway.errors import AddressError, InputError, OutOfOrderError
from cutaway.models import opening
from cutaway.models.any_module import dotted
from cutaway.models.denoising import SamplerState, Sampling, Step
from cutaway.models.guidance import Conditions, Guidance, classifier_free, unguided
from cutaway.models.schedule import Schedule

LATENT = ("batch", "channel", "y", "x")
POINTS = ("state", "latent", "prediction", "x0")
"""Points of a step besides those of the denoiser: a state is a `SamplerState`, the others are tensors (sample, channel, y, x)."""


@final
@dataclass(frozen=True, eq=False)
class Sampled:
    """output: the latent (sample, channel, y, x) after the last step run; of a model that works on pixels, the images. state: where the run stands.

    readings: address -> values (step, ...), one for every step that was read.
    """

    output: Tensor
    state: SamplerState
    readings: Readings


@final
class DiffusionModel(Model):
    """`with dm.sample(...) as run:` and `dm.generate(...)` run a sampler; `dm.run(state)`, `dm.trace(state)`, `dm.gradients(state, ...)` one step.

    denoiser: takes (latent, timestep, **conditions) to a prediction, as the UNets and DiTs of diffusers do; a prediction of twice the latent's
    channels holds a learned variance, which is left out. scheduler: one of diffusers; it is copied for every run. shape: (channel, y, x) of a
    latent, if the denoiser's config does not say. branches: the names a guidance may use.

    Points are those of the denoiser (`down[1].output`, or a path of its own), `state`, `latent`, `prediction` and `x0`. The denoiser runs all
    branches of a guidance in one batch, one branch after another; `cond.` before a point shows the rows of that branch, and
    `cond.prediction` what it predicts. A changed x0 changes the prediction that the scheduler is given; the scheduler may still clip it.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        scheduler: Any,
        name: str = "",
        *,
        shape: Sequence[int] | None = None,
        branches: tuple[str, ...] = ("cond", "uncond"),
    ) -> None:
        # before the rest: with names of parts to look up, setting an attribute asks for these
        self._step, self._parts, self.branches = Step(denoiser), opening.open(denoiser), branches
        super().__init__(self._step, name or type(denoiser).__name__)
        self.scheduler, self.shape = scheduler, tuple(shape) if shape is not None else _shape(denoiser)

    # Sampling

    def start(self, seeds: Sequence[int], steps: int = 50) -> SamplerState:
        """The state before the first step: noise, one sample per seed. Put another latent or index into it to start elsewhere."""
        if not seeds:
            raise InputError("Sample from no seeds.", works="seeds=[0, 1, 2]: one sample each")
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        like, schedule = self._like, Schedule(self.scheduler, steps, self._like.device, {})
        noise = torch.stack([torch.randn(self.shape, generator=generator) for generator in generators])
        latent = (noise * schedule.initial).to(like.device, like.dtype)
        return SamplerState(latent, 0, steps, tuple(generator.get_state() for generator in generators), schedule.name)

    def sample(
        self,
        conditions: Conditions | Guidance | None = None,
        *,
        seeds: Sequence[int] = (),
        start: SamplerState | None = None,
        steps: int = 50,
        stop: int | None = None,
        guidance: float = 1.0,
        unconditional: Conditions | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Trace:
        """Open a run of the sampler: `run.steps` goes through its steps, `run.output` is the last latent (sample, channel, y, x).

        conditions: what the denoiser takes besides latent and timestep, or a `Guidance`. seeds: one sample each, unless `start` is given, a
        state to go on from. stop: the step before which to end. guidance: with `unconditional`, the scale of classifier-free guidance.
        options: of the scheduler's step, such as {"eta": 1.0}. Gradients are kept as torch is told; a run of many steps wants torch.no_grad().
        """
        how: dict[str, Any] = {"guidance": guidance, "unconditional": unconditional, "options": options}
        state = self._state(seeds, start, steps)
        run = self._sampling(state, conditions, **how)
        return Trace(self, partial(self._drive, state.latent, range(state.index, self._end(run, stop)), run), driven=True)

    def generate(
        self,
        conditions: Conditions | Guidance | None = None,
        *,
        edits: Sequence[Intervention] = (),
        read: Sequence[Address | str] = (),
        during: Container[int] | None = None,
        seeds: Sequence[int] = (),
        start: SamplerState | None = None,
        **how: Any,
    ) -> Sampled:
        """Run the sampler without a body and without gradients, with `edits` made and `read` kept in the steps `during` (all, if not given).

        how: steps, stop, guidance, unconditional and options, as `sample` takes them. Raises OutOfOrderError for a point that no step reached.
        """
        stop = how.pop("stop", None)
        state = self._state(seeds, start, how.pop("steps", 50))
        run = self._sampling(state, conditions, **how)
        made: set[Address] = set()
        values: dict[Address, list[Any]] = {Address.parse(address): [] for address in read}
        callbacks = [*editing(self, (state,), edits, made), *self._keeping(values)]
        latent, end = state.latent, self._end(run, stop)
        with torch.no_grad():
            for index in range(state.index, end):
                with attached(callbacks if during is None or index in during else ()):
                    latent = self._drive(latent, [index], run)
        missed = [a for a in values if not values[a]] + [a for a, _ in parsed(edits) if a not in made]
        if missed:
            works = "a point of the denoiser, steps that are run, a scheduler whose x0 is known"
            raise OutOfOrderError(
                f"Read or edit {', '.join(map(str, missed))}.", f"steps {state.index} to {end - 1}, which never reach it", works
            )
        stacked = {a: torch.stack(v) if isinstance(v[0], Tensor) else v for a, v in values.items()}
        return Sampled(latent, run.state(latent, max(end, state.index)), Readings(stacked, latent))

    # One step

    def arguments(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if len(inputs) != 1 or not isinstance(inputs[0], SamplerState):
            found = ", ".join(type(x).__name__ for x in inputs) or "nothing"
            raise InputError(f"Run one step of {self.name}.", found, "a state, such as dm.start(seeds=[0]); dm.sample(...) runs all steps")
        state = inputs[0].to(self._like.device)
        run = replace(self._sampling(state, **options), repeatable=True)
        self._end(run, state.index + 1)
        return (state.latent, state.index, run), {}

    def sweep(self, *inputs: Any, edits: Sequence[Sequence[Intervention]], base: Sequence[Intervention] = (), **options: Any) -> Tensor:
        """As `Model.sweep`, over one step. With several branches every address must say which. Raises AddressError."""
        state = self.prepare(inputs)[0]
        several = self.arguments((state,), {k: v for k, v in options.items() if k not in _SWEEPING})[0][2].guidance.branches
        for address, _ in parsed([one for group in (*edits, base) for one in group]):
            if len(several) > 1 and address.point not in POINTS and address.point.partition(".")[0] not in self.branches:
                works = " or ".join(f"{name}.{address}" for name in several)
                raise AddressError(f"Sweep over {address}.", f"{len(several)} branches, whose rows lie one after another there", works)
        return super().sweep(*inputs, edits=edits, base=base, **options)

    def locate(self, point: str) -> Site | None:
        if point in POINTS:
            return Site(point, self.module, "", point, dims=() if point == "state" else LATENT)
        head, _, rest = point.partition(".")
        if head not in self.branches:
            return self._inside(point, point)
        if rest == "prediction":
            return Site(point, self.module, "", point, dims=LATENT)
        site = self._inside(point, rest)
        return None if site is None else replace(site, view=site.view.then(self._step.branch(head)))

    def below(self, path: str) -> Iterable[str]:
        head, _, rest = path.partition(".")
        if not path:
            return [*POINTS, *self.branches, *self._parts.below("")]
        return ["prediction", *self._parts.below(rest)] if head in self.branches else self._parts.below(path)

    def native(self, path: str) -> str:
        head, _, rest = path.partition(".")
        if head in (*self.branches, "denoiser"):
            return dotted(f"denoiser.{self._parts.native(rest)}" if rest else "denoiser")
        return dotted(f"denoiser.{self._parts.native(path)}") if path else ""

    def positions(self, address: Address, inputs: tuple[Any, ...]) -> Tensor | None:
        return self._parts.positions(address, inputs)

    def last(self, output: Any) -> Tensor:
        assert isinstance(output, Tensor)
        return output

    def points(self) -> tuple[str, ...]:
        """Every standard point of a step: those of the sampler, and those of the denoiser."""
        return (*POINTS, *getattr(self._parts, "points", tuple)())

    @property
    def stack(self) -> Stack | None:
        return None

    @property
    def _like(self) -> Tensor:
        """A tensor of the denoiser's device and dtype."""
        return next(self.module.parameters(), torch.zeros(()))

    def _inside(self, name: str, point: str) -> Site | None:
        site = None if point in EVENTS else self._parts.find(point)
        return None if site is None else replace(site, name=name, path=f"denoiser.{site.path}".rstrip("."))

    def _state(self, seeds: Sequence[int], start: SamplerState | None, steps: int) -> SamplerState:
        if start is not None and seeds:
            raise InputError("Sample from seeds and from a state.", works="seeds=[...] or start=state: a state has its generators with it")
        return self.start(seeds, steps) if start is None else start.to(self._like.device)

    def _sampling(
        self,
        state: SamplerState,
        conditions: Conditions | Guidance | None = None,
        guidance: float = 1.0,
        unconditional: Conditions | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Sampling:
        schedule = Schedule(self.scheduler, state.steps, state.latent.device, options or {})
        if state.memory and state.scheduler != schedule.name:
            works = "dataclasses.replace(state, memory={}), which takes the next step as a first one"
            raise InputError(f"Go on with a {schedule.name}.", f"a state that holds what a {state.scheduler} remembers", works)
        schedule.continue_at(state.index, state.memory)
        return Sampling(schedule, self._guidance(conditions or {}, guidance, unconditional), state.drawing(), state.steps)

    def _guidance(self, conditions: Conditions | Guidance, scale: float, unconditional: Conditions | None) -> Guidance:
        if isinstance(conditions, Guidance):
            if scale != 1.0 or unconditional is not None:
                raise InputError("Sample by a Guidance and a scale.", works="one of them: the Guidance says how its branches are composed")
            unknown = [name for name in conditions.branches if name not in self.branches]
            if unknown:
                works = f"{', '.join(self.branches)}; or DiffusionModel(..., branches={tuple(conditions.branches)})"
                raise InputError(f"Branches {', '.join(unknown)}.", "names this model was not opened with", works)
            return conditions
        if unconditional is not None:
            return classifier_free(conditions, unconditional, scale)
        if scale != 1.0:
            raise InputError(
                f"Guidance {scale} without unconditional conditions.", works="unconditional=..., such as an empty text's embedding"
            )
        return unguided(conditions)

    def _end(self, run: Sampling, stop: int | None) -> int:
        end = len(run.schedule) if stop is None else stop
        if not 0 <= end <= len(run.schedule):
            raise InputError(f"Run to step {end}.", f"{len(run.schedule)} steps", f"0 to {len(run.schedule)}")
        return end

    def _drive(self, latent: Tensor, indices: Iterable[int], run: Sampling) -> Tensor:
        for index in indices:
            latent = self.module(latent, index, run)
            self.ran(latent.shape[0] * len(run.guidance.branches))
        return latent

    def _keeping(self, values: dict[Address, list[Any]]) -> list[tuple[Site, Callback]]:
        def callback(address: Address) -> tuple[Site, Callback]:
            place = self.place(address, ())

            def keep(raw: Any) -> None:
                value = place.site.view.read(raw)
                values[address].append(place.read(value).clone() if isinstance(value, Tensor) else value)

            return place.site, keep

        return [callback(address) for address in values]


_SWEEPING = ("metric", "budget", "progress")


def _shape(denoiser: nn.Module) -> tuple[int, ...]:
    config: Any = getattr(denoiser, "config", None)
    channels, size = getattr(config, "in_channels", None), getattr(config, "sample_size", None)
    if channels is None or size is None:
        raise InputError(
            f"Sample from a {type(denoiser).__name__}.", "no config that says in_channels and sample_size", "shape=(channel, y, x)"
        )
    return (int(channels), *((size, size) if isinstance(size, int) else size))
