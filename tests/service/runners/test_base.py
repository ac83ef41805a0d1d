"""What holds of every runner: the same numbers as here, problems for what cannot be run, and nothing left behind."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

import cutaway as cut
from cutaway.engine.graph import Graph
from cutaway.engine.node import Node
from cutaway.errors import CutawayError, ServiceError, StreamError
from cutaway.remote.work import Work
from cutaway.results.base import Result
from cutaway.service.runners.base import Runner, Settings
from cutaway.service.runners.inline import Inline
from cutaway.service.runners.process import Process
from cutaway.tasks.base import find_task

NAME = "induction_lm"
KINDS = ("llama", "gpt2", "neox", "gemma2", "opt")
METHODS = ("locate.causal_trace", "locate.ablation", "read.logit_lens", "circuits.eap")
HOSTILE: dict[str, tuple[Node, ...]] = {
    "memory": (Node("Tensor.repeat", ({"ref": [0]}, 10**6, 10**6)),),
    "shapes": (Node("Tensor.view", ({"ref": [0]}, 3)),),
    "weights": (Node("Tensor.mul_", ({"parameter": "embed.weight"}, 0), {}, "", False),),
    "no operation": (Node("os.system", ("true",)),),
    "the whole model": (Node("call", ("", {"tuple": [{"ref": [0]}]}, {"dict": {}})),),
    "another shape": (Node("Tensor.repeat", ({"ref": [0]}, 2, 1, 1)), Node("write", ("layers[0].output", {"ref": [1]}))),
}


def silent(job: str, kind: str, data: Any) -> None:
    return None


@pytest.fixture(scope="module", params=["inline", "process"])
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    if request.param == "process":
        yield request.getfixturevalue("process")
        return
    inline = Inline(Settings())
    inline.load(NAME)
    yield inline
    inline.close()


def test_a_graph(runner: Runner, works: Any) -> None:
    done = runner.run({"j": works.graph()}, silent)
    assert torch.equal(works.saved(done["j"])["logits"], works.live()["logits"]) and done["j"].seconds > 0


def test_several_at_once(runner: Runner, works: Any) -> None:
    one = works.graph()
    done = runner.run({"a": one, "bad": Work("graph", NAME, graph=b"x", inputs=b"x"), "b": one}, silent)
    assert list(done) == ["a", "bad", "b"] and works.problem(done["bad"]) == "graph-error"
    for job in "ab":
        torch.testing.assert_close(works.saved(done[job])["logits"], works.live()["logits"], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_a_method_tells_its_progress(runner: Runner, works: Any) -> None:
    heard: list[tuple[str, str]] = []
    done = runner.run(
        {"j": works.method("locate.causal_trace", samples=2, window=1, role="target")}, lambda job, kind, data: heard.append((job, kind))
    )
    assert done["j"].result is not None and set(heard) == {("j", "progress")}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_graphs_are_refused_and_the_runner_lives(runner: Runner, works: Any, name: str) -> None:
    graph = Graph((Node("read", ("layers[0].output",)), *HOSTILE[name])).to_bytes()
    done = runner.run({"j": Work("graph", NAME, graph=graph, inputs=works.inputs(works.text))}, silent)
    assert works.problem(done["j"]) == "graph-error"
    again = runner.run({"j": works.graph()}, silent)
    assert torch.equal(works.saved(again["j"])["logits"], works.live()["logits"])


def test_a_stream(runner: Runner, works: Any, over: Any) -> None:
    lm, rounds = works.lm, 0
    with torch.no_grad(), lm.stream(works.text, to=over(runner, NAME)) as run:
        h = lm.layers[0].output
        while h.norm() > 1:
            h, rounds = h / 2, rounds + 1
        lm.layers[0].output = h
        run.save(logits=lm.logits)
    with lm.trace(works.text) as live, torch.no_grad():
        lm.layers[0].output = lm.layers[0].output / 2**rounds
    assert rounds > 1 and torch.equal(run.saved["logits"], live.output)


def test_streams_that_are_not_there(runner: Runner, works: Any, over: Any) -> None:
    with pytest.raises(ServiceError):
        runner.open_stream("no such model")
    runner.close_stream("none")
    lost = over(runner, NAME)
    lost.close()
    with pytest.raises(StreamError, match="not open"), works.lm.stream(works.text, to=lost) as run:
        run.save(h=works.lm.embed)


def test_models_that_are_not_there(runner: Runner, works: Any) -> None:
    with pytest.raises(ServiceError, match="load"):
        runner.run({"j": works.graph(model="compiled.reverse")}, silent)
    with pytest.raises(ServiceError, match="2 models"):
        runner.run({"a": works.graph(), "b": works.graph(model="compiled.reverse")}, silent)
    runner.unload("compiled.reverse")
    runner.cancel("none")
    assert runner.loaded() == {NAME: runner.load(NAME)} and runner.load(NAME) > 10**5


@pytest.mark.slow
def test_models_come_and_go(runner: Runner, works: Any) -> None:
    with pytest.raises(CutawayError, match="no_such_model"):
        runner.load("no_such_model")
    runner.load("compiled.reverse")
    other = cut.open("compiled.reverse")
    text = "a b c ="
    with other.record(text) as run:
        run.save(logits=other.logits)
    work = Work("graph", "compiled.reverse", graph=run.graph.to_bytes(), inputs=works.inputs(text))
    done = runner.run({"j": work}, silent)
    assert torch.equal(works.saved(done["j"])["logits"], other.module(other.tokens(text).ids))
    runner.unload("compiled.reverse")
    assert set(runner.loaded()) == {NAME}
    with pytest.raises(ServiceError):
        runner.run({"j": work}, silent)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_methods_give_what_they_give_here(runner: Runner, works: Any, name: str) -> None:
    family, _, short = name.partition(".")
    function = getattr(getattr(cut, family), short)
    given = {"role": "target", "samples": 2, "window": 1, "steps": 5}
    chosen = {k: v for k, v in given.items() if k in inspect.signature(function).parameters}
    outcome = runner.run({"j": works.method(name, **chosen)}, silent)["j"]
    assert outcome.result is not None, outcome.problem
    found, here = Result.from_bytes(outcome.result), function(works.lm, "induction:n=3,length=6", seed=3, **chosen)
    assert plain(found) == plain(here)


def plain(result: Result) -> str:
    """A result without what it cost."""
    return result.with_(provenance=dataclasses.replace(result.provenance, seconds=0.0, forwards=0)).to_json()


@pytest.mark.slow
def test_pairs_as_plain_data(runner: Runner, works: Any) -> None:
    def told(one: Any) -> dict[str, Any]:
        return {"text": one.text, "spans": {k: list(v) for k, v in one.spans.items()}, "ids": None if one.ids is None else list(one.ids)}

    task = find_task("induction:n=3,length=6", works.lm)
    pairs = [{"base": told(p.base), "counterfactual": told(p.counterfactual), "answer": p.answer, "foil": p.foil} for p in task.pairs]
    given = {"name": "mine", "pairs": pairs, "metric": task.metric, "role": task.role}
    done = runner.run({"named": works.method(), "given": works.method(task=given)}, silent)
    named, own = (Result.from_bytes(done[job].result or b"") for job in ("named", "given"))
    assert own.provenance.task == "mine" and own.numbers == named.numbers and own.controls == named.controls


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [Inline, Process])
def test_every_body_gives_what_it_gives_here(
    make: type[Inline] | type[Process], kind: str, bodies: ModuleType, folders: Callable[[str], str], works: Any, over: Any
) -> None:
    """Alone to the bit; streamed to the bit; all of a kind packed, to 1e-4."""
    lm, name, text = cut.open(folders(kind)), folders(kind), bodies.TEXT
    runner = make(Settings())
    runner.load(name)
    sent, live = dict[str, Work](), dict[str, Any]()
    for body in bodies.BODIES:
        if bodies.kind_of(body) != kind:
            continue
        with lm.record(text) as recording:
            bodies.BODIES[body](lm, recording)
        sent[body] = Work("graph", name, graph=recording.graph.to_bytes(), inputs=works.inputs(text))
        live[body] = bodies.ran(bodies.BODIES[body], lm, lm.trace(text)).saved
        bodies.assert_same(works.saved(runner.run({"j": sent[body]}, silent)["j"]), live[body])
        with lm.stream(text, to=over(runner, name)) as run:
            bodies.BODIES[body](lm, run)
        bodies.assert_same(run.saved, live[body])
    assert len(sent) >= 4
    for body, outcome in runner.run(sent, silent).items():
        if body != "casts":  # whole numbers, which a rounding error may change
            bodies.assert_same(works.saved(outcome), live[body], close=1e-4)
    told = lm.generation(new_tokens=3)
    with lm.record(text, fn=told) as recording:
        for step in recording.steps[:3]:
            lm.layers[1].output = lm.layers[1].output * (1 + step)
        recording.save(ids=recording.output)
    with lm.trace(text, fn=told) as run:
        for step in run.steps[:3]:
            lm.layers[1].output = lm.layers[1].output * (1 + step)
    work = Work("graph", name, graph=recording.graph.to_bytes(), inputs=works.inputs(text, told.data()))
    assert torch.equal(works.saved(runner.run({"j": work}, silent)["j"])["ids"], run.output)
    runner.close()
