"""The calls of a model in one run, one after the other: the tokens of a generation, the steps of a sampler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, final

from cutaway.errors import InputError, OutOfOrderError

if TYPE_CHECKING:
    from cutaway.engine.interleave import Trace


@final
class Steps:
    """`for step in run.steps:` goes through all there are; `run.steps[:5]` through as many as it says, or raises OutOfOrderError.

    A step ends when the next begins, or when the run ends. What the loop leaves out runs without it: `run.steps[:1]` sees the prompt of
    a generation and `run.steps[1:]` its new tokens. After `run.stop()` there are no more.
    """

    def __init__(self, trace: Trace, start: int = 0, stop: int | None = None, stride: int = 1) -> None:
        self._trace, self._start, self._stop, self._stride = trace, start, stop, stride

    def __getitem__(self, which: int | slice) -> Steps:
        chosen = which if isinstance(which, slice) else slice(which, which + 1)
        first, stop, stride = chosen.start or 0, chosen.stop, 1 if chosen.step is None else chosen.step
        if first < 0 or stride < 1 or (stop is not None and stop < first):
            works = "numbers from the start, such as steps[1:] or steps[:10:2]"
            raise InputError(f"Steps {which}.", "a run whose length is not known before it ends", works)
        ends = [end for end in (self._stop, None if stop is None else self._at(stop)) if end is not None]
        return Steps(self._trace, self._at(first), min(ends, default=None), stride * self._stride)

    def _at(self, number: int) -> int:
        return self._start + number * self._stride

    def __iter__(self) -> Iterator[int]:
        step = self._start
        while self._stop is None or step < self._stop:
            if not self._trace.begin(step):
                if self._stop is None or not self._trace.finished:
                    return
                raise OutOfOrderError(
                    f"Go to step {step} of this run.", "a run that has ended before", "run.steps[a:], which ends with the run"
                )
            yield step
            step += self._stride
