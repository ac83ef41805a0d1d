"""The service's speed, over loopback: what a small job costs, what packing gains, how many clients it bears.

    python benchmarks/service.py [--model induction_lm] [--clients 200] [--seconds 60] [--process] [--out FILE.json]

The server is a process of its own, started as a user would. Every answer is compared with that of the same body here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import cutaway as cut
from cutaway.engine import wire
from cutaway.remote.work import Work
from cutaway.service import serving
from cutaway.service.scheduler import Policy

WORK = {"content-type": "application/vnd.cutaway.work"}
WORDS = 8
TOLERANCE = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="induction_lm", help="a name, or thin: 12 narrow layers (induction_lm)")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=100, help="small jobs, one after another (100)")
    parser.add_argument("--process", action="store_true", help="the model in a process of its own")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.model == "thin":
            options.model = thin(folder)
        told = measured(Subject(options.model), options)
    print(json.dumps(told, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(told, indent=1) + "\n")
    if told["load"]["wrong"] or told["load"]["lost"]:
        raise SystemExit(1)


def measured(subject: Subject, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    full = queue(subject)
    with served(options.model, options.process) as url:
        return {
            "queue": full,
            "overhead": overhead(subject, url, options.jobs),
            "packing": packing(subject, url),
            "load": asyncio.run(load(subject, url, options.clients, options.seconds)),
        }


def thin(folder: str) -> str:
    """A model of 12 layers so narrow that what a forward costs is the calls it makes, as a large one's does on a GPU; a folder, as others are."""
    words = ("<bos>", *(f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(400)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(GPT2Config(n_embd=48, n_head=4, n_layer=12, vocab_size=len(words), bos_token_id=0, eos_token_id=0)).save_pretrained(
            folder
        )
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<bos>").save_pretrained(folder)
    return folder


class Subject:
    """A model, one body on it, and prompts that nobody has sent before."""

    def __init__(self, name: str) -> None:
        self.name, self.lm = name, cut.open(name)
        vocabulary = [self.lm.token_text(i) for i in range(self.lm.sizes.vocab)]
        spaced = [text[1:] for text in vocabulary if text.startswith(" ") and text[1:].isascii() and text[1:].isalpha()]
        self.words = sorted(spaced or (text for text in vocabulary if text.isalpha()))  # a token each, so that prompts are of one length
        self._random = random.Random(0)
        with self.lm.record(self.text()) as run:
            self.body(run)
        self.graph = run.graph.to_bytes()

    def text(self) -> str:
        return " ".join(["The"] * (self.name == "smollm2-135m") + [self._random.choice(self.words) for _ in range(WORDS)])

    def body(self, run: Any) -> None:
        self.lm.layers[0].output = self.lm.layers[0].output * 2
        run.save(logits=self.lm.logits[0, -1])

    def here(self, text: str) -> torch.Tensor:
        with self.lm.trace(text) as run:
            self.body(run)
        return run.saved["logits"]

    def work(self, text: str) -> bytes:
        return Work("graph", self.name, graph=self.graph, inputs=wire.packed({"args": (text,), "kwargs": {}, "driver": None})).to_bytes()

    def differs(self, text: str, answer: bytes) -> bool:
        there, here = wire.unpacked(answer, 2**30)["saved"]["logits"], self.here(text)
        return bool((there - here).abs().max() > TOLERANCE * here.abs().max())


@contextlib.contextmanager
def served(model: str, process: bool) -> Iterator[str]:
    """`cutaway serve`, until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cutaway", "serve", model, "--port", "0", "--folder", folder, *(["--process"] if process else [])]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        try:
            began = time.perf_counter()
            url = server.stdout.readline().split()[-1]
            print(f"serving after {time.perf_counter() - began:.1f} s", file=sys.stderr)
            with httpx2.Client(base_url=url, timeout=600) as client:
                while client.get("/v1/models").json()["models"][0]["state"] != "open":
                    time.sleep(0.1)
            yield url
        finally:
            server.terminate()
            server.wait(60)


def answered(client: httpx2.Client, body: bytes) -> bytes:
    told = client.post("/v1/jobs?wait=60", content=body, headers=WORK).raise_for_status().json()
    assert told["state"] == "done", told
    return client.get(f"/v1/jobs/{told['id']}/result").raise_for_status().content


def overhead(subject: Subject, url: str, jobs: int) -> dict[str, float]:
    """Milliseconds of one job after another, there and here, taken in turn."""
    there, here = [], []
    with httpx2.Client(base_url=url, timeout=600) as client:
        for round in range(jobs + 5):
            text = subject.text()
            began = time.perf_counter()
            answer = answered(client, subject.work(text))
            middle = time.perf_counter()
            subject.here(text)
            end = time.perf_counter()
            assert not subject.differs(text, answer)
            if round >= 5:
                there.append(1e3 * (middle - began))
                here.append(1e3 * (end - middle))
    extra = [a - b for a, b in zip(there, here, strict=True)]
    return {
        "jobs": jobs,
        "here_ms": statistics.median(here),
        "there_ms": statistics.median(there),
        "overhead_ms": statistics.median(extra),
        "overhead_p90_ms": statistics.quantiles(extra, n=10)[-1],
    }


def queue(subject: Subject, jobs: int = 96, rounds: int = 3) -> dict[str, float]:
    """Jobs a second of a server without HTTP, from a full queue: 16 in a forward, and one."""

    def rate(pack: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            with serving.opened(serving.Site((subject.name,), folder=Path(folder), policy=Policy(pack=pack))) as (server, _):
                for _ in range(2):  # the first time a model finds out how its values lie in a batch
                    server.dispatcher.draining, before = True, server.jobs.counts()["done"]
                    for _ in range(jobs):
                        work = Work.from_bytes(subject.work(subject.text()))
                        server.catalogue.admit(work)
                        server.jobs.accept("queue", work)
                    began, server.dispatcher.draining = time.perf_counter(), False
                    server.dispatcher.wake()
                    while server.jobs.counts()["done"] < before + jobs:
                        time.sleep(0.002)
                return jobs / (time.perf_counter() - began)

    one, many = zip(*((rate(1), rate(16)) for _ in range(rounds)), strict=True)
    a, b = statistics.median(one), statistics.median(many)
    return {"jobs": jobs, "rounds": rounds, "pack_1_per_s": a, "pack_16_per_s": b, "ratio": b / a}


def packing(subject: Subject, url: str, jobs: int = 16, rounds: int = 5) -> dict[str, float]:
    """Jobs a second: each sent when the last is answered, and all sent before any is."""

    async def together() -> float:
        async with httpx2.AsyncClient(base_url=url, timeout=600, limits=httpx2.Limits(max_connections=jobs)) as client:
            bodies = [subject.work(subject.text()) for _ in range(jobs)]
            began = time.perf_counter()
            await asyncio.gather(*(once(client, body) for body in bodies))
            return jobs / (time.perf_counter() - began)

    def alone() -> float:
        with httpx2.Client(base_url=url, timeout=600) as client:
            bodies = [subject.work(subject.text()) for _ in range(jobs)]
            began = time.perf_counter()
            for body in bodies:
                answered(client, body)
            return jobs / (time.perf_counter() - began)

    one, many = zip(*((alone(), asyncio.run(together())) for _ in range(rounds + 1)), strict=True)
    a, b = statistics.median(one[1:]), statistics.median(many[1:])
    return {"jobs": jobs, "rounds": rounds, "one_at_a_time_per_s": a, "together_per_s": b, "ratio": b / a}


async def once(client: httpx2.AsyncClient, body: bytes) -> bytes:
    told = (await client.post("/v1/jobs?wait=60", content=body, headers=WORK)).raise_for_status().json()
    while told["state"] not in ("done", "failed", "cancelled"):
        told = (await client.get(f"/v1/jobs/{told['id']}?wait=60")).raise_for_status().json()
    assert told["state"] == "done", told
    return (await client.get(f"/v1/jobs/{told['id']}/result")).raise_for_status().content


async def load(subject: Subject, url: str, clients: int, seconds: float) -> dict[str, float]:
    """Clients that each send a job when their last is answered. lost: jobs that were not answered; wrong: answers that are another's, or nobody's."""
    took, answers, lost, until = list[float](), list[tuple[str, bytes]](), 0, 0.0

    async def client(http: httpx2.AsyncClient) -> None:
        nonlocal lost
        while time.perf_counter() < until:
            text, began = subject.text(), time.perf_counter()
            try:
                answers.append((text, await once(http, subject.work(text))))
                took.append(time.perf_counter() - began)
            except (httpx2.HTTPError, AssertionError) as error:
                lost += 1
                print(f"lost: {type(error).__name__} {error}", file=sys.stderr)

    async with contextlib.AsyncExitStack() as stack:
        # a connection each: that is what clients are
        made = [await stack.enter_async_context(httpx2.AsyncClient(base_url=url, timeout=600)) for _ in range(clients)]
        began = time.perf_counter()
        until = began + seconds
        await asyncio.gather(*map(client, made))
        whole = time.perf_counter() - began
    wrong = sum(subject.differs(text, answer) for text, answer in answers)
    percentile = statistics.quantiles(took, n=100)
    return {
        "clients": clients,
        "seconds": whole,
        "jobs": len(answers),
        "per_s": len(answers) / whole,
        "p50_s": percentile[49],
        "p99_s": percentile[98],
        "lost": lost,
        "wrong": wrong,
    }


if __name__ == "__main__":
    main()
