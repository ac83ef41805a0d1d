"""A basis to look at an activation in, and to change it in: encode, decode, and what is left over.

    features = basis.encode(x)
    x == basis.decode(features, basis.error(x))        # up to rounding
    changed = basis.replaced(x, other_features)        # all that the basis does not see is kept; with its own features, x bit for bit

A featurizer is data: it is saved as a pair of files, `name.json` and `name.safetensors`, and read back with `load`. While it is being trained it is
a `Learner`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from cutaway import registry
from cutaway.engine import confining
from cutaway.errors import InputError, StorageError
from cutaway.results.base import write_atomically

FORMAT = 1
"""Version of the stored form."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Featurizer(ABC):
    """Activations (..., width) to features (..., n) and back. `kind`: the name of its file, by which `load` finds it again.

    about: where it came from and where it belongs, such as `at`, the address it was trained for; plain values only.
    """

    kind: ClassVar[str]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    @abstractmethod
    def width(self) -> int:
        """The length of the activations."""

    @property
    @abstractmethod
    def n(self) -> int:
        """The number of features."""

    @abstractmethod
    def encode(self, x: Float[Tensor, "*rest width"]) -> Float[Tensor, "*rest n"]:
        """The features of activations."""

    @abstractmethod
    def decode(self, features: Float[Tensor, "*rest n"], error: Float[Tensor, "*rest width"] | None = None) -> Float[Tensor, "*rest width"]:
        """The activations that have these features, and `error` beside them; nothing beside them where it is None."""

    @abstractmethod
    def select(self, which: Sequence[int]) -> Featurizer:
        """The basis of some of the features alone."""

    def error(self, x: Float[Tensor, "*rest width"]) -> Float[Tensor, "*rest width"]:
        """What of the activations the features do not hold."""
        return x - self.decode(self.encode(x))

    def replaced(self, x: Float[Tensor, "*rest width"], features: Float[Tensor, "*rest n"]) -> Float[Tensor, "*rest width"]:
        """Activations with other features and all else as it is in x, in the dtype of x."""
        return x + (self.decode(features) - self.decode(self.encode(x))).to(x.dtype)

    def told(self, **about: Any) -> Featurizer:
        """The same basis, with more said about it."""
        return dataclasses.replace(self, about={**self.about, **about})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `path` (.json) and the numbers beside it (.safetensors); returns the JSON's path. Raises StorageError."""
        document, numbers = _paths(path)
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        tensors = {name: value.detach().cpu().contiguous() for name, value in fields.items() if isinstance(value, Tensor)}
        plain = {name: value for name, value in fields.items() if name not in tensors}
        text = json.dumps({"cutaway": FORMAT, "featurizer": self.kind, "fields": plain}, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(numbers, lambda temporary: temporary.write_bytes(serialize(tensors)))
        return write_atomically(document, lambda temporary: temporary.write_text(text, "utf-8"))


class Learner(ABC):
    """A basis while it is trained. `parameters` are what an optimizer moves; nothing else is."""

    parameters: Sequence[Tensor]
    anneals: bool = False
    """Whether it changes with the part of the training that is done, so that training must not stop early."""

    @abstractmethod
    def interchanged(self, base: Float[Tensor, "*rest width"], source: Float[Tensor, "*rest width"], done: float) -> Tensor:
        """The base with the features of the source, as far as they are learned; done: the part of the training that lies behind, 0 to 1."""

    def penalty(self) -> Tensor | float:
        """What is added to the loss, such as the price of a feature."""
        return 0.0

    @abstractmethod
    def learned(self) -> Featurizer:
        """What it has come to."""


def load(path: str | os.PathLike[str]) -> Featurizer:
    """Read what `Featurizer.save` wrote. Raises StorageError for a missing, foreign or newer file."""
    document, numbers = _paths(path)
    works = "a .json that Featurizer.save wrote, its .safetensors beside it"
    try:
        stored = json.loads(document.read_text("utf-8"))
        tensors = load_file(numbers)
    except (OSError, ValueError, SafetensorError) as error:
        raise StorageError(f"Read the featurizer {document}.", str(error), works) from error
    if not isinstance(stored, dict) or stored.get("cutaway") != FORMAT or "featurizer" not in stored:
        raise StorageError(f"Read the featurizer {document}.", "another format", f'{works}, with "cutaway": {FORMAT}')
    try:
        found = registry.load("mediators", f"featurizers.{stored['featurizer']}")(**stored["fields"], **tensors)
    except (LookupError, TypeError, ValueError) as error:
        raise StorageError(f"Read the featurizer {document}.", f"{type(error).__name__}: {error}", works) from error
    assert isinstance(found, Featurizer)
    return found


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is a saved featurizer of this name."""
    return all(part.exists() for part in _paths(path))


def chosen(which: Sequence[int], n: int) -> list[int]:
    """Numbers of features, each once. Raises InputError for one that is not there."""
    if not all(0 <= i < n for i in which) or len(set(which)) != len(which):
        raise InputError(f"Features {list(which)}.", f"{n} of them", f"numbers from 0 to {n - 1}, each once")
    return list(which)


def _paths(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    confining.refuse_opening("a file")
    stem = Path(path)
    stem = stem.with_suffix("") if stem.suffix == ".json" else stem
    return stem.with_name(f"{stem.name}.json"), stem.with_name(f"{stem.name}.safetensors")
