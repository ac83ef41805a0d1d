"""Every route: what it answers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import cutaway as cut
from cutaway.engine import wire
from cutaway.models.weightless import weightless
from cutaway.remote.work import MiB, Work
from cutaway.results.base import Result

NAME, TEXT = "induction_lm", "red blue gold red blue"
NOBODY = "0" * 32


@pytest.fixture(scope="module")
def graph(door: Any) -> bytes:
    """A work: twice the first layer's output, and the logits that come of it."""
    lm = cut.open(NAME)
    with lm.record(TEXT) as run:
        lm.layers[0].output = lm.layers[0].output * 2
        run.save(logits=lm.logits)
    return Work("graph", NAME, graph=run.graph.to_bytes(), inputs=wire.packed({"args": (TEXT,)})).to_bytes()


@pytest.fixture(scope="module")
def busy(door: Any) -> bytes:
    """A work of many seconds, which looks whether it is to end before each of its operations."""
    lm = cut.open(NAME)
    with lm.record(TEXT) as run:
        h = lm.layers[0].output[0, :1, :1].expand(1500, 1500) * 1e-3
        for _ in range(200):
            h = h @ h
        run.save(h=h.sum())
    return Work("graph", NAME, graph=run.graph.to_bytes(), inputs=wire.packed({"args": (TEXT,)})).to_bytes()


@pytest.fixture
def running(door: Any, busy: bytes) -> Iterator[str]:
    """The id of a job of ann's that runs."""
    id = door.work(busy, wait=0).json()["id"]
    until = time.monotonic() + 10
    while door("GET", f"/v1/jobs/{id}").json()["state"] != "running" and time.monotonic() < until:
        time.sleep(0.01)
    yield id
    door("DELETE", f"/v1/jobs/{id}")


def told(text: str) -> list[dict[str, str]]:
    """Server-sent events, as the standard reads them."""
    return [dict(line.split(": ", 1) for line in one.splitlines()) for one in text.split("\n\n") if one and not one.startswith(":")]


# Jobs


def test_a_method_gives_what_it_gives_here(door: Any) -> None:
    answer = door.method(seed=101)
    job = answer.json()
    assert answer.status_code == 200 and answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["kind"], job["model"], job["method"]) == ("done", "method", NAME, "locate.direct_effect")
    assert job["accepted"] <= job["started"] <= job["finished"] and job["seconds"] > 0
    assert not job["cached"] and job["position"] == 0 and job["problem"] is None and job["warnings"] == []
    fetched = door("GET", f"/v1/jobs/{job['id']}/result")
    assert fetched.headers["content-type"] == "application/vnd.safetensors" and fetched.headers["etag"] == f'"{job["result"]["hash"]}"'
    assert len(fetched.content) == job["result"]["size"]
    here = cut.locate.direct_effect(cut.open(NAME), "induction:n=2,length=6", seed=101)
    assert Result.from_bytes(fetched.content).numbers == here.numbers
    again = door.method(seed=101, who="bob", wait=0)
    assert again.status_code == 200 and again.json()["cached"] and again.json()["result"] == job["result"]


def test_a_graph_gives_what_it_gives_here(door: Any, graph: bytes) -> None:
    answer = door.work(graph, wait=0)
    assert answer.status_code in (200, 202)
    job = door("GET", f"/v1/jobs/{answer.json()['id']}?wait=20").json()
    found = wire.unpacked(door("GET", f"/v1/jobs/{job['id']}/result").content, MiB)["saved"]["logits"]
    lm = cut.open(NAME)
    with lm.trace(TEXT) as run, torch.no_grad():
        lm.layers[0].output = lm.layers[0].output * 2
    assert torch.equal(found, run.output)


def test_a_job_that_fails_says_why(door: Any) -> None:
    job = door.method(task="induction:n=2,length=60").json()
    assert job["state"] == "failed" and job["problem"]["type"] == "prompt-error" and job["result"] is None
    assert job["problem"].keys() >= {"type", "title", "detail", "asked", "found", "works", "line"}
    fields = door.refused(door("GET", f"/v1/jobs/{job['id']}/result"), 409, "input-error")
    assert "failed" in fields["found"]


def test_jobs_are_listed_newest_first(idle: Any) -> None:
    first, second = (idle.method(seed=n, wait=0).json()["id"] for n in (1, 2))
    other = idle.method(who="bob", wait=0).json()["id"]

    def listed(query: str, who: str = "ann") -> list[str]:
        return [job["id"] for job in idle("GET", f"/v1/jobs?{query}", who).json()["jobs"]]

    assert listed("") == [second, first] and listed("limit=1") == [second] and listed(f"before={second}") == [first]
    assert listed("state=queued") == [second, first] and listed("state=done") == []
    assert listed("", "bob") == [other] and listed("all=true", "root") == [other, second, first] and listed("", "root") == []
    idle.refused(idle("GET", "/v1/jobs?all=true"), 403, "scope-error")
    for query in ("limit=0", "limit=501", "limit=x", "state=x", f"limit={2**70}"):
        idle.refused(idle("GET", f"/v1/jobs?{query}"), 422, "input-error")
    idle.refused(idle("GET", f"/v1/jobs?before={NOBODY}"), 404, "unknown-name-error")
    assert [idle("GET", f"/v1/jobs/{id}").json()["position"] for id in (first, second)] == [1, 2]


def test_waiting_ends_with_the_time_or_the_job(idle: Any) -> None:
    began = time.monotonic()
    answer = idle.method(wait=0.3)
    assert answer.status_code == 202 and answer.json()["state"] == "queued" and 0.3 <= time.monotonic() - began < 2
    id = answer.json()["id"]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(idle, "GET", f"/v1/jobs/{id}?wait=20")
        time.sleep(0.1)
        assert idle("DELETE", f"/v1/jobs/{id}").json()["state"] == "cancelled"
        assert waiting.result(3).json()["state"] == "cancelled"
    for wait in ("-1", "61", "x", "nan", "inf"):
        idle.refused(idle("GET", f"/v1/jobs/{id}?wait={wait}"), 422, "input-error")


def test_a_job_that_runs_is_cancelled(door: Any, running: str) -> None:
    door.refused(door("DELETE", f"/v1/jobs/{running}", "bob"), 404, "unknown-name-error")
    door.refused(door("GET", f"/v1/jobs/{running}/result"), 409, "input-error")
    assert door("DELETE", f"/v1/jobs/{running}").json()["state"] == "cancelled"
    assert door("DELETE", f"/v1/jobs/{running}").json()["state"] == "cancelled"  # once more changes nothing
    began = time.monotonic()
    assert door.method(seed=102).json()["state"] == "done" and time.monotonic() - began < 5  # its model is free again
    door.refused(door("GET", f"/v1/jobs/{running}/result"), 409, "input-error")


def test_a_result_that_is_gone(door: Any) -> None:
    job = door.method(seed=103).json()
    door.server.results.delete(job["result"]["hash"])
    for _ in range(2):
        door.refused(door("GET", f"/v1/jobs/{job['id']}/result"), 410, "input-error")
    assert door("GET", f"/v1/jobs/{job['id']}").json()["state"] == "expired"
    assert not door.method(seed=103).json()["cached"]


def test_the_same_key_is_the_same_job(idle: Any) -> None:
    key = {"Idempotency-Key": "mine"}

    def sent(seed: int, who: str = "ann", **headers: str) -> Any:
        call = {"model": NAME, "method": "locate.direct_effect", "task": "induction", "seed": seed}
        return idle("POST", "/v1/jobs", who, json=call, headers=headers)

    first = sent(1, **key).json()["id"]
    assert sent(1, **key).json()["id"] == first
    idle.refused(sent(2, **key), 422, "conflict-error")
    assert sent(1).json()["id"] != first
    theirs = sent(2, "bob", **key)
    assert theirs.status_code == 202 and theirs.json()["id"] != first
    for wrong in ("", "x" * 201, "a\tb"):
        idle.refused(sent(1, "root", **{"Idempotency-Key": wrong}), 422, "input-error")


# Events


def test_events_of_a_job(door: Any) -> None:
    id = door.method(seed=104).json()["id"]
    streamed = door("GET", f"/v1/jobs/{id}/events", headers={"Accept": "text/event-stream"})
    assert streamed.headers["content-type"].startswith("text/event-stream") and streamed.headers["cache-control"] == "no-store"
    events = told(streamed.text)
    states = [json.loads(one["data"])["state"] for one in events if one["event"] == "state"]
    assert states == ["received", "queued", "running", "done"] and all(json.loads(one["data"])["time"] > 1e9 for one in events)
    numbers = [int(one["id"]) for one in events]
    assert numbers == sorted(set(numbers))
    rest = door("GET", f"/v1/jobs/{id}/events", headers={"Last-Event-ID": str(numbers[1])})
    assert [int(one["id"]) for one in told(rest.text)] == numbers[2:]
    plain = door("GET", f"/v1/jobs/{id}/events", headers={"Accept": "application/json", "Last-Event-ID": str(numbers[0])}).json()["events"]
    assert [one["number"] for one in plain] == numbers[1:] and plain[-1]["data"]["state"] == "done"
    door.refused(door("GET", f"/v1/jobs/{id}/events", "bob"), 404, "unknown-name-error")


def test_events_end_with_the_job(door: Any, running: str) -> None:
    with ThreadPoolExecutor() as pool:
        following = pool.submit(door, "GET", f"/v1/jobs/{running}/events")
        time.sleep(0.1)
        assert not following.done()
        door("DELETE", f"/v1/jobs/{running}")
        states = [json.loads(one["data"])["state"] for one in told(following.result(5).text)]
    assert states == ["received", "queued", "running", "cancelled"]


# Sessions


class Transport:
    """Messages of `lm.stream` over the API."""

    def __init__(self, door: Any, who: str = "ann") -> None:
        self.door, self.who = door, who
        self.opened = door("POST", "/v1/sessions", who, json={"model": NAME})
        self.path = f"/v1/sessions/{self.opened.json()['id']}"

    def send(self, message: bytes) -> bytes:
        answer = self.door("POST", self.path, self.who, content=message, headers={"Content-Type": "application/octet-stream"})
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/octet-stream"
        content: bytes = answer.content
        return content

    def close(self) -> None:
        assert self.door("DELETE", self.path, self.who).status_code == 204


def test_a_session(door: Any) -> None:
    lm, rounds, over = cut.open(NAME), 0, Transport(door)
    assert over.opened.status_code == 201 and over.opened.json().keys() == {"id", "model", "park"}
    assert door.server.sessions.models() == {NAME}
    with torch.no_grad(), lm.stream(TEXT, to=over) as run:
        h = lm.layers[0].output
        while h.norm() > 1:
            h, rounds = h / 2, rounds + 1
        lm.layers[0].output = h
        run.save(logits=lm.logits)
    with torch.no_grad(), lm.trace(TEXT) as live:
        lm.layers[0].output = lm.layers[0].output / 2**rounds
    assert rounds > 1 and torch.equal(run.saved["logits"], live.output)
    door.refused(door("DELETE", over.path), 404, "unknown-name-error")  # it has ended


def test_sessions_are_their_users(door: Any) -> None:
    over = Transport(door)
    kind = {"Content-Type": "application/octet-stream"}
    door.refused(door("POST", over.path, "bob", content=b"x", headers=kind), 404, "unknown-name-error")
    door.refused(door("DELETE", over.path, "bob"), 404, "unknown-name-error")
    door.refused(door("POST", over.path, json={}), 415, "input-error")
    second = Transport(door)
    fields = door("POST", "/v1/sessions", json={"model": NAME})
    door.refused(fields, 429, "busy-error")
    assert int(fields.headers["retry-after"]) > 0
    over.close()
    second.close()
    door.refused(door("POST", "/v1/sessions", json={"model": "other"}), 404, "unknown-name-error")
    door.refused(door("POST", "/v1/sessions", json={"model": NAME, "more": 1}), 422, "input-error")
    door.refused(door("POST", "/v1/sessions", content=b"{}", headers={"Content-Type": "text/plain"}), 415, "input-error")


# What there is


def test_models(door: Any) -> None:
    (model,) = door("GET", "/v1/models").json()["models"]
    assert (model["name"], model["state"], model["context"], model["queued"]) == (NAME, "open", 64, 0) and model["bytes"] > 1000
    told = door("GET", f"/v1/models/{NAME}/description")
    assert told.headers["etag"] == f'"{model["revision"]}"' and weightless(wire.unpacked(told.content, MiB)).name == NAME
    door.refused(door("GET", "/v1/models/other/description"), 404, "unknown-name-error")


def test_models_are_opened_and_closed_by_administrators(door: Any) -> None:
    assert door("POST", f"/v1/models/{NAME}/close", "root").json()["state"] == "closed"
    assert door("POST", f"/v1/models/{NAME}/open", "root").status_code == 202
    until = time.monotonic() + 10
    while door("GET", "/v1/models").json()["models"][0]["state"] != "open" and time.monotonic() < until:
        time.sleep(0.02)
    assert door.method(seed=105).json()["state"] == "done"
    for verb in ("open", "close"):
        door.refused(door("POST", f"/v1/models/other/{verb}", "root"), 404, "unknown-name-error")


def test_what_a_server_can_do(door: Any) -> None:
    methods = {one["name"]: one for one in door("GET", "/v1/methods").json()["methods"]}
    schema = methods["locate.dbm"]["arguments"]
    assert schema["additionalProperties"] is False and schema["properties"]["basis"]["enum"] == ["neurons", "pca"]
    can = door("GET", "/v1/capabilities").json()
    assert can["models"] == [NAME] and can["wire"] == [1] and "Tensor.add" in can["operations"] and can["limits"]["nodes"] == 10_000
    limits = door("GET", "/v1/limits", "bob").json()
    assert limits["user"] == "bob" and limits["balance"] <= limits["burst"] and limits["sessions"] == 2
    assert door("GET", "/v1/openapi.json", "").json()["info"]["title"] == "Cutaway"


def test_metrics_name_nobody(door: Any) -> None:
    text = door("GET", "/metrics", "root").text
    assert 'cutaway_requests_total{route="/v1/jobs/{id}",state="200"}' in text
    assert not {"ann", "bob", *door.texts.values()} & set(text.replace('"', " ").split())
