"""Times several closures against one of them, on a machine that others use too.

Every round calls each closure once, in a new order; a closure's ratio is taken within a round, to the reference of the same round, and the
median of the rounds is reported. Time is the process's CPU time, which other programs hardly touch; wall time is kept beside it.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Key = TypeVar("Key")


@dataclass(frozen=True)
class Timing:
    """Medians over rounds, in seconds.

    ratio, wall_ratio: to the reference; spread: half the distance between the quartiles of `ratio`; over: CPU time above the reference.
    """

    cpu: float
    wall: float
    ratio: float
    wall_ratio: float
    spread: float
    over: float


def compare(closures: Mapping[Key, Callable[[], Any]], reference: Key, rounds: int, warm: int, seed: int = 0) -> dict[Key, Timing]:
    """Call every closure `rounds` times, after `warm` calls that are not counted."""
    for closure in closures.values():
        for _ in range(warm):
            closure()
    taken = measured(closures, rounds, seed)
    base = taken[reference]
    return {name: _against(base, own) for name, own in taken.items()}


def measured(closures: Mapping[Key, Callable[[], Any]], rounds: int, seed: int) -> dict[Key, list[tuple[float, float]]]:
    """CPU and wall seconds of every call, by round."""
    order, generator = list(closures), random.Random(seed)
    taken: dict[Key, list[tuple[float, float]]] = {name: [] for name in closures}
    gc.collect()
    gc.freeze()  # what is there already need not be looked through before every round
    for _ in range(rounds):
        gc.collect()
        generator.shuffle(order)
        for name in order:
            cpu, wall = time.process_time(), time.perf_counter()
            closures[name]()
            taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    gc.unfreeze()
    return taken


def _against(base: list[tuple[float, float]], own: list[tuple[float, float]]) -> Timing:
    ratios = [a[0] / b[0] for a, b in zip(own, base, strict=True)]
    quarters = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return Timing(
        cpu=statistics.median(cpu for cpu, _ in own),
        wall=statistics.median(wall for _, wall in own),
        ratio=statistics.median(ratios),
        wall_ratio=statistics.median(a[1] / b[1] for a, b in zip(own, base, strict=True)),
        spread=(quarters[2] - quarters[0]) / 2,
        over=statistics.median(a[0] - b[0] for a, b in zip(own, base, strict=True)),
    )
