"""What `import cutaway` costs and changes: little time, no torch, nothing outside the package; and what it exports."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cutaway
from cutaway import registry

IMPORT_SECONDS = 0.3
HELP_SECONDS = 0.5
TRIES = 5  # the best is taken: what else the machine does can only make a try slower

TIMED_IMPORT = """
import sys, time
start = time.perf_counter()
import cutaway
print(time.perf_counter() - start, "torch" in sys.modules, "numpy" in sys.modules)
"""

SNAPSHOT = """
import importlib, locale, logging, os, pkgutil, random, signal, sys, threading, warnings
import accelerate, click, einops, gguf, greenlet, jaxtyping, jinja2, matplotlib, numpy, rich, safetensors.torch, torch, transformers
import fastapi.testclient, prometheus_client, psycopg, ray.serve, uvicorn
import matplotlib.pyplot, rich.console, rich.progress, rich.table, transformers.modeling_utils, torch.nn.modules.module as module

OWNERS = {
    "Tensor": torch.Tensor, "Parameter": torch.nn.Parameter, "Module": torch.nn.Module, "functional": torch.nn.functional,
    "autograd": torch.autograd, "PreTrainedModel": transformers.PreTrainedModel,
}

def snapshot():
    state = {(name, key): id(value) for name, owner in OWNERS.items() for key, value in dict(vars(owner)).items() if key != "__doc__"}
    state |= {("hooks", key): len(value) for key, value in vars(module).items() if key.startswith("_global_") and isinstance(value, dict)}
    state |= {("environment", key): value for key, value in os.environ.items()}
    state |= {("sys", key): id(getattr(sys, key)) for key in ("excepthook", "displayhook", "breakpointhook", "unraisablehook", "stdout")}
    state |= {("signal", number): str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)}
    state |= {
        "trace": sys.gettrace(), "profile": sys.getprofile(), "recursion": sys.getrecursionlimit(), "folder": os.getcwd(),
        "threads": (torch.get_num_threads(), threading.active_count()), "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(), "deterministic": torch.are_deterministic_algorithms_enabled(),
        "random": hash(random.getstate()), "torch random": torch.get_rng_state().sum().item(),
        "numpy random": numpy.random.get_state()[1].sum().item(), "locale": locale.setlocale(locale.LC_ALL),
        "warnings": len(warnings.filters), "logging": (logging.root.level, len(logging.root.handlers)),
        "backend": matplotlib.rcParams._get_backend_or_none(), "threadhook": id(threading.excepthook),
    }
    return state

before = snapshot()
import cutaway
for found in pkgutil.walk_packages(cutaway.__path__, "cutaway."):
    importlib.import_module(found.name)
after = snapshot()
assert len([name for name in sys.modules if name.startswith("cutaway.")]) > 20
print(sorted(str(key) for key in before.keys() | after.keys() if before.get(key, "absent") != after.get(key, "absent")))
"""


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_quick_and_without_torch() -> None:
    runs = [run_python(TIMED_IMPORT).split() for _ in range(TRIES)]
    assert {tuple(loaded) for _, *loaded in runs} == {("False", "False")}
    assert min(float(seconds) for seconds, *_ in runs) < IMPORT_SECONDS


def test_help_is_quick() -> None:
    command = Path(sys.executable).with_name("cutaway")
    seconds = []
    for _ in range(TRIES):
        start = time.perf_counter()
        done = subprocess.run([command, "--help"], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0 and "explain" in done.stdout
    assert min(seconds) < HELP_SECONDS


@pytest.mark.slow
def test_importing_everything_changes_nothing_outside() -> None:
    assert run_python(SNAPSHOT) == "[]"


def test_export_list_is_complete() -> None:
    """Three places name the front door's exports: the type checker's imports, the table of homes, `__all__`. They agree."""
    source = ast.parse(Path(cutaway.__file__).read_text("utf-8"))
    checked = next(node for node in source.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    homes = {
        alias.asname: (node.module or "").removeprefix("cutaway.")
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == cutaway._HOMES
    assert list(cutaway._HOMES) == sorted(cutaway._HOMES)
    assert sorted(cutaway.__all__) == sorted([*homes, *registry.families(), *registry.families("benchmarks")])
    assert len(cutaway.__all__) == len(set(cutaway.__all__)) <= 25


@pytest.mark.parametrize("name", cutaway.__all__)
def test_export_opens(name: str) -> None:
    assert getattr(cutaway, name) is not None
    assert name in dir(cutaway)


def test_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(AttributeError, match="Prompt"):
        _ = cutaway.nothing_of_this_name
