"""`cutaway explain`: the page and its files, or nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cutaway as cut

Cutaway = Callable[..., Any]
ASKED = (
    "explain", "this is alice whose colour is", "--subject", "alice", "--counterfactual", "this is elena whose colour is",
    "--model", "planted_circuit", "--window", "1", "--samples", "2",
)  # fmt: skip


@pytest.mark.slow
def test_it_leaves_the_page_its_data_and_its_pictures(cutaway: Cutaway, tmp_path: Path) -> None:
    ran = cutaway(*ASKED, "--out", str(tmp_path / "report"))
    assert ran.status == 0 and "red" in ran.out
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"index.html", "report.json", "report.safetensors", "trace-0.png", "verification-0.png"} <= names
    page = (tmp_path / "report" / "index.html").read_text("utf-8")
    assert "http://" not in page and "https://" not in page and "What this does not show" in page
    assert cut.load(tmp_path / "report" / "report.json").text() in ran.out
    assert [path.name for path in tmp_path.iterdir()] == ["report"], "nothing temporary is left"


@pytest.mark.slow
def test_json(cutaway: Cutaway, tmp_path: Path) -> None:
    document = json.loads(cutaway(*ASKED, "--out", str(tmp_path / "report"), "--json").out)
    assert document["kind"] == "report" and len(document["result"]["sections"]) == 6


def test_wrong_input_leaves_nothing(cutaway: Cutaway, tmp_path: Path) -> None:
    ran = cutaway("explain", "this is alice", "--subject", "bob", "--model", "planted_circuit", "--out", str(tmp_path / "report"))
    assert ran.status == 2 and "does not contain it" in ran.err and "Traceback" not in ran.err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_interrupted_in_the_middle_it_leaves_nothing(tmp_path: Path) -> None:
    asked = [*ASKED[:-1], "20000", "--out", str(tmp_path / "report")]
    terminal = os.environ | {"FORCE_COLOR": "1"}  # what draws bars
    running = subprocess.Popen([sys.executable, "-m", "cutaway", *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=terminal)
    assert running.stderr is not None
    seen = b""
    while b"causal trace" not in seen:
        seen += (more := os.read(running.stderr.fileno(), 4096))
        assert more, "the study is long enough to be interrupted"
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130 and b"nothing was written" in err and b"Traceback" not in err
    assert not list(tmp_path.iterdir())
