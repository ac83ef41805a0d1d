"""Whom the API refuses, and how it says so."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from cutaway.remote.work import MiB
from cutaway.service import api
from cutaway.service.api import app
from cutaway.service.keys import Keys
from cutaway.service.sqlite import Sqlite

NAME = "induction_lm"
NOBODY = "0" * 32
ROUTES = {
    ("POST", "/v1/jobs"): "run",
    ("GET", "/v1/jobs"): "run",
    ("GET", "/v1/jobs?all=true"): "admin",
    ("GET", f"/v1/jobs/{NOBODY}"): "run",
    ("DELETE", f"/v1/jobs/{NOBODY}"): "run",
    ("GET", f"/v1/jobs/{NOBODY}/result"): "run",
    ("GET", f"/v1/jobs/{NOBODY}/events"): "run",
    ("POST", "/v1/sessions"): "run",
    ("POST", f"/v1/sessions/{NOBODY}"): "run",
    ("DELETE", f"/v1/sessions/{NOBODY}"): "run",
    ("GET", "/v1/models"): "run",
    ("GET", f"/v1/models/{NAME}/description"): "run",
    ("POST", f"/v1/models/{NAME}/open"): "admin",
    ("POST", f"/v1/models/{NAME}/close"): "admin",
    ("GET", "/v1/methods"): "run",
    ("GET", "/v1/capabilities"): "run",
    ("GET", "/v1/limits"): "run",
    ("POST", "/v1/drain"): "admin",
    ("GET", "/metrics"): "admin",
}
"""Every route that needs a key, and the scope it needs."""
OPEN = {"/livez", "/readyz"}


def test_every_route_is_listed_here(door: Any) -> None:
    paths = door.http.app.openapi()["paths"]
    stated = {(verb.upper(), path) for path, verbs in paths.items() for verb in verbs if path not in OPEN}
    listed = {(verb, path.partition("?")[0].replace(NOBODY, "{id}").replace(NAME, "{name}")) for verb, path in ROUTES}
    assert stated == listed


@pytest.mark.parametrize(("verb", "path"), list(ROUTES))
def test_keys(door: Any, verb: str, path: str) -> None:
    fields = door(verb, path, "")
    door.refused(fields, 401, "access-error")
    assert fields.headers["www-authenticate"] == "Bearer"
    door.refused(door(verb, path, "press"), 403, "scope-error")
    if ROUTES[verb, path] == "admin":
        door.refused(door(verb, path, "ann"), 403, "scope-error")


def test_keys_that_are_none(door: Any) -> None:
    good = door.texts["ann"]
    ended = door.keys.issue("ann", expires=time.time() + 0.01)
    revoked = door.keys.issue("ann")
    door.keys.revoke(revoked.key.id)
    time.sleep(0.02)
    wrong = ["", good[:-1], good[:-1] + ("0" if good[-1] != "0" else "1"), good.upper(), f"cut_{'0' * 16}_{'0' * 64}", "\xe9", ended.text]
    for text in [*(f"Bearer {key}" for key in [*wrong, revoked.text]), good, f"Basic {good}", f"Bearer {good} {good}"]:
        answer = door("GET", "/v1/limits", "", headers={"Authorization": text.encode("latin-1")})
        door.refused(answer, 401, "access-error")
    assert door("GET", "/v1/limits", "", headers={"Authorization": f"bearer {good}"}).status_code == 200
    newer = door.keys.rotate(door.keys.find("ann")[0].id)
    assert door("GET", "/v1/limits", "", headers={"Authorization": f"Bearer {newer.text}"}).json()["user"] == "ann"


@pytest.mark.parametrize("path", ["", "/result", "/events", "?wait=1"])
def test_another_users_job_is_as_none(door: Any, path: str) -> None:
    theirs = door.method(seed=106, who="bob").json()["id"]
    verbs = ["GET", "DELETE"] if not path else ["GET"]
    for verb in verbs:
        found, none = (door(verb, f"/v1/jobs/{id}{path}", "root") for id in (theirs, NOBODY))
        door.refused(found, 404, "unknown-name-error")
        assert found.text.replace(theirs, NOBODY) == none.text and found.headers.keys() == none.headers.keys()
    assert door("GET", f"/v1/jobs/{theirs}", "bob").json()["state"] == "done"


def test_a_user_with_enough_waiting(idle: Any) -> None:
    for seed in (1, 2):
        assert idle.method(seed=seed, wait=0).status_code == 202
    refused = idle.method(seed=3, wait=0)
    idle.refused(refused, 429, "busy-error")
    assert int(refused.headers["retry-after"]) >= 1
    assert idle.method(seed=3, wait=0, who="bob").status_code == 202
    assert idle("GET", "/v1/limits").json()["unfinished"] == 2


def test_a_server_that_ends(idle: Any) -> None:
    assert idle("GET", "/readyz", "").json() == {"ready": True}
    assert idle("POST", "/v1/drain", "root").json() == {"draining": True}
    for answer in (idle("GET", "/readyz", ""), idle.method()):
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
    idle.refused(answer, 503, "busy-error")
    assert idle("GET", "/livez", "").json() == {"live": True} and idle("GET", "/v1/jobs").status_code == 200


def test_a_table_that_fails(idle: Any, tmp_path: Path) -> None:
    holding = sqlite3.connect(tmp_path / "idle.sqlite", isolation_level=None)
    holding.execute("BEGIN EXCLUSIVE")
    answer = idle.method()
    fields = idle.refused(answer, 503, "storage")
    assert answer.headers["retry-after"] and fields["id"] and "log" in fields["works"]
    holding.execute("ROLLBACK")
    holding.close()
    assert idle.method(wait=0).status_code == 202


@pytest.mark.parametrize(
    ("verb", "path", "given", "status", "kind"),
    [
        ("GET", "/nothing", {}, 404, "unknown-name-error"),
        ("GET", "/v1/jobs/", {}, 404, "unknown-name-error"),
        ("PUT", "/v1/jobs", {}, 405, "input-error"),
        ("DELETE", "/v1/models", {}, 405, "input-error"),
        ("POST", "/v1/jobs", {"json": {}}, 422, "input-error"),
        ("POST", "/v1/jobs", {"json": []}, 422, "input-error"),
        ("POST", "/v1/jobs", {"json": {"model": NAME, "method": "locate.nothing", "task": "facts"}}, 404, "unknown-name-error"),
        ("POST", "/v1/jobs", {"json": {"model": "other", "method": "locate.ablation", "task": "facts"}}, 404, "unknown-name-error"),
        ("POST", "/v1/jobs", {"json": {"model": NAME, "method": "locate.ablation", "task": "facts", "more": 1}}, 422, "input-error"),
        ("POST", "/v1/jobs", {"json": {"model": NAME, "method": "locate.ablation", "task": "facts", "seed": -1}}, 422, "input-error"),
        ("POST", "/v1/jobs", {"json": {"model": NAME, "method": "locate.ablation", "task": "facts", "kind": "graph"}}, 422, "input-error"),
        ("POST", "/v1/jobs", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 422, "input-error"),
        ("POST", "/v1/jobs", {"content": b"x", "headers": {"Content-Type": "application/vnd.cutaway.work"}}, 422, "stream-error"),
        ("POST", "/v1/jobs", {"content": b"{}"}, 415, "input-error"),
        ("POST", "/v1/jobs", {"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415, "input-error"),
        ("POST", "/v1/jobs", {"content": b" " * (4 * MiB + 1), "headers": {"Content-Type": "application/json"}}, 413, "too-large"),
    ],
)
def test_what_is_no_request(door: Any, verb: str, path: str, given: dict[str, Any], status: int, kind: str) -> None:
    answer = door(verb, path, **given)
    door.refused(answer, status, kind)
    assert len(answer.headers["x-request-id"]) == 32 and answer.headers["x-content-type-options"] == "nosniff"


def test_an_open_server_looks_for_keys(door: Any, sqlite: Sqlite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_LOOK", 0.0)
    keys = Keys(sqlite)
    with TestClient(app(door.server, keys, open=True), base_url="http://127.0.0.1") as http:
        assert http.get("/v1/limits").status_code == 200
        keys.issue("ada")
        door.refused(http.get("/v1/limits"), 401, "access-error")


def test_the_first_key_closes_an_open_server(door: Any, sqlite: Sqlite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_LOOK", 1e9)
    keys = Keys(sqlite)
    with TestClient(app(door.server, keys, open=True), base_url="http://127.0.0.1") as http:
        assert http.get("/v1/limits").json()["user"] == "local"
        door.refused(http.get("/v1/limits", headers={"Host": "elsewhere.example"}), 421, "access-error")
        issued = keys.issue("ada")
        known = {"Authorization": f"Bearer {issued.text}", "Host": "elsewhere.example"}
        assert http.get("/v1/limits").json()["user"] == "local", "it has not looked yet"
        assert http.get("/v1/limits", headers=known).json()["user"] == "ada", "a key that is shown is looked for"
        door.refused(http.get("/v1/limits"), 401, "access-error")
        keys.revoke(issued.key.id)
        door.refused(http.get("/v1/limits"), 401, "access-error")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "[::1]:8000"])
def test_without_keys_everybody_here_is_one_user(door: Any, host: str) -> None:
    with TestClient(app(door.server, None), base_url=f"http://{host}") as http:
        assert http.get("/v1/limits").json()["user"] == "local"
        assert http.get("/metrics").status_code == 200
        for path in ("/v1/drain", f"/v1/models/{NAME}/close"):
            door.refused(http.post(path), 403, "scope-error")
        door.refused(http.get("/v1/jobs?all=true"), 403, "scope-error")
