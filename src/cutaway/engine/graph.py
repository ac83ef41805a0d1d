"""The intervention graph: a body of operations written down, as data.

A graph is a list of nodes. A node is a tensor operation of the reviewed table (`operations`), or one of the few words by which a body speaks with the
forward: `read`, `write`, `skip`, `call`, `begin`, `stop`, `output`, `save`. It holds no code: arguments are JSON, larger tensors are
constants in safetensors, weights of the model are named. What is read from outside is checked whole before anything is made of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from cutaway.engine.node import LINE, Limits, Node, check_node, node_from
from cutaway.engine.picture import picture
from cutaway.errors import GraphError, StorageError

VERSION = 1


@final
@dataclass(frozen=True, eq=False)
class Graph:
    """A recorded body. `model`: the name of the model it was recorded on. Equal graphs have equal `hash`."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    model: str = ""

    @property
    def saved(self) -> tuple[str, ...]:
        """Names of the values it saves."""
        return tuple(name for node in self.nodes if node.op == "save" for name in node.kwargs)

    @property
    def points(self) -> tuple[str, ...]:
        """The points it reads and writes, each once, in the order of the body."""
        return tuple(dict.fromkeys(str(node.args[0]) for node in self.nodes if node.op in ("read", "write")))

    @property
    def hash(self) -> str:
        """SHA-256 of what it computes: its nodes without their lines, and its constants."""
        nodes = [{k: v for k, v in node.data().items() if k != "line"} for node in self.nodes]
        digest = hashlib.sha256(json.dumps([VERSION, nodes], sort_keys=True).encode())
        digest.update(self._blob())
        return digest.hexdigest()

    def to_json(self) -> str:
        """The graph without its constants."""
        return json.dumps({"version": VERSION, "model": self.model, "nodes": [node.data() for node in self.nodes]})

    def to_bytes(self) -> bytes:
        """The whole graph in one safetensors blob: the constants, with the JSON in its header."""
        return save_tensors(_storable(self.constants), metadata={"graph": self.to_json()})

    @classmethod
    def from_bytes(cls, blob: bytes, limits: Limits | None = None) -> Graph:
        """Read and check what `to_bytes` made. Raises GraphError for anything else, before a tensor is made of it."""
        limits = limits or Limits()
        largest = limits.constants + 2 * limits.text + 2**20  # quotes in the JSON take two bytes in a header
        if len(blob) > largest:
            raise GraphError("Read an intervention graph.", f"{len(blob):,} bytes", f"at most {largest:,}")
        text, names = _header(blob, limits)
        data = _json(text, limits.text)
        nodes = _nodes(data, limits)
        _check(nodes, names, limits)
        try:
            constants = load_tensors(blob)
        except (SafetensorError, ValueError, KeyError, RuntimeError, TypeError, OverflowError) as error:
            raise GraphError(
                "Read an intervention graph.", f"constants that are not safetensors ({error})", "what graph.save wrote"
            ) from error
        name = data.get("model", "")
        graph = cls(nodes, constants, name[:LINE] if isinstance(name, str) else "")
        graph.check_size(limits)
        return graph

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the graph to one file. Raises StorageError; nothing half-written is left."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            partial.write_bytes(self.to_bytes())
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise StorageError(f"Write {path}.", str(error), "a folder that exists and can be written to") from error
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str], limits: Limits | None = None) -> Graph:
        """Read a graph from a file. Raises StorageError, GraphError."""
        path, limits = Path(path), limits or Limits()
        try:
            if path.stat().st_size > limits.text + limits.constants + 2**20:
                raise GraphError(
                    f"Read {path}.", f"a file of {path.stat().st_size:,} bytes", f"at most {limits.constants:,} bytes of constants"
                )
            blob = path.read_bytes()
        except OSError as error:
            raise StorageError(f"Read {path}.", str(error), "the path of a file that graph.save wrote") from error
        return cls.from_bytes(blob, limits)

    def check(self, limits: Limits | None = None) -> None:
        """Check every node: its operation, its arguments, what it refers to. Raises GraphError."""
        limits = limits or Limits()
        self.check_size(limits)
        _check(self.nodes, self.constants, limits)

    def check_size(self, limits: Limits) -> None:
        """Check the bytes of its constants. Raises GraphError."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in self.constants.values())
        if size > limits.constants:
            raise GraphError("Check an intervention graph.", f"{size:,} bytes of constants", f"at most {limits.constants:,}")

    def __repr__(self) -> str:
        lines = [f"{i:>4}  {node}{f'   # {node.line}' if node.line else ''}" for i, node in enumerate(self.nodes)]
        return "\n".join([f"<graph on {self.model or 'any model'}: {len(self.nodes)} nodes, {len(self.constants)} constants>", *lines])

    def _repr_svg_(self) -> str:
        """A picture: in a notebook the last line of a cell draws by itself."""
        return picture(self)

    def _blob(self) -> bytes:
        return save_tensors(_storable(self.constants))


def _check(nodes: Sequence[Node], constants: Container[str], limits: Limits) -> None:
    if len(nodes) > limits.nodes:
        raise GraphError("Check an intervention graph.", f"{len(nodes):,} nodes", f"at most {limits.nodes:,}")
    for number, node in enumerate(nodes):
        check_node(node, number, constants, limits)
    saved = sum(len(node.kwargs) for node in nodes if node.op == "save")
    if saved > limits.saved:
        raise GraphError("Check an intervention graph.", f"{saved:,} saved values", f"at most {limits.saved:,}")


def _header(blob: bytes, limits: Limits) -> tuple[str, frozenset[str]]:
    """The JSON text in a safetensors header and the names of the tensors, read without touching them."""
    length = int.from_bytes(blob[:8], "little") if len(blob) >= 8 else 0
    if not 0 < length <= len(blob) - 8:
        raise GraphError("Read an intervention graph.", f"{len(blob):,} bytes that are no safetensors file", "what graph.save wrote")
    header = _json(blob[8 : 8 + length], 2 * limits.text + 2**20)
    about = header.get("__metadata__")
    text = about.get("graph") if isinstance(about, dict) else None
    if not isinstance(text, str):
        raise GraphError("Read an intervention graph.", "a safetensors file without a graph", "what graph.save wrote")
    return text, frozenset(header) - {"__metadata__"}


def _json(text: str | bytes, largest: int) -> dict[str, Any]:
    if len(text) > largest:
        raise GraphError("Read an intervention graph.", f"{len(text):,} bytes of JSON", f"at most {largest:,}")
    try:
        data = strict_json(text)
    except (ValueError, RecursionError) as error:
        raise GraphError("Read an intervention graph.", f"no JSON ({str(error)[:80]})", "what graph.save wrote") from error
    if not isinstance(data, dict):
        raise GraphError("Read an intervention graph.", f"a {type(data).__name__}", "an object")
    return data


def strict_json(text: str | bytes) -> Any:
    """JSON whose objects have each key once, and whose numbers are numbers. Raises ValueError, RecursionError."""
    return json.loads(text, object_pairs_hook=_once, parse_constant=_number)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise GraphError("Read JSON.", "a key that is there twice", "each key once")
    return found


def _number(name: str) -> Any:
    raise GraphError("Read JSON.", f"{name}, which is no number", '{"float": "nan"}, "inf" or "-inf"')


def _nodes(data: dict[str, Any], limits: Limits) -> tuple[Node, ...]:
    if data.get("version") != VERSION:
        raise GraphError(
            "Read an intervention graph.", f"version {str(data.get('version'))[:20]}", f"version {VERSION}, or a newer Cutaway"
        )
    listed = data.get("nodes")
    if not isinstance(listed, list) or len(listed) > limits.nodes:
        found = f"{len(listed):,} nodes" if isinstance(listed, list) else "no list of nodes"
        raise GraphError("Read an intervention graph.", found, f"a list of at most {limits.nodes:,} nodes")
    return tuple(node_from(node, number) for number, node in enumerate(listed))


def _storable(constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().clone() for name, tensor in constants.items()}
