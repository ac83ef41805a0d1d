"""Cutaway's speed beside that of its peers: one run, one table.

    python benchmarks/run.py [--quick] [--threads 1] [--out FILE.json]

Each number compares calls of one process, taken in turn (see timing.py). A peer that is not installed is left out and named.
What each row means is said in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import platform
import warnings
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import imports
import peers
import torch
from cases import QUICK, Rounds, Row, measure
from subjects import SUBJECTS
from verdicts import disagreeing, goals, per_value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, and the sweep on one model only")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (1)")
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    rounds = QUICK if options.quick else Rounds()
    present, absent = installed()
    rows: list[Row] = []
    with torch.no_grad():
        for name, make in SUBJECTS.items():
            measured = measure(make(), name, present, rounds)
            table(measured)
            rows += measured
    imported = import_times(present, rounds.imports)
    show(rows, imported, absent)
    if options.out is not None:
        options.out.write_text(json.dumps(record(rows, imported, absent, present, options, rounds), indent=1) + "\n")
    if disagreeing(rows):
        raise SystemExit(1)


def installed() -> tuple[list[ModuleType], list[str]]:
    """The peers that can be imported, and the names of those that are not installed."""
    present, absent = [], []
    for name in peers.NAMES:
        try:
            present.append(importlib.import_module(f"peers.{name}"))
        except ModuleNotFoundError as error:
            absent.append(f"{name.removesuffix('_peer')} ({error.name} is not installed)")
    return present, absent


def import_times(present: list[ModuleType], times: int) -> dict[str, float]:
    """CPU seconds of each statement a user begins with."""
    statements = dict.fromkeys(["import torch", "from transformers import AutoModelForCausalLM", *(s for p in present for s in p.IMPORTS)])
    return {statement: imports.seconds(statement, times) for statement in statements}


def table(rows: list[Row]) -> None:
    """Print what was measured on one model."""
    line = "{:<28}{:<9}{:<18}{:<42}{:>10}{:>8}{:>7}{:>8}{:>10}{:>10}"
    print("\n" + line.format("model", "case", "engine", "way", "CPU ms", "ratio", "±", "wall", "over ms", "differs"))
    for row in rows:
        t = row.timing
        numbers = (f"{t.cpu * 1e3:.2f}", f"{t.ratio:.3f}", f"{t.spread:.3f}", f"{t.wall_ratio:.3f}", f"{t.over * 1e3:.3f}")
        print(line.format(row.subject, row.case, row.peer, row.way, *numbers, "" if row.differs is None else f"{row.differs:.1e}"))
    print(flush=True)


def show(rows: list[Row], imported: dict[str, float], absent: list[str]) -> None:
    """Print what follows from all of it: overheads, imports, and which goals are met."""
    reads = [[row for row in rows if row.case == case and row.subject.startswith("thin")] for case in ("read one", "read")]
    for (peer, way), (trace, value) in per_value(*reads).items():
        print(f"overhead {trace * 1e6:6.0f} us a trace, {value * 1e6:5.1f} us a value   {peer} {way}")
    for statement, cpu in imported.items():
        print(f"import {cpu * 1e3:6.0f} ms   {statement}")
    for name in absent:
        print(f"absent: {name}")
    print()
    for verdict in goals(rows):
        print(verdict)
    for row in disagreeing(rows):
        print(f"{row.subject}, {row.case}: {row.peer} ({row.way}) differs by {row.differs:.1e}; its time means nothing")


def record(
    rows: list[Row], imported: dict[str, float], absent: list[str], present: list[ModuleType], options: argparse.Namespace, rounds: Rounds
) -> dict[str, Any]:
    """Everything that was measured, and with what, as JSON."""
    packages = ["torch", "transformers", *(peer.PACKAGE for peer in present if peer.PACKAGE)]
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "threads": options.threads,
        "rounds": asdict(rounds),
        "absent": absent,
        "rows": [asdict(row) for row in rows],
        "imports": imported,
        "goals": goals(rows),
    }


if __name__ == "__main__":
    main()
