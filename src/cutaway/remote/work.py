"""What a user asks the service for: plain data that is stored, sent and hashed."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Literal, Self, final

from cutaway.engine.graph import Graph
from cutaway.engine.node import Limits
from cutaway.engine.wire import packed, unpacked
from cutaway.errors import InputError

MiB = 2**20
_NAME = 300
_TYPES = {"kind": str, "model": str, "graph": bytes, "inputs": bytes, "method": str, "arguments": Mapping, "seed": int, "revision": str}
_NEEDED = {"graph": ("model", "graph", "inputs"), "method": ("model", "method")}
_FOREIGN = {"graph": ("method", "task", "arguments"), "method": ("graph", "inputs")}


@final
@dataclass(frozen=True)
class Work:
    """One run of an intervention graph, or one call of a method, on a model of the service.

    kind "graph": `graph` is what `Graph.to_bytes` wrote; `inputs` is `wire.packed({"args": (...), "kwargs": {...}, "driver": None | {...}})`.
    kind "method": `method` is its name in the registry; `task` the text of a task, or pairs as plain data; `arguments` its options; `seed` its seed.
    model: its name. revision: of its weights, set by the server. Raises InputError for fields that do not belong together.
    """

    kind: Literal["graph", "method"]
    model: str
    graph: bytes = field(default=b"", repr=False)
    inputs: bytes = field(default=b"", repr=False)
    method: str = ""
    task: Any = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    revision: str = ""

    def __post_init__(self) -> None:
        for name, kind in _TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise InputError(f"Work with {name} of type {type(value).__name__}.", works=f"{name} of type {kind.__name__}")
        for name in ("model", "method", "revision"):
            if not getattr(self, name).isprintable() or len(getattr(self, name)) > _NAME:
                raise InputError(f"Work whose {name} is no name.", repr(getattr(self, name))[:60], f"at most {_NAME} printable characters")
        if self.kind not in _NEEDED:
            raise InputError("Work of another kind.", self.kind[:40], " or ".join(_NEEDED))
        missing = [name for name in _NEEDED[self.kind] if not getattr(self, name)]
        foreign = [name for name in _FOREIGN[self.kind] if getattr(self, name)]
        if missing or foreign:
            found = f"nothing in {', '.join(missing)}" if missing else f"{', '.join(foreign)}, which a {self.kind} does not have"
            raise InputError(
                f"Work of kind {self.kind}.", found, f"{', '.join(_NEEDED[self.kind])}, without {', '.join(_FOREIGN[self.kind])}"
            )
        _ = self._call

    @cached_property
    def body(self) -> str:
        """SHA-256 of what the user sent. The same body under the same idempotency key is the same job."""
        return _digest(self.kind, self.model, self._call, self.graph, self.inputs)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of what decides the result: the key under which a result is found again.

        Unlike `body` it holds the revision of the model and the versions that compute, and not the lines of the user's text. Raises GraphError.
        """
        graph = ""
        if self.kind == "graph":
            size = len(self.graph) + MiB  # whoever admits a work bounds it; a hash refuses nothing for its size
            graph = Graph.from_bytes(self.graph, dataclasses.replace(Limits(), text=size, constants=size, nodes=size, saved=size)).hash
        return _digest(self.kind, self.model, self.revision, self._call, graph, self.inputs, _versions())

    def to_bytes(self) -> bytes:
        """The work as one message of `engine.wire`."""
        return packed({f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    @classmethod
    def from_bytes(cls, blob: bytes, largest: int = 256 * MiB) -> Self:
        """Read what `to_bytes` wrote. Raises StreamError for other bytes or more than `largest`, InputError for other fields."""
        data = unpacked(blob, largest)
        known = {f.name for f in dataclasses.fields(cls)}
        if not {"kind", "model"} <= data.keys() <= known:
            raise InputError(
                "Read a work.", f"the fields {', '.join(sorted(data))}"[:200], f"kind, model, and of {', '.join(sorted(known))}"
            )
        return cls(**data)

    @cached_property
    def _call(self) -> str:
        try:
            return json.dumps([self.method, self.task, self.arguments, self.seed], sort_keys=True, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(
                "Work with a task and arguments.", str(error)[:200], "plain JSON: texts, finite numbers, lists, objects"
            ) from error


def _digest(*parts: str | bytes) -> str:
    """SHA-256 of parts, each behind its length, so that none runs into the next."""
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


@cache
def _versions() -> str:
    return json.dumps({name: importlib.metadata.version(name) for name in ("cutaway", "torch", "transformers")})
