"""One opened model used by many threads and tasks at once: each gets to the bit what it gets alone, and nothing is left."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cutaway as cut
from cutaway.engine import detour, eager, site
from cutaway.engine.interleave import open_on
from cutaway.errors import TraceError
from cutaway.models import attention
from cutaway.models.language import LanguageModel

Job = Callable[[LanguageModel, int], Any]
TEXTS = ("w1 w2 w3 w4", "w9 w8 w7 w6", "w5 w6 w7 w1 w2", "w11 w3")


def left(lm: LanguageModel) -> list[Any]:
    """All that a run might leave on a model."""
    modules = list(lm.module.modules())
    configs = {m.config._attn_implementation for m in modules if hasattr(m, "config")} - {"sdpa"}
    hooks = [h for m in modules for h in (*m._forward_hooks, *m._forward_pre_hooks)]
    forwards = [m for m in modules if "forward" in m.__dict__]
    return [
        *configs,
        *hooks,
        *forwards,
        *site._TAPS,
        *detour._CROSSINGS,
        *attention._HELD,
        *eager._HOLDERS,
        *([] if open_on(lm) is None else [lm]),
    ]


def trace(lm: LanguageModel, seed: int) -> Any:
    with torch.no_grad(), lm.trace(TEXTS[seed % 4]) as run:
        early = lm.layers[0].output
        lm.layers[1].mlp.output *= seed % 3
        z = lm.layers[2].attn.z
    return early, z, run.output.logits


def graded(lm: LanguageModel, seed: int) -> Any:
    with lm.trace(TEXTS[seed % 4]) as run:
        hidden = lm.layers[1].output
        lm.layers[2].mlp.output = lm.layers[2].mlp.output * seed
    return torch.autograd.grad(run.output.logits[0, -1, seed % 40], hidden)


def pattern(lm: LanguageModel, seed: int) -> Any:
    """Switches the attention of the model."""
    with torch.no_grad(), lm.trace(TEXTS[seed % 4]) as run:
        seen = lm.layers[1].attn.pattern.clone()
        lm.layers[1].attn.pattern[:, seed % 4] = 0
    return seen, run.output.logits


def read(lm: LanguageModel, seed: int) -> Any:
    points = ["layers[0].attn.v", f"layers[{seed % 3}].attn.scores", "logits"]
    found = lm.run(TEXTS[seed % 4], read=points, edits=[("layers[0].mlp.output", lambda v: v * seed)])
    return [found[point] for point in points]


def sweep(lm: LanguageModel, seed: int) -> Any:
    edits = [[(f"layers[{i % 3}].mlp.output[pos=-1]", lambda v, i=i: v * (i + seed))] for i in range(4)]
    return lm.sweep(TEXTS[seed % 4], edits=edits, metric=lambda logits: logits[..., 3])


def gradients(lm: LanguageModel, seed: int) -> Any:
    values, slopes = lm.gradients(TEXTS[seed % 4], of=lambda out: out.logits[0, -1, seed % 40], at=["layers[1].attn.z"])
    return values["layers[1].attn.z"], slopes["layers[1].attn.z"]


def looked_into(lm: LanguageModel, seed: int) -> Any:
    with torch.no_grad(), lm.trace(TEXTS[seed % 4]) as run:
        inside = lm.layers[seed % 3].attn.source
        query = inside.attention_interface_0.inputs[0][1]
        inside.attention_interface_0.output = tuple(None if v is None else v * 2 for v in inside.attention_interface_0.output)
    return query, run.output.logits


def skipped(lm: LanguageModel, seed: int) -> Any:
    with torch.no_grad(), lm.trace(TEXTS[seed % 4]) as run:
        lm.layers[seed % 3].skip(lm.layers[seed % 3].input + 1)
    return run.output.logits


def generated(lm: LanguageModel, seed: int) -> Any:
    found = []
    with lm.generate(TEXTS[seed % 4], new_tokens=3, temperature=float(seed % 2), seed=seed) as run:
        for step in run.steps:
            if step:
                lm.layers[1].output += seed
            found.append(lm.logits[:, -1])
    return [run.output, *found]


def untouched(lm: LanguageModel, seed: int) -> Any:
    """The module by itself, which must not notice the others."""
    with torch.no_grad():
        return lm.module(**lm.arguments((lm.tokens(TEXTS[seed % 4]),), {})[1]).logits


def failing(lm: LanguageModel, seed: int) -> Any:
    try:
        with torch.no_grad(), lm.trace(TEXTS[seed % 4]) as run:
            kept = lm.layers[1].attn.pattern.clone()
            if seed % 2:
                run.stop()
            raise ZeroDivisionError
    except ZeroDivisionError:
        return kept


JOBS: tuple[Job, ...] = (trace, graded, pattern, read, sweep, gradients, looked_into, skipped, generated, untouched, failing)


def flat(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [leaf for part in value for leaf in flat(part)]


def same(one: Any, other: Any) -> bool:
    return len(flat(one)) == len(flat(other)) and all(torch.equal(a, b) for a, b in zip(flat(one), flat(other), strict=True))


@pytest.fixture
def lm(fresh: Callable[..., nn.Module], tokenizer: Callable[..., Any]) -> Iterator[LanguageModel]:
    opened = cut.open(fresh("llama"), tokenizer=tokenizer())
    yield opened
    assert left(opened) == []


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def together(lm: LanguageModel, jobs: list[tuple[Job, int]], threads: int = 8) -> None:
    alone = [job(lm, seed) for job, seed in jobs]
    assert left(lm) == []
    start = threading.Barrier(threads)
    with ThreadPoolExecutor(threads, initializer=start.wait) as pool:
        found = list(pool.map(lambda job: job[0](lm, job[1]), jobs))
    wrong = [f"{job.__name__}({seed})" for (job, seed), a, b in zip(jobs, alone, found, strict=True) if not same(a, b)]
    assert not wrong


Meanwhile = Callable[[], Any]


def in_a_trace(lm: LanguageModel, meanwhile: Meanwhile) -> Any:
    with torch.no_grad(), lm.trace(TEXTS[0]) as run:
        before = lm.layers[1].input
        meanwhile()
        lm.layers[1].output *= 2
        meanwhile()
    return before, run.output.logits


def in_a_pattern(lm: LanguageModel, meanwhile: Meanwhile) -> Any:
    with torch.no_grad(), lm.trace(TEXTS[0]) as run:
        lm.layers[1].attn.pattern[:, 1] = 0
        meanwhile()
    return run.output.logits


def in_a_forward_looked_into(lm: LanguageModel, meanwhile: Meanwhile) -> Any:
    with torch.no_grad(), lm.trace(TEXTS[0]) as run:
        found = lm.layers[1].attn.source.attention_interface_0
        found.output = tuple(None if v is None else v * 2 for v in found.output)
        meanwhile()
    return run.output.logits


def before_a_skip(lm: LanguageModel, meanwhile: Meanwhile) -> Any:
    with torch.no_grad(), lm.trace(TEXTS[0]) as run:
        lm.layers[1].skip(lm.layers[1].input + 1)
        meanwhile()
    return run.output.logits


def in_a_generation(lm: LanguageModel, meanwhile: Meanwhile) -> Any:
    with lm.generate(TEXTS[0], new_tokens=3) as run:
        for step in run.steps[1:]:
            lm.layers[1].output += step
            meanwhile()
    return run.output


def in_a_run(lm: LanguageModel, meanwhile: Meanwhile) -> Any:
    edits = [("layers[1].mlp.output", lambda v: (meanwhile(), v * 2)[1]), ("layers[1].attn.pattern", lambda v: (meanwhile(), v.flip(1))[1])]
    return lm.run(TEXTS[0], edits=edits, read=["logits"])["logits"]


def in_a_sweep(lm: LanguageModel, meanwhile: Meanwhile) -> Any:
    edits = [[("layers[1].mlp.output[pos=-1]", lambda v: (meanwhile(), v * 2)[1])], [("layers[1].attn.z", lambda v: v * 0)]]
    return lm.sweep(TEXTS[0], edits=edits, metric=lambda out: out)


def before_a_backward(lm: LanguageModel, meanwhile: Meanwhile) -> Any:
    of = lambda out: (meanwhile(), out.logits[0, -1, 3])[1]  # noqa: E731
    return lm.gradients(TEXTS[0], of=of, at=["layers[1].attn.z"])[1]["layers[1].attn.z"]


PARKED = (in_a_trace, in_a_pattern, in_a_forward_looked_into, before_a_skip, in_a_generation, in_a_run, in_a_sweep, before_a_backward)


def mixed(count: int, seed: int) -> list[tuple[Job, int]]:
    generator = torch.Generator().manual_seed(seed)
    return [(JOBS[i % len(JOBS)], i) for i in torch.randint(0, 1000, (count,), generator=generator).tolist()]


def test_all_sorts_at_once(lm: LanguageModel, switching: None) -> None:
    together(lm, [(job, seed) for seed in range(3) for job in JOBS])


def test_everything_while_one_waits(lm: LanguageModel) -> None:
    """One thread stands in the middle of its forward, with all it has put on the model, while another does everything there is to do."""
    alone = [job(lm, 2) for job in JOBS]
    wrong: list[str] = []

    def others() -> None:
        wrong.extend(job.__name__ for job, before in zip(JOBS, alone, strict=True) if not same(job(lm, 2), before))

    with ThreadPoolExecutor(1) as pool:
        for one in PARKED:
            undisturbed = one(lm, lambda: None)
            assert same(one(lm, lambda: pool.submit(others).result()), undisturbed) and not wrong, (one.__name__, wrong)
            assert left(lm) == []


def test_attention_that_is_closed_between_look_up_and_call(lm: LanguageModel) -> None:
    """By another thread: the forward goes on as its config says."""
    module = lm.part("model.layers.0.self_attn")
    with attention.opened(lm.module):
        pass
    q, k = torch.randn(2, 1, 4, 5, 16, generator=torch.Generator().manual_seed(0)).unbind()
    lm.module.config._attn_implementation = "eager"
    out, weights = attention._route(module, q, k[:, :2], k[:, :2], None, scaling=0.25)
    lm.module.config._attn_implementation = "sdpa"
    assert weights.shape == (1, 4, 5, 5)  # of eager attention alone
    fused, none = attention._route(module, q, k[:, :2], k[:, :2], None, scaling=0.25)
    assert none is None and fused.shape == out.shape


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_many_of_one_sort(lm: LanguageModel, switching: None, job: Job) -> None:
    together(lm, [(job, seed) for seed in range(64)])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_many_of_all_sorts(lm: LanguageModel, switching: None, seed: int) -> None:
    together(lm, mixed(120, seed))


def test_tasks(lm: LanguageModel) -> None:
    """Traces of several tasks, open on one model at one time."""

    async def one(text: str, by: float) -> list[Tensor]:
        with lm.trace(text) as run:
            await asyncio.sleep(0)
            early = lm.layers[0].output
            await asyncio.sleep(0)
            lm.layers[1].output *= by
            await asyncio.sleep(0)
            seen = lm.layers[2].attn.pattern
            await asyncio.sleep(0)
        return [early, seen, run.output.logits]

    async def every() -> list[list[Tensor]]:
        return await asyncio.gather(*(one(text, by) for by, text in enumerate(TEXTS)))

    with torch.no_grad():  # around all of them: torch keeps it by thread, and tasks would put back each other's
        for by, found in enumerate(asyncio.run(every())):
            assert same(found, asyncio.run(one(TEXTS[by], by)))


def test_threads_of_tasks(lm: LanguageModel) -> None:
    async def every() -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(job, lm, seed) for seed, job in enumerate((trace, read, pattern, generated))))

    for seed, (job, found) in enumerate(zip((trace, read, pattern, generated), asyncio.run(every()), strict=True)):
        assert same(found, job(lm, seed))


def test_forwards_are_counted(lm: LanguageModel, switching: None) -> None:
    before = lm.forwards
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: lm.run("w1", read=["embed"]), range(400)))
    assert lm.forwards - before == 400


def test_a_trace_belongs_to_its_thread(lm: LanguageModel) -> None:
    def here(action: Callable[[], Any]) -> str:
        with pytest.raises(TraceError) as caught:
            action()
        return str(caught.value)

    with torch.no_grad(), lm.trace(TEXTS[0]) as run, ThreadPoolExecutor(1) as pool:
        lm.layers[0].output  # noqa: B018
        site_of = lm.site("layers[0].output")
        for action in (
            lambda: run.output,
            lambda: run.stop(),
            lambda: run.read(site_of),  # where it is parked
            lambda: run.read(lm.site("layers[2].output")),
            lambda: run.write(lm.site("layers[2].output"), 0),
            lambda: list(run.steps),
        ):
            assert "another thread" in pool.submit(here, action).result()
        assert "no trace is open" in pool.submit(here, lambda: lm.layers[1].output).result()
        assert same(pool.submit(trace, lm, 1).result(), pool.submit(trace, lm, 1).result())  # one of its own is none of this one's business
        late = lm.layers[2].output
    assert same(late, lm.run(TEXTS[0], read=["layers[2].output"])["layers[2].output"])


def test_model_is_freed_by_reference_counts_alone(fresh: Callable[..., nn.Module], tokenizer: Callable[..., Any]) -> None:
    """After any of them."""
    kept, words = [], tokenizer()
    gc.collect()
    gc.disable()
    try:
        for job in JOBS:
            lm = cut.open(fresh("llama"), tokenizer=words, verify=False)
            job(lm, 1)
            gone = weakref.ref(lm.module), weakref.ref(lm.module.lm_head.weight)
            del lm
            if any(ref() is not None for ref in gone):
                kept.append(job.__name__)
    finally:
        gc.enable()
    assert not kept
