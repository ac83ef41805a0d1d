"""A model that runs elsewhere is used as one that runs here: names, traces, runs, sweeps, methods. `test_same_numbers` has all bodies."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

import cutaway as cut
from cutaway.engine.passes import Readings
from cutaway.errors import InputError, PromptError, RecordError, TraceError, UnknownNameError
from cutaway.mediators.ablate import ablate
from cutaway.mediators.add import add
from cutaway.mediators.noise import noise
from cutaway.mediators.scale import scale
from cutaway.mediators.swap import swap
from cutaway.models.language import LanguageModel
from cutaway.models.prompt import Prompt
from cutaway.remote.model import RemoteModel
from cutaway.results.base import Result
from cutaway.tasks.base import find_task

TEXT = "red blue gold red blue"
TEXTS = ["red blue gold red blue", "gold red"]
TASK = "induction:n=3,length=6"


def doubled(lm: Any, run: Any) -> None:
    lm.layers[0].output = lm.layers[0].output * 2
    run.save(logits=lm.logits[0, -1])


def assert_equal(one: Readings, other: Readings) -> None:
    assert list(one) == list(other)
    for address in other:
        assert torch.equal(one[address], other[address]), address


def test_it_has_no_weights(far: RemoteModel) -> None:
    assert all(p.is_meta for p in far.module.parameters()) and len(list(far.module.parameters())) > 10


def test_a_trace(far: RemoteModel, here: LanguageModel) -> None:
    with far.trace(TEXT) as run:
        doubled(far, run)
    with here.trace(TEXT) as live:
        doubled(here, live)
    assert torch.equal(run.saved["logits"], live.saved["logits"])
    assert run.sizes == live.sizes and run.graph.saved == ("logits",)
    with pytest.raises(TraceError, match=r"run\.save"):
        _ = run.output


def test_a_body_that_stops(far: RemoteModel, here: LanguageModel) -> None:
    with far.trace(TEXT) as run:
        h = far.layers[0].output
        run.stop()
        run.save(norm=h.norm(dim=-1))
    assert torch.equal(run.saved["norm"], here.run(TEXT, read=["layers[0].output"])["layers[0].output"].norm(dim=-1))


def test_a_body_that_fails_is_not_sent(far: RemoteModel, remote: Any) -> None:
    before = len(remote.jobs(limit=500))
    with pytest.raises(RecordError, match=r"model\.stream"), far.trace(TEXT):
        if far.layers[0].output.norm() > 1:
            pass
    with pytest.raises(ValueError, match="mine"), far.trace(TEXT) as run:
        run.save(h=far.embed)
        raise ValueError("mine")
    assert len(remote.jobs(limit=500)) == before


def test_not_waiting(far: RemoteModel) -> None:
    runs = []
    for factor in (1.5, 2.5):
        with far.trace(TEXT, wait=False) as run:
            far.layers[0].output = far.layers[0].output * factor
            run.save(logits=far.logits[0, -1])
        runs.append(run)
    assert runs[0].job is not None and runs[0].job.id != runs[1].job.id
    assert not torch.equal(runs[0].saved["logits"], runs[1].saved["logits"])


def test_a_generation(far: RemoteModel, here: LanguageModel) -> None:
    for steps in (0, 2):
        with far.generate(TEXT, new_tokens=4, temperature=0.7, seed=5) as run:
            for _ in run.steps[:steps]:
                far.layers[0].output = far.layers[0].output * 1.1
        with here.generate(TEXT, new_tokens=4, temperature=0.7, seed=5) as live:
            for _ in live.steps[:steps]:
                here.layers[0].output = here.layers[0].output * 1.1
        assert torch.equal(run.output, live.output)
    with pytest.raises(PromptError, match="context"), far.generate(TEXT, new_tokens=100):
        pass


MEDIATORS = {
    "ablate": ("layers[0].attn.z[head=1]", ablate()),
    "mean": ("layers[1].input[pos=-1]", ablate(torch.full((1,), 0.25))),
    "add": ("layers[0].output[pos=1]", add(torch.linspace(-1, 1, 64), scale=2.0)),
    "scale": ("layers[1].attn.q", scale(0.5)),
    "swap": ("embed[pos=2]", swap(torch.ones(64))),
    "noise": ("embed", noise(0.5, seed=3)),
    "own": ("layers[1].attn.pattern[head=0]", lambda value: value.roll(1, -1)),
}


@pytest.mark.parametrize("name", list(MEDIATORS))
def test_run_makes_the_edits_of_mediators(far: RemoteModel, here: LanguageModel, name: str) -> None:
    given: dict[str, Any] = {"edits": [MEDIATORS[name]], "read": ["logits[pos=-1]", "embed", "layers[1].attn.z[head=2]"]}
    for text in (TEXT, TEXTS):
        assert_equal(far.run(text, **given), here.run(text, **given))


def test_run_without_reads(far: RemoteModel, here: LanguageModel) -> None:
    edit = [("layers[0].output[pos=last]", scale(2.0))]
    assert torch.equal(far.run(TEXTS, edits=edit).output, here.run(TEXTS, edits=edit).output)
    prompt = Prompt.mark(TEXT, target="gold")
    edit = [("layers[0].output[pos=target]", scale(2.0))]
    assert torch.equal(far.run(prompt, edits=edit).output, here.run(prompt, edits=edit).output)
    with pytest.raises(UnknownNameError, match="output"):
        far.run(TEXT, read=["layers[0].outptu"])


def test_a_sweep(far: RemoteModel, here: LanguageModel) -> None:
    """Rows of whole forwards there, cones of resumed ones here: equal up to the order of sums. Only the metric's numbers come back."""
    heads = [[(f"layers[{i}].attn.z[head={h}]", ablate())] for i in range(here.sizes.n_layers) for h in range(here.sizes.n_heads)]
    edits: Any = [*heads, [], [MEDIATORS["scale"], ("layers[1].attn.k", scale(2.0)), MEDIATORS["add"]], [MEDIATORS["noise"]]]
    told: list[float] = []
    for base in ([], [("layers[0].input", scale(1.1))]):
        given: Any = {"edits": edits, "metric": lambda logits: (logits[..., 3:5] * torch.tensor([1.0, -1.0])).sum(-1), "base": base}
        there, local = far.sweep(TEXTS, progress=told.append, **given), here.sweep(TEXTS, **given)
        assert there.shape == local.shape == (len(edits), len(TEXTS))
        torch.testing.assert_close(there, local, rtol=0, atol=1e-4 * float(local.abs().max()))
    assert sum(told) == pytest.approx(2)
    with pytest.raises(InputError, match="no interventions"):
        far.sweep(TEXT, edits=[], metric=lambda logits: logits)


def test_gradients(far: RemoteModel, here: LanguageModel) -> None:
    """Fused and separate points, the model's first, positions, with an edit."""
    at = ["layers[1].attn.q[pos=-1]", "embed", "layers[0].attn.z", "layers[1].attn.k", "logits[pos=-1]"]
    given: Any = {"of": lambda out: out[:, -1, 3] - out[:, -1, 4], "at": at, "edits": [MEDIATORS["add"]]}
    for there, local in zip(far.gradients(TEXTS, **given), here.gradients(TEXTS, **given), strict=True):
        assert_equal(there, local)


def test_replaying_a_graph(far: RemoteModel, here: LanguageModel) -> None:
    with here.record(TEXT) as run:
        doubled(here, run)
    other = "gold blue gold"
    assert torch.equal(far.replay(run.graph, other)["logits"], here.replay(run.graph, other)["logits"])


def test_next_logits(far: RemoteModel, here: LanguageModel) -> None:
    texts = [*TEXTS, Prompt.mark(TEXT, target="gold")] * 12
    torch.testing.assert_close(far.next_logits(texts), here.next_logits(texts), rtol=0, atol=1e-5)


def test_recording_and_scanning_stay_here(far: RemoteModel) -> None:
    with far.scan(TEXT) as run:
        run.save(h=far.layers[0].output)
    assert run.sizes["h"] > 0
    with far.record(TEXT) as run:
        doubled(far, run)
    assert run.graph.saved == ("logits",)


def test_names(far: RemoteModel, here: LanguageModel) -> None:
    assert (far.name, far.sizes, far.points()) == (here.name, here.sizes, here.points())
    assert torch.equal(far.tokens(TEXTS).ids, here.tokens(TEXTS).ids) and far.token_id("red") == here.token_id("red")
    assert {"trace", "sweep", "layers", "tokens"} <= set(dir(far)) and "induction_lm at http" in repr(far)
    with pytest.raises(AttributeError, match="layesr"):
        _ = far.layesr
    with pytest.raises(TraceError, match="no trace is open"):
        _ = far.layers[0].output


@pytest.mark.parametrize("name", ["cache", "suffix", "batch", "edit", "edited", "edits", "head_writes"])
def test_what_needs_weights_says_what_works(far: RemoteModel, name: str) -> None:
    with pytest.raises(InputError, match="weights are elsewhere"):
        getattr(far, name)
    assert name not in dir(far)
    with pytest.raises(InputError, match="weights are elsewhere"):
        setattr(far, name, ())


def test_a_method_runs_there(far: RemoteModel, here: LanguageModel) -> None:
    local = cut.locate.direct_effect(here, TASK, seed=3)
    for call in (
        lambda: cut.locate.direct_effect(far, TASK, seed=3),
        lambda: cut.locate.direct_effect(far, task=TASK, seed=3),
        lambda: cut.locate.direct_effect(lm=far, task=TASK, seed=3),
        lambda: cut.locate.direct_effect(far, find_task(TASK, here), seed=3),
    ):
        result = call()
        assert isinstance(result, Result) and result.numbers == local.numbers and result.controls == local.controls
    with pytest.raises(TypeError, match="wdth"):
        cut.locate.direct_effect(far, TASK, wdth=3)


def test_methods_look_as_they_did() -> None:
    from cutaway import registry

    method = registry.load("methods", "locate.causal_trace")
    assert cut.locate.causal_trace is cut.locate.causal_trace
    assert inspect.signature(cut.locate.causal_trace) == inspect.signature(method)
    assert (cut.locate.causal_trace.__doc__, cut.locate.causal_trace.__module__) == (method.__doc__, method.__module__)
    assert inspect.unwrap(cut.locate.causal_trace) is method
