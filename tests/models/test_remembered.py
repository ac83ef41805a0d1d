"""A body recorded on blocks that remember is the body recorded on blocks that run; and they do not run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import cutaway as cut
from cutaway.engine.graph import Graph
from cutaway.models.language import LanguageModel
from cutaway.models.remembered import remember

Tiny = Callable[[str], LanguageModel]
SPEC = importlib.util.spec_from_file_location("bodies_to_remember", Path(__file__).with_name("test_bodies.py"))
assert SPEC is not None and SPEC.loader is not None
BODIES: Any = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(BODIES)
TEXT = BODIES.TEXT
QUICK = ("llama", "mamba")
ARCHITECTURES = (*QUICK, "gpt2", "neox", "gemma2", "opt", "mamba2", "bloom", "phi", "mixtral")


@cache
def thin(lm: LanguageModel, remembering: bool) -> LanguageModel:
    with torch.device("meta"):
        empty = transformers.AutoModelForCausalLM.from_config(lm.module.config)
    empty.set_experts_implementation("batched_mm")
    made: LanguageModel = cut.open(empty, tokenizer=lm.tokenizer, verify=False)
    if remembering:
        assert made.stack is not None
        remember(made.stack.blocks)
    return made


def recorded(lm: LanguageModel, body: Any, texts: Any = TEXT, **options: Any) -> Graph:
    with lm.record(texts, **options) as run:
        body(lm, run)
    return run.graph


@pytest.mark.parametrize("name", [n if BODIES.kind_of(n) == "llama" else pytest.param(n, marks=pytest.mark.slow) for n in BODIES.BODIES])
def test_bodies_are_the_same(tiny: Tiny, name: str) -> None:
    """The second time, the third on other shapes, the fourth without gradients."""
    lm, body = tiny(BODIES.kind_of(name)), BODIES.BODIES[name]
    plain, quick = thin(lm, False), thin(lm, True)
    for texts in (TEXT, TEXT, ["w1 w2 w3", "w4 w5"], ["w1 w2 w3", "w4 w5"]):
        assert recorded(quick, body, texts).hash == recorded(plain, body, texts).hash


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [a if a in QUICK else pytest.param(a, marks=pytest.mark.slow) for a in ARCHITECTURES])
def test_every_point_can_be_read_and_shapes_are_the_same(tiny: Tiny, architecture: str) -> None:
    lm = tiny(architecture)
    points = [point for point in lm.points() if point.startswith(("embed", "layers[1]", "logits"))]
    for point in points:
        shapes = []
        for model in (thin(lm, False), thin(lm, True), thin(lm, True)):
            with model.scan(TEXT) as run, torch.no_grad():
                run.save(h=run.read(model.site(point)), logits=model.logits if point != "logits" else None)
            shapes.append([(value.shape, value.dtype) for value in run.saved.values() if value is not None])
        assert shapes[0] == shapes[1] == shapes[2]


@pytest.fixture
def counted(tiny: Tiny) -> tuple[LanguageModel, list[int]]:
    """A model that remembers, and how often the parts of each of its blocks have run."""
    with torch.device("meta"):
        empty = transformers.AutoModelForCausalLM.from_config(tiny("llama").module.config)
    lm: LanguageModel = cut.open(empty, tokenizer=tiny("llama").tokenizer, verify=False)
    calls = [0] * lm.sizes.n_layers
    assert lm.stack is not None
    for number, block in enumerate(lm.stack.blocks):
        kind = type(block)

        class Counted(kind):  # type: ignore[misc, valid-type]
            at = number

            def forward(self, *args: Any, **kwargs: Any) -> Any:
                calls[self.at] += 1
                return super().forward(*args, **kwargs)

        block.__class__ = Counted
    remember(lm.stack.blocks)
    return lm, calls


def test_blocks_run_once_or_where_somebody_listens(counted: tuple[LanguageModel, list[int]]) -> None:
    lm, calls = counted

    def read(point: str) -> None:
        with lm.record(TEXT) as run:
            run.save(h=run.read(lm.site(point)), logits=lm.logits)

    read("layers[1].output")
    read("layers[1].output")
    assert calls == [1, 1, 1]
    read("layers[1].attn.z")
    assert calls == [1, 2, 1]
    read("layers[0].attn.pattern")  # offered by attention itself
    assert calls == [2, 2, 1]
    with lm.record([TEXT, "w1 w2"]) as run:
        run.save(h=lm.logits)
    assert calls == [3, 3, 2]


@pytest.mark.slow
def test_a_generation_is_run(tiny: Tiny) -> None:
    """Its cache is more than shapes."""
    lm = tiny("llama")
    graphs = []
    for model in (thin(lm, False), thin(lm, True)):
        for _ in range(2):
            with model.record(TEXT, fn=model.generation(new_tokens=3)) as run:
                for _ in run.steps:
                    model.layers[1].output = model.layers[1].output * 2
                run.save(ids=run.output)
        graphs.append(run.graph.hash)
    assert graphs[0] == graphs[1]


@pytest.mark.slow
def test_derivatives_pass_through(tiny: Tiny) -> None:
    """Of values, and of derivatives."""

    def body(lm: LanguageModel, run: Any) -> None:
        h = lm.layers[0].output
        (slope,) = torch.autograd.grad(lm.logits[0, -1, 3], h, create_graph=True)
        (curve,) = torch.autograd.grad(slope.pow(2).sum(), h)
        run.save(slope=slope, curve=curve)

    lm = tiny("llama")
    for _ in range(2):
        assert recorded(thin(lm, True), body).hash == recorded(thin(lm, False), body).hash


@pytest.mark.slow
def test_it_forgets(monkeypatch: pytest.MonkeyPatch, tiny: Tiny) -> None:
    from cutaway.models import remembered

    monkeypatch.setattr(remembered, "_MOST", 2)
    block = thin(tiny("gpt2"), True).stack
    assert block is not None and isinstance(block.blocks[0], nn.Module)
    for length in range(1, 6):
        recorded(thin(tiny("gpt2"), True), BODIES.BODIES["reads"], " ".join(["w1"] * length))
    cells = block.blocks[0].forward.__closure__ or ()
    assert max(len(cell.cell_contents) for cell in cells if isinstance(cell.cell_contents, dict)) <= 2
