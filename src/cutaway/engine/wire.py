"""Values as bytes and back: JSON for what is plain, safetensors for tensors. Nothing else crosses."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cutaway.engine.graph import strict_json
from cutaway.engine.node import DTYPES
from cutaway.errors import StreamError

_KEY = "message"
_RETURNED: dict[str, type[tuple[Any, ...]]] = {
    name: kind for name, kind in vars(torch.return_types).items() if isinstance(kind, type) and issubclass(kind, tuple)
}
"""What operations such as torch.topk return, by name."""


def packed(message: Mapping[str, Any]) -> bytes:
    """A message of nested mappings with text keys, lists, tuples, tensors, bytes and plain values. Raises StreamError for anything else in it."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_plain(message, tensors))
    return save(tensors, metadata={_KEY: text})


def unpacked(blob: bytes, largest: int) -> dict[str, Any]:
    """What `packed` packed. Raises StreamError for anything else, or for more than `largest` bytes."""
    if len(blob) > largest:
        raise StreamError("Read a message.", f"{len(blob):,} bytes", f"at most {largest:,}")
    try:
        length = int.from_bytes(blob[:8], "little")
        text = strict_json(blob[8 : 8 + length])["__metadata__"][_KEY]
        found = _whole(strict_json(text), load(blob))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError, RuntimeError, OverflowError) as error:
        raise StreamError("Read a message.", f"bytes that hold none ({type(error).__name__})", "what the other side packed") from error
    if not isinstance(found, dict):
        raise StreamError("Read a message.", f"a {type(found).__name__}", "a mapping")
    return found


def _plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().resolve_conj().resolve_neg().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, bytes):
        return {"bytes": _plain(torch.frombuffer(bytearray(value or b"-"), dtype=torch.uint8)[: len(value)], tensors)["tensor"]}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if type(value).__name__ in _RETURNED and isinstance(value, _RETURNED[type(value).__name__]):
        return {"returned": [type(value).__name__, [_plain(v, tensors) for v in value]]}
    if isinstance(value, tuple):
        return {"tuple": [_plain(v, tensors) for v in value]}
    if isinstance(value, list):
        return [_plain(v, tensors) for v in value]
    if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
        return {"mapping": {k: _plain(v, tensors) for k, v in value.items()}}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    raise StreamError(f"Send a {type(value).__name__}.", "no tensor and no plain value", "tensors, numbers, texts, lists, mappings")


def _whole(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_whole(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "bytes":
        return tensors[content].numpy().tobytes()
    if kind == "tuple":
        return tuple(_whole(v, tensors) for v in content)
    if kind == "mapping":
        return {k: _whole(v, tensors) for k, v in content.items()}
    if kind == "returned":
        name, items = content
        return _RETURNED[name](tuple(_whole(v, tensors) for v in items))
    return DTYPES[content] if kind == "dtype" else {"float": float}[kind](content)
