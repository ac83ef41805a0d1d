"""One step as a module, on denoisers whose answer is known; the state between steps, stored and read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from torch import Tensor, nn

from cutaway.errors import AddressError, InputError, StorageError
from cutaway.models.denoising import SamplerState, Sampling, Step
from cutaway.models.guidance import Conditions, Guidance, classifier_free, unguided
from cutaway.models.schedule import Schedule


class Shift(nn.Module):
    """Predicts the latent moved by its condition; remembers what it was given."""

    def forward(self, x: Tensor, t: Tensor, by: Tensor, more: dict[str, Tensor] | None = None) -> tuple[Tensor]:
        self.seen = (x, t, by, more)
        return (x + by[:, None, None, None],)


class Learned(nn.Module):
    """Predicts noise and a variance."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([x, x + 100], 1)


X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def sampling(guidance: Guidance, samples: int = 2) -> Sampling:
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    generators = [torch.Generator().manual_seed(i) for i in range(samples)]
    return Sampling(Schedule(scheduler, 4, torch.device("cpu"), {}), guidance, generators, 4)


def shifted(*by: float) -> Conditions:
    return {"by": torch.tensor(by), "more": {"again": torch.tensor([[by[0]]])}}


def test_branches_run_as_one_batch_one_after_another() -> None:
    step = Step(Shift())
    step(X, 0, sampling(classifier_free(shifted(1.0, 2.0), shifted(5.0), 3.0)))
    x, t, by, more = step.denoiser.seen
    assert torch.equal(x, torch.cat([X, X])) and by.tolist() == [5, 5, 1, 2]
    assert t.shape == (4,) and (t == t[0]).all()
    assert more["again"].shape[0] == 4


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_guided_prediction(scale: float) -> None:
    run = sampling(classifier_free(shifted(1.0), shifted(5.0), scale))
    expected = run.schedule.step(X + 5 - 4 * scale, X, 0, [])
    torch.testing.assert_close(Step(Shift())(X, 0, run), expected)


def test_learned_variance_is_left_out() -> None:
    run = sampling(unguided({}))
    torch.testing.assert_close(Step(Learned())(X, 0, run), run.schedule.step(X, X, 0, []))


def test_packed_batch_takes_every_samples_condition_again() -> None:
    run = replace(sampling(unguided({"by": torch.tensor([1.0, 2.0])})), repeatable=True)
    step = Step(Shift())
    out = step(torch.cat([X, X, X]), 0, run)
    assert step.denoiser.seen[2].tolist() == [1, 2, 1, 2, 1, 2]
    torch.testing.assert_close(out[2:4], step(X, 0, run))


def test_conditions_of_another_number_of_rows() -> None:
    with pytest.raises(InputError, match=r"(?s)shape \(3,\).*2 samples"):
        Step(Shift())(X, 0, sampling(unguided({"by": torch.zeros(3)})))


def test_conditions_of_branches_that_differ_in_shape() -> None:
    with pytest.raises(InputError, match="padded alike"):
        Step(Shift())(X, 0, sampling(classifier_free({"by": torch.zeros(1, 2)}, {"by": torch.zeros(1, 3)}, 2.0)))


def test_view_of_a_branch() -> None:
    step = Step(Shift())
    step(X, 0, sampling(classifier_free(shifted(1.0), shifted(5.0), 3.0)))
    raw = torch.arange(4.0)[:, None]
    assert step.branch("uncond").read(raw).flatten().tolist() == [0, 1]
    assert step.branch("cond").read(raw).flatten().tolist() == [2, 3]
    assert step.branch("uncond").write(raw, torch.full((2, 1), 9.0)).flatten().tolist() == [9, 9, 2, 3]
    with pytest.raises(AddressError, match="branches uncond, cond"):
        step.branch("style").read(raw)


STATE = SamplerState(
    X,
    3,
    7,
    (torch.Generator().manual_seed(5).get_state(),),
    "PNDMScheduler",
    {"ets": [X, None], "counter": 2, "cur_sample": X[0], "name": "a"},
)


def test_state_is_stored_and_read_back(tmp_path: Path) -> None:
    path = STATE.save(tmp_path / "half")
    read = SamplerState.load(path)
    assert (read.index, read.steps, read.scheduler) == (3, 7, "PNDMScheduler")
    assert torch.equal(read.latent, X) and torch.equal(read.generators[0], STATE.generators[0])
    assert read.memory["counter"] == 2 and read.memory["ets"][1] is None and torch.equal(read.memory["ets"][0], X)
    assert torch.equal(torch.randn(3, generator=read.drawing()[0]), torch.randn(3, generator=torch.Generator().manual_seed(5)))


def test_state_on_another_device() -> None:
    moved = STATE.to(torch.device("meta"))
    assert moved.latent.is_meta and moved.memory["ets"][0].is_meta and moved.memory["counter"] == 2
    assert moved.generators[0] is STATE.generators[0]


def test_state_that_shares_tensors_can_be_stored(tmp_path: Path) -> None:
    shared = replace(STATE, memory={"a": X, "b": X, "c": X.transpose(2, 3)})
    assert torch.equal(SamplerState.load(shared.save(tmp_path / "s")).memory["c"], X.transpose(2, 3))


@pytest.mark.parametrize("text", ["", "[]", '{"cutaway": 1}', '{"cutaway": 99, "kind": "sampler_state"}', '{"cutaway": 1, "kind": "grid"}'])
def test_foreign_file(tmp_path: Path, text: str) -> None:
    path = STATE.save(tmp_path / "half")
    path.write_text(text)
    with pytest.raises(StorageError, match="half"):
        SamplerState.load(path)
    with pytest.raises(StorageError, match="missing"):
        SamplerState.load(tmp_path / "missing")
