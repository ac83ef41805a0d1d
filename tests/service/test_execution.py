"""Works become outcomes: the numbers of a local run, or a problem. Nothing that is sent raises."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import cutaway as cut
from cutaway.engine import wire
from cutaway.engine.graph import Graph
from cutaway.engine.node import Limits, Node
from cutaway.models.any_module import AnyModule
from cutaway.models.language import LanguageModel
from cutaway.remote.work import Work
from cutaway.results.base import Result
from cutaway.service.execution import Execution
from cutaway.service.outcomes import Outcome, Stop

TEXT = "red blue gold red blue"
METHOD = {"method": "locate.direct_effect", "task": "induction:n=3,length=6"}


def listed_in(path: str) -> ModuleType:
    """Another test file, for the bodies and graphs that it lists."""
    spec = importlib.util.spec_from_file_location(f"of_{Path(path).stem}", Path(__file__).parents[1] / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NETWORKS, CORPUS = listed_in("engine/conftest.py"), listed_in("engine/test_replaying.py")


def sent(*args: Any, driver: Any = None, **kwargs: Any) -> bytes:
    return wire.packed({"args": args, "kwargs": kwargs, "driver": driver})


def work(graph: Graph, inputs: bytes, model: str = "m") -> Work:
    return Work("graph", model, graph=graph.to_bytes(), inputs=inputs)


def saved(outcome: Outcome) -> dict[str, Any]:
    assert outcome.result is not None, outcome.problem
    found: dict[str, Any] = wire.unpacked(outcome.result, 2**30)["saved"]
    return found


def problem(outcome: Outcome) -> dict[str, Any]:
    assert outcome.result is None and outcome.problem is not None
    return dict(outcome.problem)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    opened: LanguageModel = cut.open("induction_lm")
    return opened


@pytest.fixture
def branch() -> AnyModule:
    return AnyModule(NETWORKS.seeded(NETWORKS.Branch()), "branch")


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


def recorded(lm: LanguageModel, scale: float = 2.0, text: Any = TEXT) -> Graph:
    with lm.record(text) as run:
        lm.layers[0].output = lm.layers[0].output * scale
        run.save(logits=lm.logits)
    return run.graph


def test_a_graph_gives_what_the_body_gives(lm: LanguageModel) -> None:
    outcome = Execution(lm).run({"j": work(recorded(lm), sent(TEXT))})["j"]
    with lm.trace(TEXT):
        lm.layers[0].output = lm.layers[0].output * 2.0
        logits = lm.logits
    assert torch.equal(saved(outcome)["logits"], logits) and outcome.seconds > 0
    assert not any(part._forward_hooks for part in lm.module.modules())


def test_several_go_through_one_forward_and_fail_by_themselves(lm: LanguageModel) -> None:
    calls: list[int] = []
    texts = [TEXT, ["gold pink red red", "red red red blue"], [{"text": "blue gold", "spans": {"x": [0, 1]}}]]
    works = {str(i): work(recorded(lm, i, "red blue" if i == 2 else text), sent(text)) for i, text in enumerate(texts)}
    bad = {"bad": work(Graph((Node("read", ("layers[9].output",)),)), sent(TEXT)), "worse": work(recorded(lm), b"x")}
    alone = {job: saved(Execution(lm).run({job: one})[job])["logits"] for job, one in works.items()}
    hook = lm.module.register_forward_hook(lambda module, args, out: calls.append(1))
    together = Execution(lm).run(works | bad)
    hook.remove()
    assert len(calls) <= 1 + 2 * 4  # on weights once, the rest on shapes
    assert list(together) == ["0", "1", "2", "bad", "worse"]
    for job, logits in alone.items():
        torch.testing.assert_close(saved(together[job])["logits"], logits, rtol=0, atol=1e-4 * float(logits.abs().max()))
    assert problem(together["bad"])["type"] == "address-error" and problem(together["worse"])["type"] == "stream-error"


def test_generation(lm: LanguageModel) -> None:
    told = lm.generation(new_tokens=3).data()
    with lm.record(TEXT, fn=lm.generation(new_tokens=3)) as run:
        for _ in run.steps[:3]:
            lm.layers[0].output = lm.layers[0].output * 1.5
        run.save(ids=run.output)
    with lm.trace(TEXT, fn=lm.generation(new_tokens=3)) as live:
        for _ in live.steps:
            lm.layers[0].output = lm.layers[0].output * 1.5
    execution = Execution(lm)
    assert torch.equal(saved(execution.run({"j": work(run.graph, sent(TEXT, driver=told))})["j"])["ids"], live.output)
    far = told | {"new_tokens": lm.sizes.context}
    assert problem(execution.run({"j": work(run.graph, sent(TEXT, driver=far))})["j"])["type"] == "prompt-error"
    assert problem(execution.run({"j": work(run.graph, sent(TEXT, driver={"name": "system"}))})["j"])["type"] == "input-error"


def test_sizes_are_known_before(lm: LanguageModel) -> None:
    one = work(recorded(lm), sent(TEXT))
    assert Execution(lm).measure(one).sizes == {"logits": saved(Execution(lm).run({"j": one})["j"])["logits"].nbytes}


def test_a_method_gives_what_it_gives_here(lm: LanguageModel) -> None:
    heard: list[tuple[str, str, dict[str, Any]]] = []
    one = Work("method", "m", **METHOD, seed=3)
    outcome = Execution(lm).run({"j": one}, lambda job, kind, data: heard.append((job, kind, dict(data))))["j"]
    assert outcome.result is not None, outcome.problem
    found = Result.from_bytes(outcome.result)
    here = cut.locate.direct_effect(lm, METHOD["task"], seed=3)
    assert (type(found), found.provenance.seed) == (type(here), 3)
    assert found.numbers == here.numbers and found.controls == here.controls
    assert all(kind == "progress" and data.keys() == {"label", "done", "total"} for _, kind, data in heard)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"method": "locate.nothing"}, "unknown-name-error"),
        ({"method": "../../etc"}, "unknown-name-error"),
        ({"arguments": {"metrics": "x"}}, "unknown-name-error"),
        ({"method": "locate.causal_trace", "arguments": {"metric": "no_such_metric"}}, "unknown-name-error"),
        ({"method": "locate.causal_trace", "arguments": {"metric": 3}}, "input-error"),
        ({"task": "no_such_task"}, "unknown-name-error"),
        ({"task": None}, "input-error"),
        ({"seed": -1}, "input-error"),
    ],
)
def test_calls_that_do_not_fit_are_refused_before_anything_runs(lm: LanguageModel, changes: dict[str, Any], kind: str) -> None:
    before = lm.forwards
    found = problem(Execution(lm).run({"j": Work("method", "m", **(METHOD | changes))})["j"])
    assert found["type"] == kind and found["works"]
    assert lm.forwards == before or "no_such_metric" in str(changes)  # a task is made of what the model knows


def test_methods_are_for_language_models(branch: AnyModule) -> None:
    assert problem(Execution(branch).run({"j": Work("method", "m", **METHOD)})["j"])["type"] == "input-error"


@pytest.mark.parametrize(
    "inputs",
    [
        b"x",
        b"\0" * 64,
        wire.packed({}),
        wire.packed({"args": 3}),
        wire.packed({"args": [TEXT], "limits": None}),
        sent(),
        sent(TEXT, TEXT),
        sent(TEXT, limits=None),
        sent(TEXT, fn=3),
        sent(3),
        sent([]),
        sent([3]),
        sent({"text": "", "ids": [64]}),
        sent(torch.ones(1, 2)),
        sent("no such words"),
        sent("red " * 500),
        sent("x" * 2**21),
        sent(["red"] * 3, driver=[]),
    ],
)
def test_hostile_inputs(lm: LanguageModel, inputs: bytes) -> None:
    found = problem(Execution(lm).run({"j": work(recorded(lm), inputs)})["j"])
    assert found["type"] in ("input-error", "prompt-error", "stream-error", "unknown-name-error"), found


@pytest.mark.parametrize("name", list(CORPUS.REFUSED))
def test_hostile_graphs(branch: AnyModule, x: Tensor, name: str) -> None:
    before = {k: v.clone() for k, v in branch.module.state_dict().items()}
    execution = Execution(branch, CORPUS.LIMITS)
    found = problem(execution.run({"j": work(CORPUS.graph(*CORPUS.REFUSED[name]), sent(x))})["j"])
    assert found["type"].endswith("-error") and found["works"]
    assert all(torch.equal(v, before[k]) for k, v in branch.module.state_dict().items())
    good = work(CORPUS.graph(Node("save", (), {"h": CORPUS.H})), sent(x))
    assert saved(execution.run({"j": good})["j"])["h"].shape == (3, 8)


def test_a_problem_says_the_users_line(lm: LanguageModel) -> None:
    with lm.record(TEXT) as run:
        run.save(found=lm.layers[0].output[:, 4])
    found = problem(Execution(lm).run({"j": work(run.graph, sent("red blue"))})["j"])
    assert found["type"] == "graph-error" and "test_execution.py:" in found["line"]


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(blob=st.binary(max_size=200), inputs=st.binary(max_size=80), at=st.integers(0, 400))
def test_any_bytes_are_answered(lm: LanguageModel, blob: bytes, inputs: bytes, at: int) -> None:
    good = recorded(lm, 1.0).to_bytes()
    for graph in (blob or b"-", good[:at] + blob + good[at + len(blob) :]):
        for given_inputs in (inputs or b"-", sent(TEXT)):
            outcome = Execution(lm).run({"j": Work("graph", "m", graph=graph, inputs=given_inputs)})["j"]
            assert not outcome.lost and (outcome.problem or {"type": ""})["type"] != "internal"


def busy(lm: LanguageModel, steps: int) -> Work:
    """Matrix products, one after the other."""
    with lm.record(TEXT) as run:
        h = lm.layers[0].output[0, :1, :1].expand(1500, 1500) * 1e-3
        for _ in range(steps):
            h = h @ h
        run.save(h=h.sum())
    return work(run.graph, sent(TEXT))


@pytest.mark.slow
def test_time_ends_a_job_and_not_those_beside_it(lm: LanguageModel) -> None:
    works = {"long": busy(lm, 200), "short": work(recorded(lm), sent(TEXT))}
    Execution(lm, Limits(values=2**40)).measure(works["long"])  # known shapes pass at once from here on
    done = Execution(lm, Limits(values=2**40)).run(works, stop=Stop(1.5))
    assert problem(done["long"])["type"] == "time-limit" and saved(done["short"])["logits"].ndim == 3


def test_a_cancelled_job_is_not_done(lm: LanguageModel) -> None:
    stop = Stop()
    stop.cancel("a")
    one = work(recorded(lm), sent(TEXT))
    done = Execution(lm).run({"a": one, "b": one}, stop=stop)
    assert problem(done["a"])["type"] == "cancelled" and saved(done["b"])
    assert problem(Execution(lm).run({"a": Work("method", "m", **METHOD)}, stop=stop)["a"])["type"] == "cancelled"
