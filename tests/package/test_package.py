"""A package of another author, installed beside Cutaway, adds a method that is found, listed, run and drawn like any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent / "cutaway-example"
NAME = "example.embedding_norms"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package in it, put there by pip as a user's environment would have it."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--target", str(folder)]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *options, str(PACKAGE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def run(folder: Path | None, *command: str) -> str:
    path = os.pathsep.join(filter(None, [str(folder or ""), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": path, "COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(folder: Path | None, code: str) -> list[object]:
    """What `code` prints, one JSON value a line."""
    return [json.loads(line) for line in run(folder, sys.executable, "-c", f"import json, sys\n{code}").splitlines()]


def test_registry_finds_it_without_importing_it(installed: Path) -> None:
    code = f"""
from cutaway import registry
print(json.dumps({NAME!r} in registry.names("methods")))
print(json.dumps(registry.summary("methods", {NAME!r})))
print(json.dumps("example" in registry.families()))
print(json.dumps([name for name in sys.modules if name.startswith(("cutaway_example", "torch"))]))
"""
    summary = "Are the embeddings of a task's tokens longer than those of other words?"
    assert python(installed, code) == [True, summary, True, []]


def test_it_is_not_there_when_it_is_not_installed() -> None:
    assert python(None, f"from cutaway import registry\nprint(json.dumps({NAME!r} in registry.names('methods')))") == [False]


@pytest.mark.slow
def test_it_runs_and_is_drawn_like_a_method_of_ours(installed: Path, tmp_path: Path) -> None:
    code = f"""
import cutaway as cut
result = cut.example.embedding_norms(cut.open("induction_lm"), "induction:n=4,length=6")
print(json.dumps([result.kind, result.provenance.method, len(result.rows)]))
again = cut.load(result.save({str(tmp_path / "norms")!r}))
print(json.dumps([again.title in again.text(), again.title in again.html()]))
"""
    assert python(installed, code) == [["scores", NAME, 4], [True, True]]


def test_command_line_lists_it(installed: Path) -> None:
    command = str(Path(sys.executable).with_name("cutaway"))
    assert NAME in run(installed, command, "list")
    assert NAME not in run(None, command, "list")


@pytest.mark.slow
def test_it_keeps_the_contract_of_methods(installed: Path) -> None:
    """The same tests that run over our own methods, run over this one."""
    contract = Path(__file__).parents[1] / "contracts" / "test_methods.py"
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(contract), "-k", NAME)
    output = run(installed, *command)
    assert "passed" in output and "failed" not in output


def test_it_cannot_take_the_name_of_a_thing_that_is_here(tmp_path: Path) -> None:
    """An entry point with the name of one of our files is not loaded in its place."""
    distribution = tmp_path / "impostor-1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: impostor\nVersion: 1.0\n")
    (distribution / "entry_points.txt").write_text("[cutaway.results]\ngrid = json:loads\n")
    code = 'from cutaway import registry\nprint(json.dumps(registry.load("results", "grid").__module__))'
    assert python(tmp_path, code) == ["cutaway.results.grid"]
