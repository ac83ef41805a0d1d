"""The name of one tensor in a run of a model.

An address is a point, and selectors that narrow it:

    layers[12].attn.z[head=3, pos=subject.last]
    └── point ──────┘└── selectors ───────────┘

    >>> a = Address.parse("layers[12].attn.z[head=3, pos=subject.last]")
    >>> a.point, a.layer, a.head, a.pos
    ('layers[12].attn.z', 12, 3, 'subject.last')
    >>> str(a.at(head=None, pos=-1))
    'layers[12].attn.z[pos=-1]'
    >>> Address.parse(str(a)) == a
    True

A point is a standard name (`docs/points.md`) or a module's own path followed by `input` or `output`
(`transformer.h[3].mlp.output`). A position is a token index (negative: from the end; positive: from the first token that is
not padding) or a role of the prompt: `subject` (all its tokens), `subject.first`, `subject.last`, `last`.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from cutaway.errors import AddressError

Position = int | str

_SEGMENT = r"[A-Za-z_][A-Za-z0-9_]*(?:\[\d+\])*"
_POINT = re.compile(rf"(?:{_SEGMENT}|\d+|\[\d+\])(?:\.(?:{_SEGMENT}|\d+))*")
_ROLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.(?:first|last))?")
_LAYER = re.compile(r"\[(\d+)\]|\.(\d+)(?=\.|$)")
SELECTORS = ("head", "unit", "pos")


@dataclass(frozen=True, slots=True)
class Address:
    """A point and what is selected of it; `None` selects everything. `unit` counts along the last axis; in a map of features, channels."""

    point: str
    head: int | None = None
    unit: int | None = None
    pos: Position | None = None

    def __post_init__(self) -> None:
        if not _POINT.fullmatch(self.point):
            raise AddressError(f"{self.point!r} is not a point.", works="layers[3].attn.z, embed, transformer.h[3].output")
        for name in ("head", "unit"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise AddressError(f"{name}={value!r} in an address.", works=f"{name}=0 or a larger whole number")
        if isinstance(self.pos, str) and not _ROLE.fullmatch(self.pos):
            raise AddressError(f"pos={self.pos!r} in an address.", works="pos=-1, pos=4, pos=last, pos=subject.last")

    @classmethod
    def parse(cls, text: str | Address) -> Address:
        """Read the string form. Raises AddressError for anything that is not understood."""
        if isinstance(text, Address):
            return text
        text = text.strip()
        head, bracket, tail = text.rpartition("[")
        if not bracket or "=" not in tail:
            return cls(text)
        if not tail.endswith("]"):
            raise AddressError(f"{text!r} is not an address.", "an open bracket", f"{text}]")
        selected: dict[str, Position] = {}
        for item in tail[:-1].split(","):
            name, _, value = (part.strip() for part in item.partition("="))
            if name not in SELECTORS or name in selected or not value:
                raise AddressError(
                    f"Selector {item.strip()!r} in {text!r}.", "each of head, unit, pos once at most", f"{head}[head=3, pos=-1]"
                )
            selected[name] = int(value) if re.fullmatch(r"-?\d+", value) else value
        return cls(head, **selected)  # type: ignore[arg-type]  # __post_init__ checks the types

    @property
    def layer(self) -> int | None:
        """The first index in the point, which is the layer in every standard name; None where there is none."""
        found = _LAYER.search(self.point)
        return int(found[1] or found[2]) if found else None

    def at(self, **selectors: Position | None) -> Address:
        """The same point with other selectors."""
        return dataclasses.replace(self, **selectors)  # type: ignore[arg-type]

    def __str__(self) -> str:
        chosen = [f"{name}={getattr(self, name)}" for name in SELECTORS if getattr(self, name) is not None]
        return f"{self.point}[{', '.join(chosen)}]" if chosen else self.point
