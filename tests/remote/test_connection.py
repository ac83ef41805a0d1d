"""Requests are tried again where that helps and where it is right; a key is in no text; events go on where a connection broke."""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from cutaway.errors import AccessError, BusyError, InputError, ServiceError
from cutaway.remote.connection import Connection, quoted

KEY = "cut_0123456789abcdef_secret"
Answer = tuple[int, dict[str, str], Any]


class Script:
    """A server that gives the answers it is told to, one after the other, and keeps what it was asked. None: it hangs up."""

    def __init__(self, url: str, answers: list[Answer | None], asked: list[tuple[str, str, dict[str, str], bytes]]) -> None:
        self.url, self.answers, self.asked = url, answers, asked


@pytest.fixture
def script() -> Iterator[Callable[..., Script]]:
    with contextlib.ExitStack() as stack:

        def start(*answers: Answer | None) -> Script:
            left, asked = list(answers), list[tuple[str, str, dict[str, str], bytes]]()

            class Handler(BaseHTTPRequestHandler):
                def do(self) -> None:
                    body = self.rfile.read(int(self.headers.get("content-length", 0)))
                    asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                    answer = left.pop(0) if len(left) > 1 else left[0]
                    if answer is None:
                        self.close_connection = True
                        return
                    status, headers, content = answer
                    content = content if isinstance(content, bytes) else json.dumps(content).encode()
                    self.send_response(status)
                    for name, value in ({"Content-Length": str(len(content))} | headers).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(content)
                    self.close_connection = True

                do_GET = do_POST = do_DELETE = do

                def log_message(self, *args: Any) -> None:
                    return None

            server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            thread = Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(lambda: (server.shutdown(), server.server_close(), thread.join()))
            return Script(f"http://127.0.0.1:{server.server_address[1]}", left, asked)

        yield start


@contextlib.contextmanager
def connected(url: str, patience: float = 20.0) -> Iterator[Connection]:
    connection = Connection(url, KEY, patience)
    yield connection
    connection.close()


BUSY = (429, {"Retry-After": "0"}, {"type": "too-many", "asked": "a", "found": "b", "works": "c"})


def test_what_passes_is_tried_again_and_stays_one_request(script: Any) -> None:
    server = script(BUSY, (503, {}, b"soon"), None, (502, {}, b""), (200, {}, {"id": "j"}))
    with connected(server.url) as connection:
        assert connection.json("POST", "/v1/jobs", content=b"{}", headers={"Idempotency-Key": "k"}) == {"id": "j"}
    assert len(server.asked) == 5
    assert {(verb, path, headers["idempotency-key"], body) for verb, path, headers, body in server.asked} == {
        ("POST", "/v1/jobs", "k", b"{}")
    }


@pytest.mark.slow
def test_the_server_says_when(script: Any) -> None:
    server = script((429, {"Retry-After": "1"}, {}), (200, {}, {}))
    started = time.monotonic()
    with connected(server.url) as connection:
        connection.json("GET", "/")
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize("stated", ["3600", "99999999"])
def test_patience_ends(script: Any, stated: str) -> None:
    """Nobody waits an hour: the error comes at once, and says how long."""
    server = script((429, {"Retry-After": stated}, BUSY[2]))
    started = time.monotonic()
    with connected(server.url) as connection, pytest.raises(BusyError) as raised:
        connection.json("GET", "/")
    assert raised.value.retry_after == 3600 and len(server.asked) == 1 and time.monotonic() - started < 1


def test_what_must_not_be_done_twice_is_sent_once(script: Any) -> None:
    for answer, error in ((None, ServiceError), (BUSY, BusyError), ((503, {}, b""), ServiceError)):
        server = script(answer, (200, {}, {}))
        with connected(server.url) as connection, pytest.raises(error):
            connection.ask("POST", "/v1/sessions/s", content=b"m", once=True)
        assert len(server.asked) == 1


def test_refusals_are_not_tried_again(script: Any) -> None:
    server = script((401, {}, {"type": "access-error", "asked": "Use a key.", "found": "none", "works": "one"}))
    with connected(server.url) as connection, pytest.raises(AccessError, match="Use a key"):
        connection.ask("GET", "/v1/jobs")
    assert len(server.asked) == 1


def test_nobody_there() -> None:
    with connected("http://127.0.0.1:1", patience=0.3) as connection, pytest.raises(ServiceError, match="cutaway serve"):
        connection.ask("GET", "/")


@pytest.mark.parametrize("content", [b"<html>", b"[1]", b""])
def test_another_kind_of_server(script: Any, content: bytes) -> None:
    server = script((200, {}, content))
    with connected(server.url) as connection, pytest.raises(ServiceError, match="no JSON object"):
        connection.json("GET", "/")
    server = script((404, {}, content))
    with connected(server.url) as connection, pytest.raises(ServiceError, match="404"):
        connection.json("GET", "/")


def test_it_is_sent_nowhere_else(script: Any) -> None:
    """A redirect does not take the key along."""
    other = script((200, {}, {}))
    server = script((302, {"Location": other.url}, b""))
    with connected(server.url) as connection, pytest.raises(ServiceError, match="302"):
        connection.json("GET", "/")
    assert not other.asked and server.asked[0][2]["authorization"] == f"Bearer {KEY}"


def test_a_key_is_in_no_text(script: Any) -> None:
    """Not in the repr, not in an error, not in what hangs on the error."""
    failing: list[Any] = [(500, {}, {"type": "internal", "asked": "a"}), None, (404, {}, b"no")]
    for answer in failing:
        server = script(answer)
        with connected(server.url, patience=0.0) as connection:
            assert "secret" not in repr(connection)
            with pytest.raises(ServiceError) as raised:
                connection.ask("GET", "/v1/jobs")
        assert "secret" not in "".join(traceback.format_exception(raised.value)) and raised.value.__cause__ is None


@pytest.mark.parametrize("key", ["cut_a b", "cut_\n", "cüt", "cut_\x00", 3])
def test_what_is_no_key(key: Any) -> None:
    with pytest.raises(InputError, match="cutaway keys issue") as raised:
        Connection("http://127.0.0.1:1", key)
    assert str(key) not in str(raised.value)


@pytest.mark.parametrize("url", ["", "ftp://host", "http://", "http://me:secret@host", "http://host/?key=secret", "file:///etc/passwd", 3])
def test_what_is_no_address(url: Any) -> None:
    with pytest.raises(InputError, match="Connect to") as raised:
        Connection(url)
    assert "secret" not in str(raised.value)


def test_an_address_may_be_short() -> None:
    for url in ("127.0.0.1:8000", "http://127.0.0.1:8000/"):
        with connected(url) as connection:
            assert connection.url == "http://127.0.0.1:8000"


def event(number: int, kind: str = "progress", **data: Any) -> bytes:
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps({'time': 1.0, **data})}\n\n".encode()


def test_events_go_on_after_the_last(script: Any) -> None:
    stream = {"Content-Type": "text/event-stream", "Content-Length": "100000"}  # more than comes: the connection breaks
    server = script(
        (200, stream, b": ping\n\n" + event(1, done=1) + event(2, done=2) + b"id: 3\nevent: pro"),
        (200, {"Content-Type": "text/event-stream"}, event(3, done=3) + event(4, "state", state="done") + event(5)),
    )
    with connected(server.url) as connection:
        found = list(connection.events("job"))
    assert [one.number for one in found] == [1, 2, 3, 4] and found[-1].data == {"state": "done"} and found[0].time == 1.0
    assert [headers["last-event-id"] for _, _, headers, _ in server.asked] == ["0", "2"]


def test_events_of_a_job_that_is_not_there(script: Any) -> None:
    server = script((404, {}, {"type": "unknown-name-error", "asked": "No job is named 'x'."}))
    with connected(server.url) as connection, pytest.raises(LookupError):
        next(connection.events("x"))


def test_names_as_paths() -> None:
    assert quoted("a b/../c?d#e") == "a%20b/../c%3Fd%23e"


def test_a_key_that_everybody_on_the_way_can_read_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="use https") as told:
        Connection("http://models.example.org", "cut_0_1").close()
    assert "cut_0_1" not in str(told[0].message)
    for url, key in (("https://models.example.org", "cut_0_1"), ("http://127.0.0.1:1", "cut_0_1"), ("http://models.example.org", None)):
        Connection(url, key).close()
