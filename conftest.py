"""Runs the code of the Markdown pages: python blocks as they stand, and console blocks whose lines begin with `$`; one that ends with `&` goes on."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def run_console(example: Example) -> str | None:
    """Each command must succeed; where lines follow it, they are what it prints (`...` stands for anything)."""
    for block in re.split(r"^\$ ", str(example.parsed), flags=re.MULTILINE)[1:]:
        command, _, expected = block.partition("\n")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "COLUMNS": "120", "NO_COLOR": "1", "XDG_STATE_HOME": os.getcwd()}
        if command.endswith("&"):
            said = _started(example, command.removesuffix("&").split(), environment, expected.count("\n"))
            if not doctest.OutputChecker().check_output(expected, said, FLAGS):
                return f"{command}\nexpected:\n{expected}\ngot:\n{said}"
            continue
        done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment)
        if done.returncode:
            return f"{command}\nexit code {done.returncode}\n{done.stdout}{done.stderr}"
        if expected.strip() and not doctest.OutputChecker().check_output(expected, done.stdout, FLAGS):
            return f"{command}\nexpected:\n{expected}\ngot:\n{done.stdout}"
    return None


def _started(example: Example, command: list[str], environment: dict[str, str], lines: int) -> str:
    """Start what runs until the page ends; returns its first lines."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    example.namespace.setdefault("_running", []).append(process)
    assert process.stdout is not None
    return "".join(process.stdout.readline() for _ in range(lines))


def enter(namespace: dict[str, Any]) -> None:
    """A page's files go to a folder of its own."""
    namespace["_before"] = os.getcwd()
    namespace["_folder"] = tempfile.TemporaryDirectory()
    os.chdir(namespace["_folder"].name)


def leave(namespace: dict[str, Any]) -> None:
    for process in namespace.get("_running", ()):
        process.terminate()
        process.communicate()
    os.chdir(namespace["_before"])
    namespace["_folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=FLAGS), CodeBlockParser("console", run_console), SkipParser()],
    patterns=["*.md"],
    setup=enter,
    teardown=leave,
).pytest()
