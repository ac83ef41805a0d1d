"""What enters a track: methods that declare the mediator or the measure it is about, and saved results; and a folder that keeps them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

from cutaway import registry
from cutaway.errors import InputError, StorageError
from cutaway.models.language import LanguageModel
from cutaway.results.base import Result, load
from cutaway.tasks.base import Task

_COSTS = ("seconds", "forwards", "versions")
"""Of a result's provenance: what may differ where it is the same result."""


def methods(section: str, declared: Iterable[str]) -> tuple[str, ...]:
    """Names of all methods whose documentation begins a section with one of some texts, those of other packages among them."""
    begins = tuple(declared)
    return tuple(name for name in registry.names("methods") if registry.declared("methods", name, section).startswith(begins))


@final
class Entry:
    """One row of a table: a method with options (`circuits.eap_ig:along=activations,seed=1`), or a result that is on disk (`theirs.json`)."""

    def __init__(self, spec: str) -> None:
        """Raises UnknownNameError, InputError."""
        self.spec = spec
        self._file = Path(spec) if spec.endswith(".json") else None
        if self._file is None:
            registry.called("methods", spec)  # found out now, not after hours of others' entries

    @property
    def file_name(self) -> str:
        """A name for its files."""
        return re.sub(r"[^A-Za-z0-9_.]+", "-", self._file.stem if self._file else self.spec)

    def run(self, lm: LanguageModel, task: Task, options: Mapping[str, Any]) -> Result:
        """The method's result, or the file's. options: the track's own, of which a method is given those that it has. Raises StorageError."""
        if self._file is not None:
            return load(self._file)
        method, chosen = registry.called("methods", self.spec, options)
        found: Result = method(lm, task, **chosen)
        return found


@final
class Folder:
    """Where results are kept, so that a run that was interrupted goes on; None keeps nothing."""

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else Path(path)

    def found_or(self, name: str, like: Mapping[str, Any], make: Callable[[], Result]) -> Result:
        """The result of that name. like: what the provenance of a stored one must say. Raises StorageError where it says otherwise."""
        if self._path is None:
            return make()
        path = self._path / f"{name}.json"
        if not path.exists():
            made = make()
            made.save(path)
            return made
        stored = load(path)
        said = asdict(stored.provenance)
        if differing := {key: said[key] for key, value in like.items() if said[key] != value}:
            found = ", ".join(f"{key}={value!r}" for key, value in differing.items())
            raise StorageError(f"Go on in {self._path}.", f"{path.name}, made with {found}", "another folder")
        return stored


def halves(task: Task) -> tuple[Task, Task]:
    """Different pairs of a task: one half to find things on, the other to judge by. Raises InputError for fewer than four."""
    pairs = list({(pair.base.text, pair.counterfactual.text): pair for pair in task.pairs}.values())
    if len(pairs) < 4:
        raise InputError(f"Find on one half of {task}, and judge by the other.", f"{len(pairs)} different pairs", "four or more")
    half = len(pairs) // 2
    return task.with_pairs(pairs[:half]), task.with_pairs(pairs[half:])
