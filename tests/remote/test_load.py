"""Many clients at once: each gets its own rows, and nobody's job is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import Any

import httpx2
import pytest

from cutaway.engine import wire
from cutaway.models.language import LanguageModel
from cutaway.remote.work import Work

CLIENTS, SECONDS = 200, 5.0


@pytest.mark.slow
def test_two_hundred_clients_at_once(url: str, here: LanguageModel) -> None:
    rng, words = random.Random(0), sorted(word for word in here.tokenizer.get_vocab() if word.isalpha())
    graphs = []
    for factor in (1.5, -1.0):  # two graphs that share forwards
        with here.record(" ".join(words[:8])) as run:
            here.layers[0].output = here.layers[0].output * factor
            run.save(logits=here.logits[0, -1])
        graphs.append(run.graph)
    answers: list[tuple[int, str, bytes]] = []

    async def client(number: int, http: httpx2.AsyncClient, until: float) -> None:
        while time.perf_counter() < until:
            text, which = " ".join(rng.choice(words) for _ in range(rng.choice((6, 8)))), number % 2
            inputs = wire.packed({"args": (text,), "kwargs": {}, "driver": None})
            body = Work("graph", "induction_lm", graph=graphs[which].to_bytes(), inputs=inputs).to_bytes()
            job: Any = (await http.post("/v1/jobs?wait=60", content=body, headers={"Content-Type": "application/vnd.cutaway.work"})).json()
            while job["state"] not in ("done", "failed"):
                job = (await http.get(f"/v1/jobs/{job['id']}?wait=60")).json()
            assert job["state"] == "done", job
            answers.append((which, text, (await http.get(f"/v1/jobs/{job['id']}/result")).content))

    async def all_of_them() -> None:
        async with contextlib.AsyncExitStack() as stack:
            made = [await stack.enter_async_context(httpx2.AsyncClient(base_url=url, timeout=120)) for _ in range(CLIENTS)]
            until = time.perf_counter() + SECONDS
            await asyncio.gather(*(client(number, http, until) for number, http in enumerate(made)))

    asyncio.run(all_of_them())
    assert len(answers) >= CLIENTS
    for which, text, blob in answers:
        expected = here.replay(graphs[which], text).saved["logits"]
        assert (wire.unpacked(blob, 2**20)["saved"]["logits"] - expected).abs().max() <= 1e-4 * expected.abs().max(), text
