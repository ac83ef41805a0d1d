"""What is timed on one model: each case is a closure per peer and way, all checked against the first of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
from peers import hooks
from subjects import GREEDY, Subject
from timing import Timing, compare
from torch import Tensor

BARE, AGAIN = "bare model", "bare model, again"
Key = tuple[str, str]
"""The title of a peer, and the name of one of its ways."""
Closures = dict[Key, Callable[[], Any]]


@dataclass(frozen=True)
class Rounds:
    """How often each closure is called: on a thin model, on a whole one; generations; packed bodies; and whole sweeps by model."""

    thin: int = 300
    whole: int = 24
    generations: int = 4
    packed: int = 5
    sweeps: tuple[tuple[str, int], ...] = (("gpt2", 1), ("smollm2", 1))
    imports: int = 3


QUICK = Rounds(thin=120, whole=8, generations=2, packed=2, sweeps=(("gpt2", 1),), imports=2)


@dataclass(frozen=True)
class Row:
    """One line of the table. `differs`: largest distance of its values from those of the first row's; None where nothing is compared."""

    subject: str
    case: str
    peer: str
    way: str
    timing: Timing
    differs: float | None


def measure(subject: Subject, name: str, present: list[ModuleType], rounds: Rounds) -> list[Row]:
    """All cases on one model."""
    opened = {peer: peer.load(subject) for peer in present}
    middle, ids = subject.n_layers // 2, subject.clean
    value = hooks.states(opened[hooks], ids)[middle]
    bare = {(BARE, ""): partial(_bare, subject), (AGAIN, ""): partial(_bare, subject)}
    written = {(BARE, ""): partial(_generated, subject), (AGAIN, ""): partial(_generated, subject)}
    n = rounds.thin if name == "thin" else rounds.whole
    reads = {"read": _ways(opened, "READ", ids, subject.n_layers)}
    if name == "thin":  # in the same rounds, as what a value costs is the difference
        reads["read one"] = _ways(opened, "READ", ids, 1)
    cases: list[tuple[dict[str, Closures], Closures, int]] = [
        ({"idle": {(p.TITLE, ""): partial(p.idle, opened[p], ids) for p in present}}, bare, n),
        (reads, bare, n),
        ({"patch": _ways(opened, "PATCH", subject.corrupted, middle, value)}, bare, n),
        ({"generate": _ways(opened, "GENERATE", ids, middle)}, written, 4 * rounds.generations if name == "thin" else rounds.generations),
        ({"packed": _ways(opened, "PACKED", subject)}, {}, rounds.packed),
        ({"sweep": _ways(opened, "SWEEP", subject)}, {}, dict(rounds.sweeps).get(name, 0)),
    ]
    return [row for case, reference, times in cases if times and any(case.values()) for row in _timed(subject, case, reference, times)]


def _ways(opened: dict[ModuleType, Any], table: str, *args: Any) -> Closures:
    return {(peer.TITLE, way): partial(f, opened[peer], *args) for peer in opened for way, f in getattr(peer, table).items()}


def _timed(subject: Subject, cases: dict[str, Closures], reference: Closures, times: int) -> list[Row]:
    """Cases whose closures are called in the same rounds."""
    print(f"{subject.title}: {', '.join(cases)}", flush=True)
    found: dict[tuple[str, Key], Any] = {}
    every: dict[tuple[str, Key], Callable[[], Any]] = {("", key): closure for key, closure in reference.items()}
    for case, closures in cases.items():
        every |= {(case, key): partial(_keep, found, (case, key), closure) for key, closure in closures.items()}
    timings = compare(every, next(iter(every)), times, warm=0 if "sweep" in cases else 1 if "generate" in cases else 2)
    rows = []
    for case, closures in cases.items():
        truth = next(found[case, key] for key in closures)
        rows += [Row(subject.title, case, *key, timings["", key], None) for key in reference]
        own = [Row(subject.title, case, *key, timings[case, key], _distance(found[case, key], truth)) for key in closures]
        rows += sorted(own, key=lambda row: row.timing.ratio)
    return rows


def _bare(subject: Subject) -> Tensor:
    return subject.module(input_ids=subject.clean).logits


def _generated(subject: Subject) -> Tensor:
    return subject.module.generate(input_ids=subject.clean, attention_mask=torch.ones_like(subject.clean), **GREEDY)  # type: ignore[operator]


def _keep(found: dict[tuple[str, Key], Any], key: tuple[str, Key], call: Callable[[], Any]) -> None:
    found[key] = call()


def _distance(found: Any, truth: Any) -> float:
    pairs = zip(found, truth, strict=True) if isinstance(truth, list) else [(found, truth)]
    return max(float((a.reshape(b.shape) - b).abs().max()) for a, b in pairs)
