"""What every result is: plain data that says where it came from and what it was held against.

A result is a frozen dataclass of one of the kinds in this folder. It draws itself (`show`, `save_png`, `_repr_html_`) through the view of
the same name, and is stored as one folder-less pair of files: `name.json` (everything but arrays) and `name.safetensors`.
Arrays are numpy, so that reading and drawing a result does not need torch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from cutaway import registry
from cutaway.errors import StorageError

FORMAT = 1
"""Version of the stored form; raised when a reader of the old form would misread the new one."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, its bounds and the number of samples behind it: a confidence interval of the mean, or, for random draws, the middle 95 % of them."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}], n={self.n}"


@dataclass(frozen=True, slots=True)
class Control:
    """A trivial rival that the result has to beat.

    name: a few words ("random direction of the same length"). says: one sentence on what was done instead. found: the same number for what
    the method found; trivial: for the control, either a mean with its confidence interval, or random draws with the range of the middle 95 % of them.
    """

    name: str
    says: str
    unit: str
    found: Interval
    trivial: Interval


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a result came from: enough to run it again."""

    method: str
    model: str
    revision: str = ""
    task: str = ""
    seed: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)
    n: int = 0
    forwards: float = 0
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Result:
    """Common part of all kinds.

    title: what it shows, as a heading. question: what it answers. limits: what it does not show. controls: the rivals it was held against.
    numbers: single numbers that belong to it, name -> value, such as the untouched model's score.
    """

    kind: ClassVar[str]
    title: str
    provenance: Provenance
    question: str = ""
    limits: str = ""
    controls: tuple[Control, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)

    def text(self) -> str:
        """The result as plain text for a terminal."""
        return str(_view(self.kind).text(self))

    def html(self) -> str:
        """The result as one HTML element (a report: one page) that needs nothing from the network."""
        return str(_view(self.kind).html(self))

    def save_png(self, path: str | os.PathLike[str]) -> Path:
        """Draw a picture. Raises StorageError if it cannot be written."""
        return write_atomically(Path(path), lambda temporary: _view(self.kind).png(self, temporary))

    def show(self) -> None:
        """Print to the terminal; in a notebook the last line of a cell draws by itself."""
        print(self.text())

    def _repr_html_(self) -> str:
        return self.html()

    def __str__(self) -> str:
        return self.text()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `path` (.json) and beside it the arrays (.safetensors); returns the JSON's path. Raises StorageError."""
        from safetensors.numpy import save as serialize

        path = Path(path).with_suffix(".json")
        document, arrays = self._stored()
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
        # serialized here and written by Python, because safetensors reports a full disk as an error that is no OSError
        write_atomically(path.with_suffix(".safetensors"), lambda temporary: temporary.write_bytes(serialize(arrays)))
        return write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))

    def to_bytes(self) -> bytes:
        """The whole result as one safetensors blob, with everything but the arrays in its header. `Result.from_bytes` reads it back."""
        from safetensors.numpy import save as serialize

        document, arrays = self._stored()
        return serialize(arrays, metadata={"document": json.dumps(document, allow_nan=False)})

    def _stored(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays: dict[str, np.ndarray] = {}
        return {"cutaway": FORMAT, "kind": self.kind, "result": _encode(self, "", arrays)}, arrays

    @staticmethod
    def from_bytes(blob: bytes) -> Result:
        """What `to_bytes` made. Raises StorageError for anything else."""
        from safetensors import SafetensorError
        from safetensors.numpy import load as deserialize

        try:
            header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
            document, arrays = json.loads(header["__metadata__"]["document"]), deserialize(blob)
        except (ValueError, LookupError, TypeError, RecursionError, OverflowError, SafetensorError) as error:
            raise StorageError("Read a result.", f"bytes that hold none ({type(error).__name__})", "what result.to_bytes made") from error
        return _read(document, arrays, "Read a result.", "what result.to_bytes made")

    def to_json(self) -> str:
        """The whole result as one JSON document, arrays as nested lists, NaN as null."""
        document, arrays = self._stored()
        lists = {name: _nulls(array.tolist()) for name, array in arrays.items()}
        return json.dumps(_inlined(document, lists), ensure_ascii=False, allow_nan=False)

    def with_(self, **changes: Any) -> Self:
        """The same result with some fields changed."""
        return dataclasses.replace(self, **changes)


def load(path: str | os.PathLike[str]) -> Result:
    """Read a stored result back. Raises StorageError for a missing, foreign or newer file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(path).with_suffix(".json")
    try:
        document = json.loads(path.read_text("utf-8"))
        arrays = load_file(path.with_suffix(".safetensors"))
    except (OSError, ValueError, SafetensorError) as error:
        raise StorageError(f"Read the result {path}.", str(error), "a .json written by result.save, its .safetensors beside it") from error
    return _read(document, arrays, f"Read the result {path}.", "a .json and a .safetensors of the same result.save, unedited")


def _read(document: Any, arrays: Mapping[str, np.ndarray], asked: str, works: str) -> Result:
    """What a document and its arrays stand for. Raises StorageError."""
    if not isinstance(document, dict) or document.get("cutaway") != FORMAT:
        raise StorageError(asked, "another format", f'one with "cutaway": {FORMAT}; newer ones need a newer cutaway')
    try:
        result = _decode(document["result"], arrays)
    except (LookupError, TypeError, ValueError) as error:
        raise StorageError(asked, f"{type(error).__name__}: {error}", works) from error
    if not isinstance(result, Result):
        raise StorageError(asked, f"a {type(result).__name__}", "one whose top is a result")
    return result


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Call `write` with a temporary path beside `path`, then rename it. Nothing half-written is left. Raises StorageError."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"Write {path}.", error.strerror or str(error), "a folder that is writable and has room") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def _view(kind: str) -> Any:
    return registry.load("views", kind)


def _types() -> dict[str, type]:
    kinds = {name: registry.load("results", name) for name in registry.names("results")}
    return {cls.__name__: cls for kind in kinds.values() for cls in (kind, *getattr(kind, "parts", ()))} | {
        cls.__name__: cls for cls in (Interval, Control, Provenance)
    }


def _encode(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        arrays[path] = np.ascontiguousarray(value)
        return {"array": path}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _encode(getattr(value, f.name), f"{path}/{f.name}", arrays) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {"map": {str(k): _encode(v, f"{path}/{k}", arrays) for k, v in value.items()}}
    if isinstance(value, (list, tuple)):
        return [_encode(v, f"{path}/{i}", arrays) for i, v in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}  # JSON has no NaN; browsers refuse the file that Python would write
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"a result cannot hold a {type(value).__name__} (at {path})")


def _inlined(value: Any, lists: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_inlined(v, lists) for v in value]
    if isinstance(value, dict):
        return lists[value["array"]] if value.keys() == {"array"} else {k: _inlined(v, lists) for k, v in value.items()}
    return _nulls(value)


def _nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_nulls(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _decode(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return tuple(_decode(v, arrays) for v in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "map" in value:
        return {k: _decode(v, arrays) for k, v in value["map"].items()}
    if "float" in value:
        return float(value["float"])
    types = _types()
    if value.get("type") not in types:
        known = ", ".join(sorted(types))
        raise StorageError(f"Read a result with a {value.get('type')!r} in it.", "a type this version does not know", known)
    return types[value["type"]](**{k: _decode(v, arrays) for k, v in value.items() if k != "type"})
