"""What a stranger, or a page in a browser, may try at the port itself."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from cutaway.service import api
from cutaway.service.serving import WIRE

pytestmark = pytest.mark.usefixtures("unharmed")
NOBODY = "0" * 32
CALL = {"model": "induction_lm", "method": "locate.direct_effect", "task": "induction:n=2,length=6"}


def test_keys_in_other_places(door: Any) -> None:
    key = door.texts["ann"]
    for given in (
        {"params": {"key": key}},
        {"params": {"access_token": key}},
        {"headers": {"X-Api-Key": key}},
        {"headers": {"Cookie": f"key={key}"}},
    ):
        door.refused(door("GET", "/v1/jobs", "", **given), 401, "access-error")
    answer = door.http.get(f"/{key}", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 404 and key not in answer.text


def test_other_verbs(door: Any) -> None:
    verbs = ("HEAD", "OPTIONS", "TRACE", "PATCH", "CONNECT", "FOO")
    for verb, path in itertools.product(verbs, ("/v1/jobs", f"/v1/jobs/{NOBODY}", "/v1/sessions", "/livez")):
        answer = door(verb, path, headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"})
        assert answer.status_code == 405 and not any(name.startswith("access-control") for name in answer.headers)


HOSTS = (
    "evil.example",
    "evil.example:8000",
    "127.0.0.1.evil.example",
    "localhost.evil.example:8000",
    "localhost@evil.example",
    "",
    "0.0.0.0:8000",
    ":8000",
)


def test_pages_in_a_browser_do_not_reach_an_open_server(door: Any) -> None:
    with TestClient(api.app(door.server, None), base_url="http://127.0.0.1:8000") as http:
        for host in HOSTS:  # a name of its own that was made to point here
            door.refused(http.get("/v1/jobs", headers={"Host": host}), 421, "access-error")
        for path in ("/v1/jobs", "/v1/sessions", f"/v1/sessions/{NOBODY}"):  # what a form or a script may send without asking
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
                answer = http.post(path, content=json.dumps(CALL), headers={"Content-Type": kind, "Origin": "http://evil.example"})
                door.refused(answer, 415, "input-error")
        assert http.post("/v1/drain").status_code == 403 and not door.server.draining


@pytest.fixture(scope="module")
def port(door: Any) -> Iterator[int]:
    """The API on a port of this machine, as `cutaway serve` has it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        web = uvicorn.Server(uvicorn.Config(door.http.app, **WIRE))
        thread = threading.Thread(target=web.run, args=([listening],), daemon=True)
        thread.start()
        while not web.started:
            time.sleep(0.005)
        yield int(listening.getsockname()[1])
        web.should_exit = True
        thread.join()


@pytest.fixture
def sent(port: int, door: Any) -> Callable[..., str]:
    """`sent(lines, body)`: bytes as they are, and the answer."""

    def send(*lines: str, body: bytes = b"", seconds: float = 5.0) -> str:
        head = "\r\n".join([lines[0], "Host: localhost", f"Authorization: Bearer {door.texts['ann']}", *lines[1:], "", ""])
        found = b""
        with socket.create_connection(("127.0.0.1", port), timeout=seconds) as wire_end:
            try:
                wire_end.sendall(head.encode("latin-1") + body)
                while chunk := wire_end.recv(65536):
                    found += chunk
            except (ConnectionError, TimeoutError):
                pass
        text = found.decode("latin-1")
        door.watch(text)
        return text

    return send


def test_bodies_without_a_length(sent: Callable[..., str]) -> None:
    """More than may be in pieces, none of which says how many there are."""
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    lines = ("POST /v1/jobs HTTP/1.1", "Content-Type: application/json", "Transfer-Encoding: chunked", "Connection: close")
    assert " 413 " in sent(*lines, body=piece * 80 + b"0\r\n\r\n").partition("\r\n")[0]


def test_bodies_that_come_slowly(sent: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PATIENCE", 0.1)
    for length in ("Content-Length: 100", "Transfer-Encoding: chunked"):
        began = time.monotonic()
        answer = sent("POST /v1/jobs HTTP/1.1", "Content-Type: application/json", length, "Connection: close", body=b"5\r\n{")
        assert " 408 " in answer.partition("\r\n")[0] and time.monotonic() - began < 2


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/sessions", f"/v1/sessions/{NOBODY}"])
def test_nothing_is_read_of_a_stranger(port: int, path: str) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n".encode())
        assert b" 401 " in connection.recv(65536).partition(b"\r\n")[0]


@pytest.mark.parametrize(
    "lines",
    [
        ("GET /livez HTTP/1.1", "X-Long: " + "x" * 200_000),
        ("GET /livez HTTP/1.1", *(f"X-{i}: {'x' * 100}" for i in range(2_000))),
        ("GET /" + "x" * 200_000 + " HTTP/1.1",),
        ("POST /v1/jobs HTTP/1.1", "Content-Length: -5"),
        ("POST /v1/jobs HTTP/1.1", "Content-Length: 5", "Content-Length: 6"),
        ("POST /v1/jobs HTTP/1.1", "Content-Length: 1e9"),
        ("GET /livez HTTP/1.1", "Host: evil.example"),
        ("GET /livez HTTP/1.1", "X-A: a\rSet-Cookie: b"),
        ("\x00\x01\x02",),
    ],
)
def test_heads_that_are_none(sent: Callable[..., str], lines: tuple[str, ...]) -> None:
    status = sent(*lines, "Connection: close").partition("\r\n")[0]
    assert status == "" or " 400 " in status or " 431 " in status, status


def test_lines_that_are_smuggled(sent: Callable[..., str]) -> None:
    answer = sent("GET /v1/jobs/%0d%0aSet-Cookie:%20a=b HTTP/1.1", "Idempotency-Key: a%0d%0ab", "Connection: close")
    head = answer.partition("\r\n\r\n")[0].lower()
    assert " 404 " in head and "set-cookie" not in head and "server:" not in head


def test_other_protocols(sent: Callable[..., str]) -> None:
    upgrade = (
        "Connection: Upgrade, close",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    assert "101" not in sent("GET /v1/jobs HTTP/1.1", *upgrade).partition("\r\n")[0]
    assert "101" not in sent(
        "GET /livez HTTP/1.1", "Connection: Upgrade, HTTP2-Settings, close", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQA"
    )
