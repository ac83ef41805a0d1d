"""Runs the command line as a user does, in a process of its own or in this one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cutaway import cli


@dataclass(frozen=True)
class Ran:
    """What a command left: exit status, standard output, standard error."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def serve() -> Any:
    """`with serve(keys=True) as (url, server, keys):`, as the client's tests have it."""
    spec = importlib.util.spec_from_file_location("of_remote", Path(__file__).parents[1] / "remote/conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.served


@pytest.fixture
def cutaway(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Call the entry point with arguments."""

    def call(*arguments: str) -> Ran:
        monkeypatch.setattr("sys.argv", ["cutaway", *arguments])
        status = 0
        try:
            cli.main()
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return call
