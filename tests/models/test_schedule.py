"""What a prediction says about the clean sample, for every scheduler whose levels are known; options, copies and random numbers."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from cutaway.errors import InputError
from cutaway.models.schedule import _LEVELS, Schedule, clean, predicting

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own, with numpy 2
CPU = torch.device("cpu")
KINDS = ("epsilon", "v_prediction", "sample")


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def schedule(name: str, steps: int = 8, **options: Any) -> Schedule:
    return Schedule(getattr(diffusers, name)(**options), steps, CPU, {})


@pytest.mark.parametrize("name", _LEVELS)
def test_the_true_prediction_gives_the_clean_sample(name: str) -> None:
    """Noise is added by the scheduler itself; the true noise, velocity or sample says what was noised."""
    own = schedule(name)
    x0, noise = drawn(0, 2, 3, 4, 4), drawn(1, 2, 3, 4, 4)
    for index in (0, 3, len(own) - 2):
        level = own.level(index)
        assert level is not None
        alpha, sigma = level
        t = own.timesteps[index][None]
        add = own._scheduler.scale_noise if name.startswith("Flow") else own._scheduler.add_noise
        latent = add(x0, t, noise) if name.startswith("Flow") else add(x0, noise, t.expand(2))
        torch.testing.assert_close(latent, alpha * x0 + sigma * noise, rtol=1e-4, atol=1e-4)
        scale = (alpha**2 + sigma**2) ** 0.5
        true = {"epsilon": noise, "v_prediction": (alpha * noise - sigma * x0) / scale, "sample": x0, "flow_prediction": noise - x0}
        for kind in KINDS if name[:4] != "Flow" else ("flow_prediction",):
            exact = alpha * x0 + sigma * noise
            torch.testing.assert_close(clean(true[kind], exact, level, kind), x0, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(predicting(x0, exact, level, kind), true[kind], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("predicts", KINDS)
@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"])
def test_agrees_with_the_scheduler(name: str, predicts: str) -> None:
    if name.startswith("Euler") and predicts == "sample":
        return  # these do not take it
    options = {} if name.startswith("Euler") else {"clip_sample": False}
    own = schedule(name, prediction_type=predicts, **options)
    latent, prediction = drawn(2, 1, 3, 4, 4), drawn(3, 1, 3, 4, 4)
    own.scaled(latent, 0)
    theirs = own._scheduler.step(prediction, own.timesteps[0], latent, generator=torch.Generator())
    level = own.level(0)
    assert own.predicts == predicts and level is not None
    ours = clean(prediction, latent, level, predicts)
    torch.testing.assert_close(ours, theirs.pred_original_sample.double(), rtol=1e-5, atol=1e-4)


def test_the_callers_scheduler_stays_as_it_is() -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler()
    before = dict(vars(scheduler))
    own = Schedule(scheduler, 4, CPU, {})
    own.step(drawn(0, 1, 2), drawn(1, 1, 2), 0, [torch.Generator()])
    assert own.memory().keys() >= {"model_outputs", "lower_order_nums", "_step_index"}
    assert all(vars(scheduler)[name] is value for name, value in before.items())


def test_unknown_scheduler_has_no_level() -> None:
    class Own(diffusers.DDIMScheduler):
        pass

    class Other:
        config = type("Config", (), {"get": staticmethod(lambda name, default: default)})
        timesteps = (torch.tensor(3),)

        def set_timesteps(self, steps: int, device: torch.device) -> None: ...

        def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool = True) -> tuple[Tensor]:
            return (sample + torch.randn(sample.shape),)

    assert Schedule(Own(), 4, CPU, {}).level(0) == schedule("DDIMScheduler", 4).level(0)
    other = Schedule(Other(), 1, CPU, {})
    assert other.level(0) is None
    before = torch.get_rng_state()
    with pytest.raises(InputError, match="global random numbers"):
        other.step(torch.zeros(1), torch.zeros(1), 0, [])
    assert torch.equal(torch.get_rng_state(), before)


def test_options_of_the_step() -> None:
    with pytest.raises(InputError, match="Give etta to a DDIMScheduler"):
        Schedule(diffusers.DDIMScheduler(), 4, CPU, {"etta": 1.0})
    plain, noisy = (Schedule(diffusers.DDIMScheduler(), 4, CPU, {"eta": eta}) for eta in (0.0, 1.0))
    x, p, g = drawn(0, 1, 2), drawn(1, 1, 2), [torch.Generator()]
    assert not torch.equal(plain.step(p, x, 1, g), noisy.step(p, x, 1, g))


def test_learned_variance_is_refused() -> None:
    with pytest.raises(InputError, match="learned_range"):
        schedule("DDPMScheduler", variance_type="learned_range")


def test_what_cannot_be_stored_is_refused() -> None:
    own = schedule("DDIMScheduler")
    own._scheduler.secret = object()
    with pytest.raises(InputError, match="remembers secret, a object"):
        own.memory()


def test_unknown_kind_of_prediction() -> None:
    with pytest.raises(InputError, match="prediction_type='score'"):
        clean(torch.zeros(1), torch.zeros(1), (1.0, 1.0), "score")
