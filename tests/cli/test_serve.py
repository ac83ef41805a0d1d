"""`cutaway serve`: what it says, and what it refuses before anything is opened. That it serves is seen in tests/service/test_rehearsals.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cutaway = Callable[..., Any]


def test_what_is_not_installed_is_named(cutaway: Cutaway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ("--folder", str(tmp_path))
    for module, extra, command in (
        ("ray", "cluster", ("serve", "induction_lm", "--cluster")),
        ("psycopg", "postgres", ("keys", "list", "--database", "postgresql://nowhere/x")),
    ):
        monkeypatch.setitem(sys.modules, module, None)  # as Python has it for what is not there
        monkeypatch.delitem(sys.modules, "cutaway.service.runners.ray", raising=False)
        monkeypatch.delitem(sys.modules, "cutaway.service.postgres", raising=False)
        ran = cutaway(*command, *folder)
        assert ran.status == 1 and f"no {module} here" in ran.err and f"cutaway[{extra}]" in ran.err


def test_threads_of_torch_are_told_not_to_spin_before_it_is_imported() -> None:
    code = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("spins", os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
sys.argv = ["cutaway", "serve", "induction_lm"]
from cutaway.cli import main
main()
"""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    for given, seen in ({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"):
        done = subprocess.run([sys.executable, "-c", code], env=environment | given, capture_output=True, text=True)
        assert done.stdout == f"spins {seen}\n", done.stderr


def test_refusals(cutaway: Cutaway, tmp_path: Path) -> None:
    folder = ("--folder", str(tmp_path))
    unknown = cutaway("serve", "induction_ml", *folder)
    assert unknown.status == 2 and "induction_lm" in unknown.err
    public = cutaway("serve", "induction_ml", "--host", "0.0.0.0", *folder)  # said before any model is looked for
    assert public.status == 2 and "cutaway keys issue" in public.err
    small = cutaway("serve", "induction_lm", "--memory", "0.0001", *folder)
    assert small.status == 2 and "GB" in small.err
    assert cutaway("serve", *folder).status == 2
    (tmp_path / "file").write_text("")
    assert cutaway("serve", "induction_lm", "--folder", str(tmp_path / "file")).status == 1
