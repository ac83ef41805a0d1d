"""The noise schedule of one sampling run: which steps there are, how noisy a latent is at each, what a prediction says about the clean sample.

A latent is x = α·x0 + σ·ε. Which α and σ belong to a step, and what the denoiser predicts, differ between schedulers; with them the
predicted clean sample is a closed form (Ho et al. 2020, arXiv:2006.11239; Salimans & Ho 2022, arXiv:2202.00512 for v):

    epsilon   x0 = (x − σ·ε) / α
    v         x0 = (α·x/s − σ·v) / s,  s² = α² + σ²  (s is 1 where the variance is preserved)
    sample    x0 is the prediction itself
    flow      x0 = x − σ·u, for x = (1 − σ)·x0 + σ·ε and u = ε − x0
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from cutaway.engine.stack import repeated
from cutaway.errors import InputError

Level = tuple[float, float]
"""α and σ."""


def _preserving(scheduler: Any, index: int) -> Level:
    kept = float(scheduler.alphas_cumprod[int(scheduler.timesteps[index])])
    return kept**0.5, (1 - kept) ** 0.5


def _exploding(scheduler: Any, index: int) -> Level:
    return 1.0, float(scheduler.sigmas[index])


def _flowing(scheduler: Any, index: int) -> Level:
    sigma = float(scheduler.sigmas[index])
    return 1 - sigma, sigma


def _solving(scheduler: Any, index: int) -> Level:
    if scheduler.config.get("use_flow_sigmas"):
        return _flowing(scheduler, index)
    sigma = float(scheduler.sigmas[index])
    alpha = (1 + sigma**2) ** -0.5
    return alpha, sigma * alpha


_LEVELS: Mapping[str, Callable[[Any, int], Level]] = {
    **dict.fromkeys(("DDPMScheduler", "DDIMScheduler", "LCMScheduler", "TCDScheduler", "PNDMScheduler"), _preserving),
    **dict.fromkeys(("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler"), _exploding),
    **dict.fromkeys(
        ("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler"), _solving
    ),
    "FlowMatchEulerDiscreteScheduler": _flowing,
}
"""Class of diffusers -> the level of a step."""


@final
class Schedule:
    """A copy of a scheduler of diffusers with its timesteps set, so that runs share nothing and the caller's stays as it is.

    options: what the scheduler's `step` takes besides prediction, timestep and latent, such as eta. Raises InputError for another, and for a
    scheduler that wants a variance of the denoiser.
    """

    def __init__(self, scheduler: Any, steps: int, device: torch.device, options: Mapping[str, Any]) -> None:
        self._scheduler = copy.deepcopy(scheduler)
        self._scheduler.set_timesteps(steps, device=device)
        self.timesteps: Sequence[Tensor] = list(self._scheduler.timesteps)
        self.name = type(scheduler).__name__
        variance = scheduler.config.get("variance_type", None)
        if str(variance).startswith("learned"):
            raise InputError(
                f"Sample with a {self.name}.", f"variance_type={variance!r}", "variance_type='fixed_small', or a DDIMScheduler"
            )
        taken = set(inspect.signature(scheduler.step).parameters) - {"model_output", "timestep", "sample", "generator", "return_dict"}
        if unknown := set(options) - taken:
            raise InputError(f"Give {', '.join(sorted(unknown))} to a {self.name}.", works=", ".join(sorted(taken)) or "no options")
        self._options = dict(options)
        self._draws = "generator" in inspect.signature(scheduler.step).parameters
        self._fresh = _shallow(vars(self._scheduler))

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def initial(self) -> float:
        """The standard deviation of the noise that sampling starts from."""
        return float(getattr(self._scheduler, "init_noise_sigma", 1.0))

    @property
    def predicts(self) -> str:
        """What the denoiser predicts: epsilon, v_prediction, sample or flow_prediction."""
        return str(self._scheduler.config.get("prediction_type", "flow_prediction"))

    def scaled(self, latent: Tensor, index: int) -> Tensor:
        """The latent as the denoiser takes it."""
        scale = getattr(self._scheduler, "scale_model_input", None)
        return latent if scale is None else scale(latent, self.timesteps[index])

    def level(self, index: int) -> Level | None:
        """α and σ of the latent at a step; None for a scheduler whose levels are not known here."""
        kinds = (_LEVELS.get(kind.__name__) for kind in type(self._scheduler).__mro__)
        found = next((kind for kind in kinds if kind is not None), None)
        return None if found is None else found(self._scheduler, index)

    def step(self, prediction: Tensor, latent: Tensor, index: int, generators: Sequence[torch.Generator]) -> Tensor:
        """The next latent. Noise of sample i is drawn from generator i. Raises InputError for a scheduler that draws from the global one."""
        options = self._options | ({"generator": list(generators)} if self._draws else {})
        before = None if self._draws else torch.get_rng_state()
        new: Tensor = self._scheduler.step(prediction, self.timesteps[index], latent, return_dict=False, **options)[0]
        if before is not None and not torch.equal(before, torch.get_rng_state()):
            torch.set_rng_state(before)
            raise InputError(
                f"Sample with a {self.name}.",
                "a scheduler that draws from the global random numbers, so that a sample would depend on what ran before",
                "one whose step takes `generator`, such as DDPMScheduler",
            )
        return new

    # Stop and resume

    def memory(self) -> dict[str, Any]:
        """What the scheduler remembers of the steps so far: numbers, tensors, lists of them. Raises InputError if it is anything else."""
        changed = {name: value for name, value in _shallow(vars(self._scheduler)).items() if not _same(value, self._fresh.get(name))}
        for name, value in changed.items():
            if not all(isinstance(v, (int, float, str, Tensor, type(None))) for v in (value if isinstance(value, list) else [value])):
                found = f"it remembers {name}, a {type(value).__name__}"
                raise InputError(f"Stop a {self.name} to resume it later.", found, "another scheduler, or all steps in one run")
        return changed

    def again(self, times: int, samples: int) -> Schedule:
        """The same, standing where this one does, for a batch that holds the samples several times over."""
        other = copy.deepcopy(self)
        for name, value in self.memory().items():
            setattr(other._scheduler, name, repeated(value, times, samples))
        return other

    def continue_at(self, index: int, memory: Mapping[str, Any]) -> None:
        """Go on at a step, with what the scheduler remembered, or with nothing: then the step is taken as the first."""
        if not memory and hasattr(self._scheduler, "set_begin_index"):
            self._scheduler.set_begin_index(index)
        for name, value in _shallow(memory).items():
            setattr(self._scheduler, name, value)


def clean(prediction: Tensor, latent: Tensor, level: Level, predicts: str) -> Tensor:
    """The clean sample x0 that a prediction amounts to, before any clipping of the scheduler's own. Raises InputError for an unknown kind."""
    alpha, sigma = level
    scale = (alpha**2 + sigma**2) ** 0.5
    if predicts == "epsilon":
        return (latent - sigma * prediction) / alpha
    if predicts == "v_prediction":
        return (alpha / scale * latent - sigma * prediction) / scale
    if predicts == "flow_prediction":
        return latent - sigma * prediction
    return _sample(prediction, predicts)


def predicting(x0: Tensor, latent: Tensor, level: Level, predicts: str) -> Tensor:
    """The prediction that amounts to a clean sample: the inverse of `clean`."""
    alpha, sigma = level
    scale = (alpha**2 + sigma**2) ** 0.5
    if predicts == "epsilon":
        return (latent - alpha * x0) / sigma
    if predicts == "v_prediction":
        return (alpha / scale * latent - scale * x0) / sigma
    if predicts == "flow_prediction":
        return (latent - x0) / sigma
    return _sample(x0, predicts)


def _sample(value: Tensor, predicts: str) -> Tensor:
    if predicts != "sample":
        raise InputError(f"Predict x0 with prediction_type={predicts!r}.", works="epsilon, v_prediction, sample, flow_prediction")
    return value


def _shallow(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: [*value] if isinstance(value, list) else value for name, value in values.items()}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return one is other or (isinstance(one, (int, float, str)) and type(one) is type(other) and one == other)
