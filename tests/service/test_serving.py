"""What a server refuses to start with, and that it lets go of what it held."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Any

import pytest

from cutaway.errors import InputError, StorageError
from cutaway.service import serving
from cutaway.service.jobs import FINAL, State
from cutaway.service.keys import Keys
from cutaway.service.scheduler import Policy
from cutaway.service.serving import Site, opened, serve, tables

NAME, OTHER = "induction_lm", "compiled.reverse"


def ended(server: Any, id: str) -> State:
    until = time.monotonic() + 10
    while (state := server.jobs.get(id, None).state) not in FINAL:
        assert time.monotonic() < until
        time.sleep(0.005)
    return State(state)


def test_one_server_has_a_folder(tmp_path: Path, graphs: Any) -> None:
    site = Site((NAME,), folder=tmp_path)
    with opened(site) as (server, _):
        job = server.submit("ada", graphs(1))
        with pytest.raises(StorageError, match="another server"), opened(site):
            pass
        assert ended(server, job.id) == State.DONE, "the first goes on unharmed"
        assert ended(server, server.submit("ada", graphs(2)).id) == State.DONE
    with opened(site) as (server, _):
        assert server.submit("ada", graphs(1)).cached
    handle = os.open(tmp_path / "lock", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)


def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError), opened(Site((NAME,), folder=tmp_path / "file")):
        pass
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "results").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(StorageError, match="results"), opened(Site((NAME,), folder=tmp_path / "folder")):
            pass
    (tmp_path / "folder" / "results").unlink()
    with opened(Site((NAME,), folder=tmp_path / "folder")):
        pass


def test_memory_for_no_model_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"weights of 0\.00 GB"),
        opened(Site((NAME, OTHER), folder=tmp_path / "new", policy=Policy(memory=1000))),
    ):
        pass
    assert not (tmp_path / "new").exists()


def test_only_models_that_fit_together_are_opened_at_the_start(tmp_path: Path, graphs: Any) -> None:
    with opened(Site((NAME, OTHER), folder=tmp_path, policy=Policy(memory=300_000))) as (server, _):
        until = time.monotonic() + 5
        while not server.runner.loaded():
            assert time.monotonic() < until
            time.sleep(0.005)
        time.sleep(0.1)
        assert list(server.runner.loaded()) == [NAME]
        assert ended(server, server.submit("ada", graphs(1, OTHER)).id) == State.DONE
        assert list(server.runner.loaded()) == [OTHER]


def test_nobody_else_may_come_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    monkeypatch.setattr(serving.uvicorn.Config, "bind_socket", lambda config: begun.append(config.host) or os._exit(3))
    site = Site((NAME,), folder=tmp_path)
    for host in ("0.0.0.0", "192.168.1.1", "::", "example.org", "127.0.0.1.example.org"):
        with pytest.raises(InputError, match="no keys"):
            serve(site, host, 0)
    assert begun == []


def test_jobs_and_keys_are_in_the_folder(tmp_path: Path) -> None:
    site = Site((NAME,), folder=tmp_path)
    database = tables(site)
    key = Keys(database).issue("ada", ("run",))
    database.close()
    with opened(site) as (_, keys):
        assert keys.check(key.text).user == "ada"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jobs.sqlite", "lock", "results"]
    assert {oct(path.stat().st_mode & 0o077) for path in (tmp_path / "jobs.sqlite", tmp_path / "lock", tmp_path / "results")} == {"0o0"}
