"""A module that is no decoder language model, opened with standard names: encoders, vision transformers and others that a `Layout` describes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any, final

import torch
from torch import Tensor, nn

from cutaway.address import Address
from cutaway.engine.model import Model
from cutaway.engine.place import IMAGE
from cutaway.engine.site import FIRST, Site
from cutaway.engine.stack import Stack
from cutaway.errors import AddressError, PromptError
from cutaway.models import attention
from cutaway.models.any_module import dotted
from cutaway.models.families.base import Layout, Where
from cutaway.models.points import KINDS, Point, generic

_HEADS = ("logits", "logits_per_image", "last_hidden_state", "s_s")
"""Entries of an output, of which a metric sees the first there is; the last is the state of the residues in a folding model."""


@final
class NamedModule(Model):
    """`model.trace(pixel_values=...)`, `model.run("a text")`; `model.layers[3].attn.z` and the other points of its kind in `docs/points.md`.

    Inputs are what the module takes, by position or by keyword; a mapping of keywords, such as a processor returns; or, with a tokenizer, a
    text or a list of texts. An encoder-decoder that is given a text alone starts its decoder with the config's start token. `pos` is an index of a
    token; one from the end is refused where the mask of a mapping or of texts shows rows that are padded there.
    """

    def __init__(self, module: nn.Module, name: str, layout: Layout, tokenizer: Any = None) -> None:
        super().__init__(module, name)
        self._table: dict[str, Point] = {point.name: point for point in KINDS[layout.kind]}
        self.layout, self.tokenizer = layout, tokenizer
        self._opening = partial(layout.opening or attention.opened, module)

    def points(self) -> tuple[str, ...]:
        """Every standard point this model has, in the order of its kind's table, layer by layer."""
        lists = groupby(self._table, lambda name: name.partition("[")[0])
        numbered = ([found for name in names for found in self._numbered(name)] for _, names in lists)
        ordered = (name for names in numbered for name in sorted(names, key=lambda name: Address(name).layer or 0))
        return tuple(name for name in ordered if self.find(name) is not None)

    def _native_site(self, point: str) -> Site | None:
        site = super()._native_site(point)
        images = any(row.dims == IMAGE for row in self._table.values())
        return replace(site, dims=IMAGE) if site is not None and images else site

    # What a kind of model has to say

    def prepare(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(inputs) != 1:
            return inputs
        first = inputs[0]
        if isinstance(first, Mapping):
            return (dict(first),)
        if not isinstance(first, str) and not (isinstance(first, (list, tuple)) and first and all(isinstance(x, str) for x in first)):
            return inputs
        if self.tokenizer is None:
            works = "cut.open(module, tokenizer=...), or tensors as the module takes them"
            raise PromptError(f"Run {self.name} on a text.", "a model opened without a tokenizer", works)
        words = [first] if isinstance(first, str) else list(first)
        return ({**self._start(words), **self.tokenizer(words, return_tensors="pt", padding=len(words) > 1)},)

    def arguments(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        device = next((p.device for p in self.module.parameters()), torch.device("cpu"))
        mapped = len(inputs) == 1 and isinstance(inputs[0], Mapping)
        keywords = {**inputs[0], **options} if mapped else options
        given = () if mapped else inputs
        return tuple(_moved(value, device) for value in given), {name: _moved(value, device) for name, value in keywords.items()}

    def locate(self, point: str) -> Site | None:
        name, indices = generic(point)
        row = self._table.get(name)
        if row is None:
            return None
        if name in self.layout.missing:
            found, works = self.layout.missing[name]
            raise AddressError(f"{point} in {self.name}.", f"a {self.layout.name} model: {found}", works)
        where = self.layout.points.get(name)
        if where is None:
            return None
        path = self._own(where.path.format(**indices))
        if path is None:
            self._refuse_index(point, where, indices)
            return None
        view = where.view(getattr(self.module, "config", None))
        opening = self._opening if where.event not in ("input", "output", "inputs") else None
        return Site(point, self.module.get_submodule(path), path, where.event, view, row.dims, opening)

    def below(self, path: str) -> Iterable[str]:
        prefix = f"{generic(path)[0]}." if path else ""
        inside = {name.removeprefix(prefix).partition(".")[0] for name in self.layout.points if name.startswith(prefix)}
        return sorted({name.partition("[")[0] for name in inside})

    def native(self, path: str) -> str:
        for standard, own in sorted(self.layout.modules.items(), key=lambda item: -len(item[0])):
            found = re.match(re.sub(r"\\\[[ijk]\\\]", r"\\[(\\d+)\\]", re.escape(standard)) + r"(?=\.|\[|$)", path)
            if found is not None:
                renamed = own.format(**dict(zip("ijk", found.groups(), strict=False)))
                inside = self._own(renamed)
                return dotted((renamed if inside is None else inside) + path[found.end() :])
        return dotted(path)

    def positions(self, address: Address, inputs: tuple[Any, ...]) -> Tensor | None:
        if address.pos is None:
            return None
        if isinstance(address.pos, str):
            raise AddressError(f"{address}", f"{self.name}, whose inputs have no roles", "a whole number for pos: an index of a token")
        if address.pos < 0 and any(_padded_right(value) for value in inputs):
            raise AddressError(f"{address}", "rows of different lengths, padded at their ends", "pos counted from the start: pos=0, pos=1")
        return torch.tensor([[address.pos]])  # one row, the same for every row of the batch

    def last(self, output: Any) -> Tensor:
        if isinstance(output, Mapping):
            entries = dict(output.items())
            found = next((entries[name] for name in _HEADS if isinstance(entries.get(name), Tensor)), None)
            output = next(iter(entries.values())) if found is None else found
        tensor = FIRST.read(output)
        assert isinstance(tensor, Tensor)
        return tensor[:, -1] if self.layout.kind == "encoder_decoder" else tensor

    @property
    def stack(self) -> Stack | None:
        return None

    def _start(self, words: list[str]) -> dict[str, Tensor]:
        start = getattr(getattr(self.module, "config", None), "decoder_start_token_id", None)
        if self.layout.kind != "encoder_decoder" or start is None:
            return {}
        return {"decoder_input_ids": torch.full((len(words), 1), start)}

    def _own(self, path: str) -> str | None:
        """The path of a module of the bare model in this module, which may wrap it; None if it has no such part."""
        prefixes = (getattr(self.module, "base_model_prefix", ""), *self.layout.prefixes)
        for candidate in (path, *(f"{prefix}.{path}" for prefix in prefixes if prefix)):
            try:
                self.module.get_submodule(candidate)
            except AttributeError:
                continue
            return candidate
        return None

    def _counts(self, pattern: str, indices: dict[str, int]) -> int:
        """How many parts the first list of a path has whose index is not in `indices`; 0 if there is no such list."""
        before, _, _ = pattern.partition("{" + "ijk"[len(indices)] + "}")
        path = self._own(before.rstrip(".").format(**indices))
        parts = None if path is None else self.module.get_submodule(path)
        return len(parts) if isinstance(parts, (nn.ModuleList, nn.Sequential)) else 0

    def _numbered(self, name: str, indices: dict[str, int] | None = None) -> list[str]:
        """The names that one row of the table stands for in this model."""
        indices = indices or {}
        letter = "ijk"[len(indices) :][:1]
        where = self.layout.points.get(name)
        if where is None:
            return []
        if f"[{letter}]" not in name:
            numbered = name
            for other, index in indices.items():
                numbered = numbered.replace(f"[{other}]", f"[{index}]")
            return [numbered]
        return [found for n in range(self._counts(where.path, indices)) for found in self._numbered(name, indices | {letter: n})]

    def _refuse_index(self, point: str, where: Where, indices: dict[str, int]) -> None:
        known: dict[str, int] = {}
        for letter, index in indices.items():
            count = self._counts(where.path, known)
            if 0 < count <= index:
                raise AddressError(f"{point}", f"{count} parts there in {self.name}", f"numbers from 0 to {count - 1}")
            known[letter] = index


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _padded_right(inputs: Any) -> bool:
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    return isinstance(mask, Tensor) and mask.ndim == 2 and not bool(mask[:, -1].all())
