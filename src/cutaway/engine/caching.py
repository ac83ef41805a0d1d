"""Activations of many points over many inputs, in memory or on disk.

    found = model.cache(texts, ["layers[*].output[pos=-1]"], dtype="float16", to="activations")
    found[0]["layers[3].output[pos=-1]"]         # of the first batch
    found.stacked("layers[3].output[pos=-1]")    # of all

On disk a cache is a folder: `index.json`, and one safetensors file a batch, each written whole or not at all. Asked for again it goes on after the
last batch that is there; values are read from disk when they are asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cutaway.address import Address
from cutaway.errors import InputError, StorageError, UnknownNameError

if TYPE_CHECKING:
    from cutaway.engine.model import Model

_INDEX = "index.json"


@final
class Cached(Sequence[Mapping[str, Tensor]]):
    """One mapping a batch: address -> tensor."""

    def __init__(self, batches: Sequence[Mapping[str, Tensor]]) -> None:
        self._batches = batches

    def __getitem__(self, index: Any) -> Any:
        return self._batches[index]

    def __len__(self) -> int:
        return len(self._batches)

    def stacked(self, address: Address | str) -> Tensor:
        """The values at one address over all batches, one after the other along the first axis. Raises InputError where their other axes differ."""
        parts = [batch[str(Address.parse(address))] for batch in self._batches]
        if len({part.shape[1:] for part in parts}) > 1:
            shapes = ", ".join(sorted({str(tuple(part.shape)) for part in parts}))
            raise InputError(
                f"Stack {address}.", f"batches of shapes {shapes[:200]}", "an address with a position, or a cache of inputs of one length"
            )
        return torch.cat(parts)


@final
class _OnDisk(Mapping[str, Tensor]):
    """One batch in its file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, address: str) -> Tensor:
        try:
            with safe_open(self._path, "pt") as file:
                if address not in file.keys():
                    raise UnknownNameError("cached address", address, file.keys())
                tensor: Tensor = file.get_tensor(address)
                return tensor
        except (OSError, SafetensorError) as error:
            raise StorageError(f"Read {self._path}.", str(error), "a cache that model.cache wrote") from error

    def __iter__(self) -> Iterator[str]:
        with safe_open(self._path, "pt") as file:
            return iter(list(file.keys()))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def cache(
    model: Model,
    inputs: Sequence[Any],
    read: Sequence[Address | str],
    *,
    batch: int,
    device: str,
    dtype: str | None,
    to: str | os.PathLike[str] | None,
    progress: Callable[[float], None] | None,
) -> Cached:
    """See `Model.cache`."""
    if batch < 1 or not len(inputs):
        raise InputError(f"Cache {len(inputs)} inputs in batches of {batch}.", works="one input at least, in batches of one or more")
    kind = None if dtype is None else getattr(torch, dtype, None)
    if dtype is not None and not isinstance(kind, torch.dtype):
        raise InputError(f"dtype={dtype!r}.", works="float32, bfloat16, float16")
    addresses = expanded(model, read)
    folder = None if to is None else _folder(Path(to), model, inputs, addresses, batch, dtype)
    batches: list[Mapping[str, Tensor]] = []
    for first in range(0, len(inputs), batch):
        chosen = inputs[first : first + batch]
        path = None if folder is None else folder / f"{first // batch:06}.safetensors"
        if path is None or not path.is_file():
            readings = model.run(chosen, read=addresses)
            found = {str(a): readings[a].to(device=device, dtype=kind if readings[a].is_floating_point() else None) for a in addresses}
            batches.append(found if path is None else _written(path, found))
        else:
            batches.append(_OnDisk(path))
        if progress is not None:
            progress(len(chosen) / len(inputs))
    return Cached(batches)


def expanded(model: Model, read: Sequence[Address | str]) -> list[Address]:
    """Addresses, with `[*]` standing for every index there is. Raises UnknownNameError where there is none."""
    found: dict[Address, None] = {}
    for one in read:
        if isinstance(one, Address) or "[*]" not in one:
            found[Address.parse(one)] = None
            continue
        end = one.index("[", one.rindex("[*]") + 1) if "[" in one[one.rindex("[*]") + 1 :] else len(one)
        point, selectors = one[:end], one[end:]
        pattern = re.compile(re.escape(point).replace(re.escape("[*]"), r"\[\d+\]"))
        names = [name for name in model.points() if pattern.fullmatch(name)]
        if not names:
            raise UnknownNameError("point", point, model.points())
        found |= dict.fromkeys(Address.parse(f"{name}{selectors}") for name in names)
    if not found:
        raise InputError("Cache nothing.", "no addresses", "layers[*].output, or addresses one by one")
    return list(found)


def _folder(folder: Path, model: Model, inputs: Sequence[Any], addresses: Sequence[Address], batch: int, dtype: str | None) -> Path:
    """The cache's folder, with its index. Raises StorageError if it holds another cache."""
    digest = hashlib.sha256()
    for one in inputs:
        digest.update(one.numpy().tobytes() if isinstance(one, Tensor) else repr(one).encode())
    index = {
        "model": model.name,
        "addresses": [str(a) for a in addresses],
        "batch": batch,
        "dtype": dtype,
        "inputs": digest.hexdigest(),
        "edits": [graph.hash for graph in model.edits],
    }
    path = folder / _INDEX
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            if json.loads(path.read_text()) != index:
                raise StorageError(
                    f"Go on with the cache in {folder}.", "one of another model, inputs or addresses", "another folder, or none there"
                )
        else:
            temporary = path.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(index, indent=1))
            temporary.replace(path)
    except (OSError, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"Write {folder}.", str(error), "a folder that can be written to") from error
    return folder


def _written(path: Path, values: Mapping[str, Tensor]) -> _OnDisk:
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        save_file({name: tensor.contiguous() for name, tensor in values.items()}, temporary)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"Write {path}.", str(error), "room on the disk") from error
    finally:
        temporary.unlink(missing_ok=True)
    return _OnDisk(path)
