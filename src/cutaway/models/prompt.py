"""A text with named spans: the roles that addresses and tasks speak of.

>>> p = Prompt.fill("{subject} is in the city of", subject="The Eiffel Tower")
>>> p.text, p.spans["subject"]
('The Eiffel Tower is in the city of', (0, 16))
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from cutaway.errors import PromptError


@final
@dataclass(frozen=True)
class Prompt:
    """`spans` maps a role to the characters [start, end) of `text` that play it.

    `ids`, where given, are the tokens themselves, for texts that have no faithful spelling (random tokens); spans then count tokens.
    """

    text: str
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        length = len(self.text) if self.ids is None else len(self.ids)
        for role, (start, end) in self.spans.items():
            if not 0 <= start < end <= length:
                raise PromptError(f"Role {role!r} at [{start}, {end}).", f"a prompt of length {length}", "0 <= start < end <= length")

    @classmethod
    def fill(cls, template: str, **roles: str) -> Prompt:
        """Fill `{role}` fields; each becomes a span. A role used twice is named `role`, `role_2`, ... Raises PromptError."""
        text, spans = "", dict[str, tuple[int, int]]()
        for literal, role, _, _ in string.Formatter().parse(template):
            text += literal
            if role is None:
                continue
            if not roles.get(role):
                raise PromptError(f"Fill {{{role}}} in {template!r}.", f"values for {', '.join(roles) or 'nothing'}", f"{role}='some text'")
            again = (f"{role}_{i}" for i in itertools.count(2))
            name = role if role not in spans else next(n for n in again if n not in spans)
            spans[name] = (len(text), len(text) + len(roles[role]))
            text += roles[role]
        return cls(text, spans)

    @classmethod
    def mark(cls, text: str, **spans: str) -> Prompt:
        """Find each span's text in `text`, first occurrence. Raises PromptError if it is not there."""
        found = {}
        for role, part in spans.items():
            start = text.find(part) if part else -1
            if start < 0:
                raise PromptError(
                    f"The {role} {part!r} in the prompt.", f"{text!r} does not contain it", "a part of the prompt, letter for letter"
                )
            found[role] = (start, start + len(part))
        return cls(text, found)

    def after(self, opening: str) -> Prompt:
        """The same prompt with a text put before it; spans move along."""
        if self.ids is not None:
            raise PromptError("Put a text before a prompt.", "a prompt given as token ids", "a prompt given as text")
        shift = len(opening)
        return Prompt(opening + self.text, {role: (start + shift, end + shift) for role, (start, end) in self.spans.items()})
