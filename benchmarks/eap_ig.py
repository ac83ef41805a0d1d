"""EAP-IG on pairs of the IOI task: Cutaway beside the way of the method's authors, on the same weights.

    python benchmarks/eap_ig.py [--pairs 100] [--rounds 3] [--out FILE.json]

Every attribution runs in a process of its own, because peak memory is a process's; the processes take turns, a round after the other. Time is the
CPU time of the attribution alone, on one thread, after a small one that is not counted; memory is the largest resident size in it, less what was
resident before it. Linux only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from subjects import SUBJECTS, Subject

import cutaway as cut
from cutaway.tasks.base import Task
from cutaway.tasks.ioi import ioi

STEPS = 5
ENGINES = {
    "Cutaway": "cut.circuits.eap_ig",
    "hooks of TransformerLens": "as the package does it",
    "hooks of TransformerLens, weights frozen": "without gradients of weights, which the package computes too",
}
GOAL = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    parser.add_argument("--engine", choices=ENGINES, help="run this one only, in this process")
    parser.add_argument("--scores", type=Path, help="with --engine: where to write what it found")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.engine:
        print(json.dumps(attributed(options.engine, options.pairs, options.scores)))
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Let all engines take turns, print a table and the verdict."""
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in ENGINES}
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{i}.npy" for i, name in enumerate(ENGINES)}
        for _ in range(options.rounds):
            for name, file in files.items():
                command = [sys.executable, __file__, "--engine", name, "--pairs", str(options.pairs), "--scores", str(file)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                taken[name].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"{name}: {taken[name][-1]}", file=sys.stderr, flush=True)
        found = {name: np.load(file) for name, file in files.items()}
    ours, rows = next(iter(ENGINES)), []
    for name, runs in taken.items():
        row: dict[str, Any] = {key: statistics.median(run[key] for run in runs) for key in runs[0]} | {"engine": name}
        row["ratio"] = statistics.median(run["cpu"] / own["cpu"] for run, own in zip(runs, taken[ours], strict=True))
        row["correlation"] = float(np.corrcoef(found[name], found[ours])[0, 1])
        row["differs"] = float(np.abs(found[name] - found[ours]).max() / np.abs(found[ours]).max())
        rows.append(row)
        numbers = f"{row['cpu']:8.1f} s {row['ratio']:6.2f} x {row['peak'] / 2**20:8.0f} MiB   r = {row['correlation']:.6f}"
        print(f"{name:<42}{numbers}   differs by {row['differs']:.1e} of the largest", flush=True)
    met = rows[1]["ratio"] >= GOAL and rows[0]["peak"] <= rows[1]["peak"]
    print(f"goal {GOAL} x faster and no more memory: {'met' if met else 'NOT met'}")
    if options.out is not None:
        options.out.write_text(json.dumps({"pairs": options.pairs, "rounds": options.rounds, "rows": rows, "runs": taken}, indent=1) + "\n")
    if not all(row["correlation"] > 0.99 for row in rows):
        raise SystemExit(1)


def attributed(engine: str, pairs: int, to: Path | None) -> dict[str, float]:
    """CPU and wall seconds and peak bytes of one attribution."""
    subject = SUBJECTS["gpt2"]()
    lm = cut.open(subject.copy(), tokenizer=subject.tokenizer)
    task = ioi(lm, n=pairs, known=False)
    attribute = _ours(lm) if engine == "Cutaway" else _theirs(subject, lm, "frozen" in engine)
    del lm, subject
    attribute(task.with_pairs(task.pairs[:2]))
    before, cpu, wall = _resident(), time.process_time(), time.perf_counter()
    found = attribute(task)
    taken = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "peak": _peak() - before}
    if to is not None:
        np.save(to, found)
    return taken


def _ours(lm: Any) -> Any:
    def attribute(task: Task) -> np.ndarray:
        graph = cut.circuits.eap_ig(lm, task, steps=STEPS)
        return np.asarray(graph.scores[graph.scored])

    return attribute


def _theirs(subject: Subject, lm: Any, frozen: bool) -> Any:
    from peers import eap_ig_by_hooks as reference

    from cutaway.models.edges import Edges

    model = reference.load(subject).requires_grad_(not frozen)
    pairs = Edges(lm).pairs
    tokens, answer = lm.tokens, lm.token_id

    def attribute(task: Task) -> np.ndarray:
        texts = sorted(task.pairs, key=lambda pair: tokens(pair.base).ids.shape[1])  # batches of like lengths: less padding
        sides = [[tokens(side).ids[0] for side in (pair.base, pair.counterfactual)] for pair in texts]
        base, other = (torch.nn.utils.rnn.pad_sequence(list(side), batch_first=True) for side in zip(*sides, strict=True))
        last = torch.tensor([len(one) - 1 for one, _ in sides])
        answers = torch.tensor([[answer(pair.answer), answer(pair.foil)] for pair in texts])
        found = reference.scores(model, base, other, last, answers, STEPS)
        return found[pairs[:, 0], pairs[:, 1]].numpy()

    return attribute


def _resident() -> int:
    """Bytes resident now; from here on the peak is counted anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(key)))


if __name__ == "__main__":
    main()
