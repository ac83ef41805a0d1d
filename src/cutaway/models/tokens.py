"""Prompts as a batch of tokens, with the positions of their roles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.address import Position
from cutaway.errors import AddressError, PromptError
from cutaway.models.prompt import Prompt


@final
@dataclass(frozen=True, eq=False)
class Tokens:
    """A batch padded on the left, so that the last position is the last token of every row.

    ids (batch, pos); mask (batch, pos), 1 at tokens, 0 at padding; lengths: tokens of each row; spans: for each row, role -> positions
    [first, end) in the padded row.
    """

    ids: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"]
    lengths: tuple[int, ...]
    spans: tuple[dict[str, tuple[int, int]], ...]
    _found: dict[Position, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def padded(self) -> bool:
        """Whether any row is shorter than the longest."""
        return len(set(self.lengths)) > 1

    def positions(self, pos: Position) -> Int[Tensor, "batch k"]:
        """Positions a selector names in each row: an index, or a role (all its tokens), `role.first`, `role.last`, `last`.

        Raises AddressError where a row has no such role or token, or rows differ in the number of tokens.
        """
        if pos not in self._found:
            rows = [self._row(row, pos) for row in range(len(self))]
            if len({len(row) for row in rows}) > 1:
                raise AddressError(f"pos={pos} in a batch.", "spans of different lengths", f"pos={pos}.first or pos={pos}.last")
            self._found[pos] = torch.tensor(rows, dtype=torch.long)
        return self._found[pos]

    def _row(self, row: int, pos: Position) -> list[int]:
        width, length = self.ids.shape[1], self.lengths[row]
        if isinstance(pos, int):
            if not -length <= pos < length:
                raise AddressError(f"pos={pos}.", f"a prompt of {length} tokens", f"{-length} to {length - 1}")
            return [width + pos if pos < 0 else width - length + pos]
        if pos == "last":
            return [width - 1]
        role, _, end = pos.partition(".")
        if role not in self.spans[row] or end not in ("", "first", "last"):
            roles = ", ".join(self.spans[row]) or "none"
            raise AddressError(f"pos={pos}.", f"a prompt with roles: {roles}", "one of its roles, a whole number, or last")
        first, stop = self.spans[row][role]
        return {"first": [first], "last": [stop - 1], "": list(range(first, stop))}[end]


def tokenize(tokenizer: Any, prompts: Sequence[Prompt], context: int, bos: int | None) -> Tokens:
    """Encode prompts as the tokenizer does by itself (a beginning-of-text token where it adds one), and find their roles by character offsets.

    Raises PromptError for an empty prompt, one longer than the context, and a role that no token covers.
    """
    if not prompts:
        raise PromptError("Tokenize prompts.", "an empty list", "one prompt at least")
    encoded = [_encode(tokenizer, prompt, bos) for prompt in prompts]
    width = max(len(ids) for ids, _ in encoded)
    if width > context:
        raise PromptError("Run a prompt.", f"{width} tokens", f"at most {context}, this model's context")
    ids = torch.full((len(prompts), width), _padding(tokenizer))
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    spans = []
    for row, (tokens, roles) in enumerate(encoded):
        shift = width - len(tokens)
        ids[row, shift:] = torch.tensor(tokens)
        mask[row, shift:] = 1
        spans.append({role: (first + shift, stop + shift) for role, (first, stop) in roles.items()})
    return Tokens(ids, mask, tuple(len(tokens) for tokens, _ in encoded), tuple(spans))


def joined(batches: Sequence[Tokens]) -> Tokens:
    """Batches one after the other in one, padded on the left to the longest."""
    width = max(tokens.ids.shape[1] for tokens in batches)

    def padded(values: Tensor, filling: int) -> Tensor:
        return torch.nn.functional.pad(values, (width - values.shape[1], 0), value=filling)

    shifts = [width - tokens.ids.shape[1] for tokens in batches]
    spans = [{r: (a + k, b + k) for r, (a, b) in row.items()} for tokens, k in zip(batches, shifts, strict=True) for row in tokens.spans]
    ids = torch.cat([padded(tokens.ids, int(tokens.ids[0, 0])) for tokens in batches])
    mask = torch.cat([padded(tokens.mask, 0) for tokens in batches])
    return Tokens(ids, mask, tuple(length for tokens in batches for length in tokens.lengths), tuple(spans))


def encode(tokenizer: Any, text: str, **options: Any) -> Any:
    """What the tokenizer makes of a text. Raises PromptError for a text it has no words for."""
    try:
        return tokenizer(text, **options)
    except Exception as error:  # tokenizers raises nothing more precise
        raise PromptError(f"Tokenize {text!r}.", str(error), "words of the model's vocabulary") from error


def _encode(tokenizer: Any, prompt: Prompt, bos: int | None) -> tuple[list[int], dict[str, tuple[int, int]]]:
    if prompt.ids is not None:
        before = [] if bos is None else [bos]
        if not prompt.ids:
            raise PromptError("Run a prompt.", "no tokens", "one token id at least")
        return [*before, *prompt.ids], {r: (a + len(before), b + len(before)) for r, (a, b) in prompt.spans.items()}
    encoding = encode(tokenizer, prompt.text, return_offsets_mapping=True)
    ids, offsets = list(encoding["input_ids"]), encoding["offset_mapping"]
    if not ids:
        raise PromptError("Run a prompt.", "no tokens", "a text that is not empty")
    roles = {}
    for role, (start, end) in prompt.spans.items():
        covered = [i for i, (a, b) in enumerate(offsets) if a < b and a < end and b > start]
        # a tokenizer that counts the space before a word as part of it covers the space alone only by accident
        covered = [i for i in covered if prompt.text[max(offsets[i][0], start) : min(offsets[i][1], end)].strip()]
        if not covered:
            raise PromptError(f"Role {role!r} of {prompt.text!r}.", "no token covers it", "a span with at least one word")
        roles[role] = (covered[0], covered[-1] + 1)
    return ids, roles


def _padding(tokenizer: Any) -> int:
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0
