"""The contract of the service: every body and every method gives over HTTP what it gives here, from a client that has no weights.

A graph by itself and a streamed body are bit-identical; graphs that the server packs into one forward are within 1e-4 of the largest value. A method
is bit-identical, cost apart. Methods run in a process of their own there; `tests/service/runners/test_base.py` has every body in one.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import cutaway as cut
from cutaway import registry
from cutaway.models.language import LanguageModel
from cutaway.remote.model import RemoteModel
from cutaway.results.base import Result
from cutaway.service.runners.base import Settings

TESTS = Path(__file__).parents[1]


def of(path: str) -> ModuleType:
    """Another file of the tests, for the bodies and modules it lists."""
    spec = importlib.util.spec_from_file_location(f"remotely_{Path(path).stem}", TESTS / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BODIES, TINY, METHODS = of("models/test_bodies.py"), of("models/conftest.py"), of("contracts/test_methods.py")
TEXT = BODIES.TEXT
QUICK = "llama"
KINDS = [kind if kind == QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in BODIES.KINDS]
EVERY = [
    pytest.param(name, BODIES.kind_of(name), id=name, marks=[] if BODIES.kind_of(name) == QUICK else [pytest.mark.slow])
    for name in BODIES.BODIES
]
METHOD_RUNNERS = [(name, "far") for name in ("read.logit_lens", "locate.direct_effect")]
METHOD_RUNNERS += [pytest.param(name, "apart", marks=pytest.mark.slow) for name in registry.names("methods")]


Both = Callable[[str], tuple[RemoteModel, LanguageModel]]


@pytest.fixture(scope="module")
def models(serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """`models(kind)`: a tiny random model of one of the architectures that the bodies are written for, there and here."""
    yield from tiny(serve, tmp_path_factory.mktemp("models"), BODIES.KINDS)


@pytest.fixture(scope="module")
def architectures(serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """The same of all architectures."""
    yield from tiny(serve, tmp_path_factory.mktemp("architectures"), TINY.KINDS)


def tiny(serve: Any, folder: Path, kinds: Iterable[str]) -> Iterator[Both]:
    names = dict[str, str]()
    for kind in kinds:
        names[kind] = str(folder / kind)
        TINY.tiny_module(kind).save_pretrained(names[kind])
        TINY.word_tokenizer().save_pretrained(names[kind])
    with serve(tuple(names.values())) as (url, _, _), cut.connect(url) as remote:

        @cache
        def both(kind: str) -> tuple[RemoteModel, LanguageModel]:
            far = remote.open(names[kind])
            assert all(p.is_meta for p in far.module.parameters())
            return far, cut.open(names[kind])

        yield both


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_every_body(models: Any, name: str, kind: str) -> None:
    far, here = models(kind)
    live = BODIES.ran(BODIES.BODIES[name], here, here.trace(TEXT)).saved
    with far.trace(TEXT) as run:
        BODIES.BODIES[name](far, run)
    BODIES.assert_same(run.saved, live)
    with far.stream(TEXT) as streamed:
        BODIES.BODIES[name](far, streamed)
    BODIES.assert_same(streamed.saved, live)


@pytest.mark.parametrize("kind", KINDS)
def test_bodies_sent_together(models: Any, kind: str) -> None:
    """Of several lengths and rows, all under way at once: whatever the server makes of it."""
    far, here = models(kind)
    texts = [["w1 w2 w3"], [TEXT], ["w7 w8"], ["w4 w5 w6 w7", "w8 w9 w1 w2"]]
    names = [name for name in BODIES.BODIES if BODIES.kind_of(name) == kind and name not in ("casts", "calls")]
    runs = []
    for number, name in enumerate(names):
        with far.trace(texts[number % 4], wait=False) as run:
            BODIES.BODIES[name](far, run)
        runs.append(run)
    for number, (name, run) in enumerate(zip(names, runs, strict=True)):
        live = BODIES.ran(BODIES.BODIES[name], here, here.trace(texts[number % 4]))
        BODIES.assert_same(run.saved, live.saved, close=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_generation(models: Any, kind: str) -> None:
    far, here = models(kind)
    ids = []
    for lm in (far, here):
        with lm.generate(TEXT, new_tokens=3) as run:
            for step in run.steps[:3]:
                lm.layers[1].output = lm.layers[1].output * (1 + step)
        ids.append(run.output)
    assert torch.equal(*ids)


@pytest.mark.parametrize("kind", KINDS)
def test_runs_and_gradients(models: Any, kind: str) -> None:
    """Every point of the model read, with an edit in the middle; gradients at several."""
    far, here = models(kind)
    edits = [("layers[1].output[pos=-1]", lambda value: value * 1.5)]
    there, local = (lm.run(TEXT, edits=edits, read=here.points()) for lm in (far, here))
    for point in here.points():
        BODIES.assert_same(there[point], local[point])
    at = [point for point in ("layers[0].output", "layers[1].attn.z", "layers[2].input") if point in here.points()]
    for one, other in zip(*(lm.gradients(TEXT, of=lambda out: out.logits[:, -1, 3], at=at) for lm in (far, here)), strict=True):
        for point in at:
            BODIES.assert_same(one[point], other[point])
    whole, same = (lm.run(TEXT).output for lm in (far, here))
    assert type(whole) is type(same) and torch.equal(whole.logits, same.logits)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(TINY.KINDS))
def test_every_architecture(architectures: Any, kind: str) -> None:
    """Prompts of two lengths, every point, the head applied in a body."""
    far, here = architectures(kind)
    texts = [TEXT, "w1 w2 w3"]
    read = here.points()
    there, local = (lm.run(texts, edits=[("layers[1].output", lambda value: value * 1.5)], read=read) for lm in (far, here))
    for point in read:
        BODIES.assert_same(there[point], local[point])
    torch.testing.assert_close(far.next_logits(texts), here.next_logits(texts), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep(models: Any, kind: str) -> None:
    """Every head of every layer taken out, on rows of two lengths; and edits at points that share a tensor in some architectures."""
    far, here = models(kind)
    edits: Any = [
        [(f"layers[{i}].attn.z[head={h}]", torch.zeros_like)] for i in range(here.sizes.n_layers) for h in range(here.sizes.n_heads)
    ]
    edits += [
        [(f"layers[1].attn.{part}", lambda value: value * 1.5) for part in "qkvq"],
        [("layers[0].output[pos=1]", lambda value: value + 1)],
        [],
    ]
    there, local = (lm.sweep([TEXT, "w1 w2 w3"], edits=edits, metric=lambda logits: logits[..., 3] - logits[..., 4]) for lm in (far, here))
    BODIES.assert_same(there, local, close=1e-4)


def plain(result: Result) -> str:
    """A result without what it cost."""
    return result.with_(provenance=dataclasses.replace(result.provenance, seconds=0.0, forwards=0)).to_json()


@pytest.fixture(scope="module")
def apart(serve: Any) -> Iterator[RemoteModel]:
    """The induction model, in a process of its own there."""
    with serve(runner="process", settings=Settings(grace=2.0)) as (url, _, _), cut.connect(url) as remote:
        yield remote.open("induction_lm")


@pytest.mark.parametrize(("name", "runner"), METHOD_RUNNERS)
def test_every_method(request: pytest.FixtureRequest, here: LanguageModel, name: str, runner: str) -> None:
    """As `tests/contracts/test_methods.py` calls them."""
    far = request.getfixturevalue(runner)
    family, _, short = name.partition(".")
    function = getattr(getattr(cut, family), short)
    small = {option: value for option, value in METHODS.SMALL.items() if option in inspect.signature(function).parameters}
    local = function(here, METHODS.TASK, seed=METHODS.SEED, **small)
    there = function(far, METHODS.TASK, seed=METHODS.SEED, **small)
    assert type(there) is type(local) and plain(there) == plain(local)


@pytest.mark.slow
def test_a_process_of_its_own_there(apart: RemoteModel, here: LanguageModel) -> None:
    """A sample of what is no method: bodies, a stream, a sweep."""
    text = "red blue gold red blue"
    for name in ("in_place", "assigned_items", "slices", "stops", "products", "skips"):
        live = BODIES.ran(BODIES.BODIES[name], here, here.trace(text))
        with apart.trace(text) as run:
            BODIES.BODIES[name](apart, run)
        BODIES.assert_same(run.saved, live.saved)
    with apart.stream(text) as run:
        if float(apart.layers[0].output.norm()) > 0:
            apart.layers[0].output = apart.layers[0].output * 2
        run.save(logits=apart.logits)
    doubled = [("layers[0].output", lambda value: value * 2)]
    assert torch.equal(run.saved["logits"], here.run(text, edits=doubled, read=["logits"])["logits"])
    there, local = (lm.sweep(text, edits=[doubled, []], metric=lambda logits: logits[..., :3]) for lm in (apart, here))
    BODIES.assert_same(there, local, close=1e-4)


CLIENT = """
import json, sys
import torch
import cutaway as cut
from cutaway.errors import WeightsError

assert cut.__file__.startswith(sys.argv[2]), cut.__file__
try:
    cut.open("induction_lm")
except WeightsError:
    pass
else:
    raise SystemExit("there are weights")
with cut.connect(sys.argv[1]) as remote:
    lm = remote.open("induction_lm")
    assert all(p.is_meta for p in lm.module.parameters()) and len(list(lm.module.parameters())) > 10
    with lm.trace("red blue gold red blue") as run:
        lm.layers[0].output = lm.layers[0].output * 2
        run.save(logits=lm.logits[0, -1])
    read = lm.run("red blue", read=["layers[1].output"])["layers[1].output"]
    result = cut.read.logit_lens(lm, "induction:n=3,length=6", seed=1)
    with lm.stream("red blue") as streamed:
        streamed.save(norm=float(lm.embed.norm()))
    assert all(p.is_meta for p in lm.module.parameters())
print(json.dumps({
    "logits": run.saved["logits"].tolist(), "read": read.tolist(), "numbers": result.numbers, "norm": streamed.saved["norm"],
}))
"""


@pytest.mark.slow
def test_a_client_process_that_has_no_weights(url: str, here: LanguageModel, tmp_path: Path) -> None:
    """A copy of the package without a file of weights, and a cache without any."""
    shutil.copytree(Path(cut.__file__).parent, tmp_path / "cutaway", ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    environment = {
        "PYTHONPATH": str(tmp_path),
        "CUTAWAY_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
        "PATH": "",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, url, str(tmp_path)], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    with here.trace("red blue gold red blue") as run:
        here.layers[0].output = here.layers[0].output * 2
        run.save(logits=here.logits[0, -1])
    assert found["logits"] == run.saved["logits"].tolist()
    assert found["read"] == here.run("red blue", read=["layers[1].output"])["layers[1].output"].tolist()
    assert found["numbers"] == cut.read.logit_lens(here, "induction:n=3,length=6", seed=1).numbers
    assert found["norm"] == float(here.run("red blue", read=["embed"])["embed"].norm())


@pytest.mark.slow
def test_a_real_model(serve: Any, smollm: LanguageModel) -> None:
    with serve(("smollm2-135m",)) as (url, _, _), cut.connect(url) as remote:
        far, text = remote.open("smollm2-135m"), "The Eiffel Tower is in the city of"
        saved = []
        for lm in (far, smollm):
            with lm.trace(text) as run:
                h = lm.layers[5].output
                lm.layers[8].output = h * 0.5 + lm.layers[8].output
                run.save(
                    pattern=lm.layers[13].attn.pattern, lens=lm.unembed(lm.layers[20].output[:, -1]), top=lm.logits[0, -1].topk(5).indices
                )
            saved.append(run.saved)
        BODIES.assert_same(*saved)
