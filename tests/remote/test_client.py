"""The front door of the service: who is let in, what there is, and two sides that do not understand one another."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

import cutaway as cut
from cutaway import registry
from cutaway.errors import AccessError, BusyError, ScopeError, ServiceError, UnknownNameError
from cutaway.remote.client import Remote
from cutaway.remote.connection import Connection

TEXT = "red blue gold red blue"


def test_what_there_is(remote: Remote) -> None:
    (model,) = remote.models()
    assert model["name"] == "induction_lm" and model["context"] == 64
    assert {one["name"] for one in remote.methods()} <= set(registry.names("methods"))
    assert "Tensor.mul" in remote.capabilities()["operations"] and remote.limits()["user"] == "local"
    with pytest.raises(UnknownNameError, match="induction_lm"):
        remote.open("inducton_lm")


def test_keys(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUTAWAY_KEY", raising=False)
    with serve(keys=True) as (url, _, keys):
        with pytest.raises(AccessError, match="no key"):
            cut.connect(url)
        with pytest.raises(AccessError) as raised:
            cut.connect(url, "cut_0123456789abcdef_" + "0" * 64)
        assert "0" * 64 not in str(raised.value)
        ada, ben = keys.issue("ada").text, keys.issue("ben").text
        with cut.connect(url, ada) as hers:
            assert ada not in repr(hers) + repr(hers.__dict__) + repr(hers.open("induction_lm").__dict__)
            job = hers.open("induction_lm").submit("read.logit_lens", "induction:n=3,length=6")
            assert job.wait() == "done" and hers.limits()["user"] == "ada"
            with pytest.raises(ScopeError):
                hers.drain()
        monkeypatch.setenv("CUTAWAY_KEY", ben)
        with cut.connect(url) as his:
            assert his.limits()["user"] == "ben" and his.jobs() == []
            with pytest.raises(UnknownNameError):
                his.job(job.id)


def test_a_server_that_is_being_shut_down(serve: Any) -> None:
    with serve(keys=True) as (url, _, keys), cut.connect(url, keys.issue("ada", {"run", "admin"}).text, patience=0.1) as remote:
        lm = remote.open("induction_lm")
        remote.drain()
        with pytest.raises(BusyError, match="shut down"):
            lm.submit("read.logit_lens", "induction:n=3,length=6")


def test_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names both, and what each speaks."""

    class Newer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"version": "9.9.9", "wire": [7, 8]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            return None

    server = HTTPServer(("127.0.0.1", 0), Newer)
    thread = Thread(target=server.handle_request)
    thread.start()
    with pytest.raises(ServiceError) as raised:
        cut.connect(f"http://127.0.0.1:{server.server_address[1]}")
    thread.join()
    server.server_close()
    assert all(part in str(raised.value) for part in ("9.9.9", "7, 8", cut.__version__, "version 1"))


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServiceError, match="cutaway serve"):
        cut.connect("http://127.0.0.1:1", patience=0.2)


def test_connections_are_closed_with_what_holds_them(url: str) -> None:
    connection = Connection(url)
    connection.json("GET", "/v1/limits")
    client = connection._client
    del connection
    assert client.is_closed
