"""A sampler that is watched, changed, stopped and gone on with: against loops written by hand, and denoisers whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from cutaway.errors import AddressError, InputError, OutOfOrderError
from cutaway.mediators.add import add
from cutaway.models.denoising import SamplerState
from cutaway.models.diffusion import DiffusionModel
from cutaway.models.guidance import classifier_free, weighted

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own, with numpy 2
SCHEDULERS = (
    "DDIM",
    "DDPM",
    "EulerAncestralDiscrete",
    "DPMSolverMultistep",
    "UniPCMultistep",
    "PNDM",
    "HeunDiscrete",
    "LCM",
    "FlowMatchEulerDiscrete",
)
UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}


@cache
def denoiser(kind: str) -> nn.Module:
    """A tiny UNet with classes, UNet with cross attention, or DiT, with weights that matter, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module: nn.Module
        if kind == "unet":
            blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
            module = diffusers.UNet2DModel(**UNET, **blocks, num_class_embeds=5)
        elif kind == "cross":
            blocks = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
            module = diffusers.UNet2DConditionModel(**UNET, **blocks, cross_attention_dim=12)
        else:
            module = diffusers.DiTTransformer2DModel(2, 4, 3, 6, num_layers=3, sample_size=8, num_embeds_ada_norm=5, norm_num_groups=1)
            for weight in module.parameters():
                weight.data.normal_(0, 0.2)
    return module.double().eval()


def opened(kind: str = "unet", scheduler: str = "DDIM", **options: Any) -> DiffusionModel:
    if scheduler in ("DDIM", "DDPM", "LCM"):
        options = {"clip_sample": False} | options
    return DiffusionModel(denoiser(kind), getattr(diffusers, f"{scheduler}Scheduler")(**options))


LABELS = {"class_labels": torch.tensor([1, 2, 3])}
NONE = {"class_labels": torch.tensor([0])}


class Oracle(nn.Module):
    """Knows the clean sample, so it predicts the noise that is really there."""

    def __init__(self, x0: Tensor, scheduler: Any) -> None:
        super().__init__()
        self.x0, self.kept = nn.Parameter(x0, requires_grad=False), scheduler.alphas_cumprod.double()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        kept = self.kept[t.long()][:, None, None, None]
        return (x - kept.sqrt() * self.x0) / (1 - kept).sqrt()


# What is sampled


def test_is_the_loop_written_by_hand() -> None:
    dm, scheduler = opened(), diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(6)
    x = torch.stack([torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (4, 5, 6)]).double()
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(denoiser("unet")(x, t, **LABELS).sample, t, x).prev_sample
    made = dm.generate(LABELS, seeds=[4, 5, 6], steps=6)
    assert torch.equal(made.output, x) and made.state.index == 6
    assert dm.forwards == 18


@pytest.mark.parametrize("which", ["unet", "dit"])
def test_guidance_is_the_loop_written_by_hand(which: str) -> None:
    dm, scheduler = opened(which), diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(3)
    x = dm.start([4, 5, 6]).latent
    with torch.no_grad():
        for t in scheduler.timesteps:
            ts = t.expand(3)
            cond, uncond = (denoiser(which)(x, ts, class_labels=c).sample[:, :3] for c in (LABELS["class_labels"], torch.zeros(3).long()))
            x = scheduler.step(uncond + 2.5 * (cond - uncond), t, x).prev_sample
    made = dm.generate(LABELS, seeds=[4, 5, 6], steps=3, guidance=2.5, unconditional=NONE)
    torch.testing.assert_close(made.output, x, rtol=1e-9, atol=1e-9)
    same = dm.generate(weighted({"uncond": (-1.5, NONE), "cond": (2.5, LABELS)}), seeds=[4, 5, 6], steps=3)
    torch.testing.assert_close(same.output, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_sample_does_not_depend_on_its_batch(scheduler: str) -> None:
    dm = opened(scheduler=scheduler)
    together = dm.generate(LABELS, seeds=[7, 8, 9], steps=4).output
    for i, seed in enumerate((7, 8, 9)):
        alone = dm.generate({"class_labels": LABELS["class_labels"][i : i + 1]}, seeds=[seed], steps=4).output
        torch.testing.assert_close(together[i], alone[0], rtol=1e-7, atol=1e-7)
    assert not torch.allclose(together[0], together[1])
    torch.randn(5)  # the global random numbers play no part
    assert torch.equal(dm.generate(LABELS, seeds=[7, 8, 9], steps=4).output, together)


def test_noise_of_the_steps_is_each_samples_own() -> None:
    """The same seed twice in a batch is the same sample twice, also where every step adds noise."""
    dm = opened(scheduler="DDPM")
    made = dm.generate(NONE, seeds=[3, 4, 3], steps=4).output
    torch.testing.assert_close(made[0], made[2], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(made[0], made[1])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_true_noise_gives_the_clean_sample(eta: float) -> None:
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    x0 = torch.randn(1, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    dm = DiffusionModel(Oracle(x0, scheduler), scheduler, shape=(3, 4, 4))
    made = dm.generate(seeds=[0, 1], steps=5, read=["x0"], options={"eta": eta})
    assert made.readings["x0"].shape == (5, 2, 3, 4, 4)
    torch.testing.assert_close(made.readings["x0"], x0.expand(5, 2, 3, 4, 4), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made.output, x0.expand(2, 3, 4, 4), rtol=1e-5, atol=1e-5)


# Looking and changing


EVERY = ("latent", "conv_in.output", "down[0].resnets[0].output", "mid.output", "prediction", "x0")


def test_looking_changes_nothing() -> None:
    dm = opened(scheduler="EulerAncestralDiscrete")
    plain = dm.generate(LABELS, seeds=[1, 2, 3], steps=3).output
    made = dm.generate(LABELS, seeds=[1, 2, 3], steps=3, read=[*EVERY, "state"])
    assert torch.equal(made.output, plain)
    assert [state.index for state in made.readings["state"]] == [0, 1, 2]
    with torch.no_grad(), dm.sample(LABELS, seeds=[1, 2, 3], steps=3) as run:
        for step in run.steps:
            assert dm.state.index == step
            seen = [dm.latent, dm.conv_in.output, dm.down[0].resnets[0].output, dm.mid.output, dm.prediction, dm.x0]
            for name, value in zip(EVERY, seen, strict=True):
                assert torch.equal(value, made.readings[name][step]), name
    assert torch.equal(run.output, plain)


def test_body_and_list_of_edits_do_the_same() -> None:
    dm, vector = opened(), torch.randn(16, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), dm.sample(LABELS, seeds=[1, 2, 3], steps=4) as run:
        for step in run.steps:
            if step in (1, 2):
                dm.mid.output = dm.mid.output + vector
    made = dm.generate(LABELS, seeds=[1, 2, 3], steps=4, edits=[("mid.output", add(vector))], during=range(1, 3), read=["latent"])
    assert torch.equal(made.output, run.output)
    plain = dm.generate(LABELS, seeds=[1, 2, 3], steps=4, read=["latent"], during=range(1, 3))
    assert torch.equal(made.readings["latent"][0], plain.readings["latent"][0])
    assert not torch.allclose(made.output, plain.output)


@pytest.mark.parametrize("scheduler", ["DDIM", "EulerAncestralDiscrete", "FlowMatchEulerDiscrete"])
def test_changed_x0_is_what_the_sampler_goes_to(scheduler: str) -> None:
    dm = opened(scheduler=scheduler)
    target = torch.randn(3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    made = dm.generate(LABELS, seeds=[1, 2, 3], steps=4, edits=[("x0", lambda x0: target.expand_as(x0))])
    torch.testing.assert_close(made.output, target.expand(3, 3, 8, 8), rtol=1e-4, atol=1e-4)
    with torch.no_grad(), dm.sample(LABELS, seeds=[1, 2, 3], steps=4) as run:
        for _ in run.steps:
            dm.x0[:] = target  # in place
    assert torch.equal(run.output, made.output)


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "sample"])
def test_x0_of_every_kind_of_prediction_is_the_schedulers(predicts: str) -> None:
    dm = opened(prediction_type=predicts)
    scheduler = diffusers.DDIMScheduler(clip_sample=False, prediction_type=predicts)
    scheduler.set_timesteps(3)
    seen = dm.generate(LABELS, seeds=[1, 2, 3], steps=3, read=["latent", "prediction", "x0"]).readings
    for index, t in enumerate(scheduler.timesteps):
        theirs = scheduler.step(seen["prediction"][index], t, seen["latent"][index]).pred_original_sample
        torch.testing.assert_close(seen["x0"][index], theirs, rtol=1e-5, atol=1e-5)


def test_point_of_one_branch() -> None:
    dm = opened()
    how: dict[str, Any] = {"seeds": [1, 2, 3], "steps": 2, "guidance": 3.0, "unconditional": NONE}
    names = ["mid.output", "cond.mid.output", "uncond.mid.output", "cond.prediction", "uncond.prediction", "prediction"]
    plain = dm.generate(LABELS, **how, read=names).readings
    whole, cond, uncond = (plain[name] for name in names[:3])
    assert torch.equal(whole, torch.cat([uncond, cond], 1))
    torch.testing.assert_close(plain["prediction"], plain[names[4]] + 3 * (plain[names[3]] - plain[names[4]]))
    edited = dm.generate(LABELS, **how, read=names, edits=[("cond.mid.output[unit=3]", lambda x: x + 1)], during=range(0, 1)).readings
    torch.testing.assert_close(edited[names[4]], plain[names[4]][:1], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(edited[names[3]], plain[names[3]][:1])
    changed = (edited["mid.output"] != whole[:1])[0]
    assert changed[3:, 3].all() and int(changed.sum()) == changed[3:, 3].numel()
    with torch.no_grad(), dm.sample(LABELS, **how) as run:
        for _ in run.steps:
            value = dm.cond.mid.output
            value[:, 3] += 1
            break
        first = dm.uncond.prediction, dm.cond.prediction
    torch.testing.assert_close(first, (edited[names[4]][0], edited[names[3]][0]), rtol=1e-12, atol=1e-12)
    with pytest.raises(AddressError, match="branches cond"):
        dm.generate(LABELS, seeds=[1, 2, 3], steps=1, read=["uncond.mid.output"])


# Stopping and going on


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_stopped_and_resumed_is_uninterrupted(scheduler: str, tmp_path: Path) -> None:
    dm = opened(scheduler=scheduler)
    options = {"eta": 0.7} if scheduler == "DDIM" else None
    whole = dm.generate(LABELS, seeds=[1, 2, 3], steps=6, options=options)
    half = dm.generate(LABELS, seeds=[1, 2, 3], steps=6, options=options, stop=3)
    assert half.state.index == 3
    state = SamplerState.load(half.state.save(tmp_path / "half"))
    again = dm.generate(LABELS, start=state, options=options)
    assert torch.equal(again.output, whole.output) and torch.equal(dm.generate(LABELS, start=state, options=options).output, whole.output)


def test_state_seen_in_a_body_can_be_gone_on_with() -> None:
    dm = opened(scheduler="DDPM")
    with torch.no_grad(), dm.sample(LABELS, seeds=[1, 2, 3], steps=5) as run:
        for step in run.steps:
            if step == 2:
                state = dm.state
                run.stop()
                break
    whole = dm.generate(LABELS, seeds=[1, 2, 3], steps=5).output
    assert torch.equal(dm.generate(LABELS, start=state).output, whole)
    with torch.no_grad(), dm.sample(LABELS, start=state) as rest:
        seen = [dm.latent.clone() for _ in rest.steps]
    assert len(seen) == 3 and torch.equal(rest.output, whole)


def test_another_denoiser_from_a_step_on() -> None:
    """Two that know different clean samples: what comes out is the second's, and the latent in between is on the first's way."""
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    clean = [torch.randn(1, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
    first, second = (DiffusionModel(Oracle(x0, scheduler), scheduler, shape=(3, 4, 4)) for x0 in clean)
    half = first.generate(seeds=[0], steps=6, stop=4, read=["x0"])
    torch.testing.assert_close(half.readings["x0"][-1], clean[0], rtol=1e-5, atol=1e-5)
    rest = second.generate(start=half.state, read=["x0"])
    assert len(rest.readings["x0"]) == 2
    torch.testing.assert_close(rest.output, clean[1], rtol=1e-5, atol=1e-5)


def test_another_scheduler_from_a_latent_on() -> None:
    few, many = opened(steps_offset=1), opened(scheduler="DPMSolverMultistep")
    state = many.generate(LABELS, seeds=[1, 2, 3], steps=8, stop=4).state
    with pytest.raises(InputError, match="what a DPMSolverMultistepScheduler remembers"):
        few.generate(LABELS, start=state)
    moved = replace(state, index=1, steps=2, memory={})
    assert few.generate(LABELS, start=moved, read=["latent"]).readings["latent"].shape[0] == 1
    assert many.generate(LABELS, start=replace(state, memory={}), stop=5).state.index == 5


# One step


def test_one_step_from_a_state() -> None:
    dm = opened()
    state = dm.start([1, 2, 3], steps=4)
    two = dm.generate(LABELS, start=state, stop=2)
    after = dm.run(state, conditions=LABELS).output
    assert torch.equal(dm.run(replace(state, latent=after, index=1), conditions=LABELS).output, two.output)
    with torch.no_grad(), dm.trace(state, conditions=LABELS) as run:
        dm.mid.output *= 0
    edited = dm.run(state, conditions=LABELS, edits=[("mid.output", torch.zeros_like)]).output
    assert torch.equal(run.output, edited) and not torch.allclose(edited, after)


def test_gradients_of_a_step_are_slopes() -> None:
    dm = opened(prediction_type="v_prediction")
    state = dm.start([1, 2], steps=4)
    how: dict[str, Any] = {"conditions": NONE, "guidance": 2.0, "unconditional": {"class_labels": torch.tensor([4])}}
    points = ["latent", "cond.mid.output", "prediction", "x0"]
    values, slopes = dm.gradients(state, of=lambda out: (out**2).sum((1, 2, 3)), at=points, **how)
    for name in points:
        step = 1e-4 * torch.randn(values[name].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        up, down = (float((dm.run(state, edits=[(name, add(s * step))], **how).output ** 2).sum()) for s in (1, -1))
        assert up - down == pytest.approx(2 * float((slopes[name] * step).sum()), rel=1e-5), name


def test_gradient_of_the_image_through_an_assigned_x0() -> None:
    """The last step of DDIM goes to x0 itself."""
    dm = opened()
    with dm.sample(LABELS, seeds=[1, 2, 3], steps=2) as run:
        for _ in run.steps:
            dm.x0 = x0 = dm.x0.clone()
    (slope,) = torch.autograd.grad(run.output.sum(), x0)
    torch.testing.assert_close(slope, torch.ones_like(slope), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::cutaway.errors.SlowSweepWarning")  # a step is no stack of blocks
@pytest.mark.parametrize("scheduler", ["DDIM", "DDPM", "EulerDiscrete", "DPMSolverMultistep"])
def test_sweep_over_a_step_is_its_runs(scheduler: str) -> None:
    dm = opened(scheduler=scheduler)
    state = dm.generate(LABELS, seeds=[1, 2, 3], steps=4, stop=1).state
    how: dict[str, Any] = {"conditions": LABELS, "guidance": 2.0, "unconditional": NONE}
    edits = [[(f"cond.mid.output[unit={u}]", torch.zeros_like)] for u in range(4)]
    swept = dm.sweep(state, edits=edits, metric=lambda out: out.mean((-3, -2, -1)), **how)
    single = torch.stack([dm.run(state, edits=one, **how).output.mean((1, 2, 3)) for one in edits])
    torch.testing.assert_close(swept, single, rtol=1e-7, atol=1e-9)
    with pytest.raises(AddressError, match=r"cond\.mid\.output"):
        dm.sweep(state, edits=[[("mid.output[unit=0]", torch.zeros_like)]], metric=lambda out: out, **how)


# What is refused


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "no seeds"),
        ({"seeds": [1], "stop": 99}, "step 99"),
        ({"seeds": [1], "guidance": 3.0}, "without unconditional"),
        ({"seeds": [1], "options": {"etta": 1}}, "etta"),
        ({"seeds": [1, 2], "steps": 1}, "2 samples"),
        ({"seeds": [1, 2, 3], "conditions": classifier_free(LABELS, NONE, 2), "guidance": 2.0}, "a Guidance and a scale"),
        ({"seeds": [1, 2, 3], "conditions": weighted({"style": (1.0, LABELS)})}, "style"),
    ],
)
def test_what_cannot_be_sampled(how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        opened().generate(**({"conditions": LABELS} | how))


def test_seeds_and_a_state() -> None:
    dm = opened()
    with pytest.raises(InputError, match="seeds and from a state"):
        dm.generate(LABELS, seeds=[1], start=dm.start([1]))
    with pytest.raises(InputError, match="Run one step"):
        dm.run(torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match="shape="):
        DiffusionModel(nn.Conv2d(3, 3, 1), diffusers.DDIMScheduler())


def test_point_no_step_reaches() -> None:
    dm = opened()
    with pytest.raises(OutOfOrderError, match="class_embedding"):
        dm.generate(LABELS, seeds=[1, 2, 3], steps=2, read=["class_embedding.output"], during=range(5, 6))


def test_a_second_run_inside_a_body_disturbs_nothing() -> None:
    dm = opened()
    alone = dm.generate(LABELS, seeds=[1, 2, 3], steps=2).output
    with dm.sample(LABELS, seeds=[1, 2, 3], steps=2) as run:
        for _ in run.steps:
            _ = dm.latent
            assert torch.equal(dm.generate(LABELS, seeds=[1, 2, 3], steps=2).output, alone)
    assert torch.equal(run.output, alone)


def test_cross_attention_to_the_condition_of_one_branch() -> None:
    """A pattern is looked at under guidance without changing what is sampled by more than rounding."""
    dm = opened("cross")
    texts = [
        {"encoder_hidden_states": torch.randn(1, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(s))} for s in (0, 1)
    ]
    how: dict[str, Any] = {"seeds": [1, 2], "steps": 2, "guidance": 4.0, "unconditional": texts[1]}
    at = "down[1].attentions[0].blocks[0].cross.pattern"
    plain = dm.generate(texts[0], **how)
    seen = dm.generate(texts[0], **how, read=[f"cond.{at}", f"uncond.{at}", at])
    torch.testing.assert_close(seen.output, plain.output, rtol=1e-9, atol=1e-9)
    cond, uncond, both = seen.readings.values()
    assert cond.shape == (2, 2, 4, 16, 5) and torch.equal(both, torch.cat([uncond, cond], 1))
    torch.testing.assert_close(cond.sum(-1), torch.ones_like(cond[..., 0]))
    edits = [(f"cond.{at}", lambda pattern: torch.full_like(pattern, 0.2))]
    changed = dm.generate(texts[0], **how, edits=edits, read=["uncond.prediction", "cond.prediction"], during=range(0, 1)).readings
    before = dm.generate(texts[0], **how, read=["uncond.prediction", "cond.prediction"], during=range(0, 1)).readings
    torch.testing.assert_close(changed["uncond.prediction"], before["uncond.prediction"], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(changed["cond.prediction"], before["cond.prediction"])


def test_position_of_a_transformer() -> None:
    dm = opened("dit")
    made = dm.generate(
        LABELS, seeds=[1, 2, 3], steps=2, guidance=2.0, unconditional=NONE, read=["layers[1].output[pos=3]", "layers[1].output"]
    )
    assert torch.equal(made.readings["layers[1].output[pos=3]"], made.readings["layers[1].output"][:, :, 3])


def test_names() -> None:
    dm = opened()
    assert {"latent", "x0", "cond", "uncond", "state"} <= set(dir(dm))
    assert dm.conv_in.weight is denoiser("unet").conv_in.weight is dm.denoiser.conv_in.weight is dm.cond.conv_in.weight
    assert dm.down[1].resnets[0].conv1 is not None and "down[1].attentions[0].output" in dm.points()
    with pytest.raises(AttributeError, match="condd"):
        _ = dm.condd
