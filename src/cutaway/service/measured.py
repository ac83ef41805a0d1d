"""What a work would take, known before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from cutaway.errors import InputError
from cutaway.remote.work import MiB

BODY = 96 * MiB
"""Bytes that a request may have: of a graph with its constants and inputs, or a message of a session."""
LARGE, LARGEST = 64 * MiB, 1024 * MiB
"""Bytes of what a graph saves: with more it is warned, with more it is refused."""


@final
@dataclass(frozen=True)
class Measured:
    """rows, width: of the inputs of a graph's forward, 1 and 1 for a method. together: whether it can share a forward with others. sizes: bytes of
    each value that it saves. passed: whether a graph has run on shapes."""

    rows: int = 1
    width: int = 1
    together: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)
    passed: bool = False

    def refuse(self, tokens: int) -> None:
        """Raise InputError for a result that is too large, and for a forward of more than so many tokens."""
        if (total := sum(self.sizes.values())) > LARGEST:
            works = f"at most {_shown(LARGEST)}: reduce in the body (topk, mean, one position)"
            raise InputError(f"Save {_shown(total)}.", self._largest, works)
        if self.rows * self.width > tokens:
            found, works = f"{self.rows:,} rows of {self.width:,} tokens", f"at most {tokens:,} tokens in one forward, and several jobs"
            raise InputError("Run a graph.", found, works)

    @property
    def warnings(self) -> list[str]:
        """What its user should know before it runs."""
        if (total := sum(self.sizes.values())) <= LARGE:
            return []
        return [f"The result has {_shown(total)}: {self._largest}. Reduce in the body (topk, mean, one position) what is not needed."]

    @property
    def _largest(self) -> str:
        return ", ".join(f"{name[:40]} {_shown(self.sizes[name])}" for name in sorted(self.sizes, key=lambda name: -self.sizes[name])[:3])


def _shown(nbytes: int) -> str:
    return f"{nbytes / MiB:,.0f} MiB"
