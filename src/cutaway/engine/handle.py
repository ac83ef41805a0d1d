"""What a dotted path on a model gives: `lm.layers[3].attn.z`.

A path that names a point reads it in the open trace; one that names a module gives the next handle; anything else is the module's own
attribute, such as a weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, final

from torch import Tensor, nn

from cutaway.engine.detour import own
from cutaway.engine.site import EVENTS, Site
from cutaway.engine.source import Source
from cutaway.errors import UnknownNameError

if TYPE_CHECKING:
    from cutaway.engine.model import Model


@final
class Handle:
    """A module inside a model, by path. Calling it calls the module, on any tensor, as a logit lens does."""

    __slots__ = ("_model", "_module", "_path")

    def __init__(self, model: Model, path: str, module: nn.Module) -> None:
        object.__setattr__(self, "_model", model)
        object.__setattr__(self, "_path", path)
        object.__setattr__(self, "_module", module)

    def __getattr__(self, name: str) -> Any:
        return step(self._model, self._path, self._module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        write(self._model, f"{self._path}.{name}", value)

    def __getitem__(self, index: int) -> Handle:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self._path}[{index}]: it has {len(self)} items")
        index %= len(self)
        return Handle(self._model, f"{self._path}[{index}]", self._module[index])

    def __len__(self) -> int:
        if not isinstance(self._module, (nn.ModuleList, nn.Sequential)):
            raise TypeError(f"{self._path} is a {type(self._module).__name__}, which has no items")
        return len(self._module)

    def __iter__(self) -> Iterator[Handle]:
        return (self[i] for i in range(len(self)))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        recorder = self._model.recorder
        return self._module(*args, **kwargs) if recorder is None else recorder.call(self._path, self._module, args, kwargs)

    def skip(self, value: Any) -> None:
        """Let the open trace's forward go on without running this module: `value` stands for what it returns."""
        self._model.opened(f"{self._path}.skip").skip(Site(self._path, self._module, self._model.native(self._path), "inputs"), value)

    @property
    def source(self) -> Source:
        """Every call inside this module's forward, by name: print it to see them. Raises EngineError for a module without source text."""
        return Source(self._model, self._path, own(self._module))

    def __dir__(self) -> list[str]:
        return sorted({"skip", "source", *self._model.below(self._path), *(name for name, _ in self._module.named_children()), *EVENTS})

    def __repr__(self) -> str:
        return f"<{self._path}: {self._module}>"


def step(model: Model, path: str, module: nn.Module, name: str) -> Any:
    """The value of `path.name`: a tensor for a point, a handle for a module, or the module's attribute."""
    if name.startswith("__"):
        raise AttributeError(name)
    full = f"{path}.{name}" if path else name
    site = model.find(full)
    if site is not None:
        return model.opened(full).read(site)
    child = model.module_at(full)
    if child is not None:
        return Handle(model, full, child)
    try:
        value = getattr(module, name)
        return value if model.recorder is None or not isinstance(value, Tensor) else model.recorder.parameter(value)
    except AttributeError:
        known = {*model.below(path), *(n for n, _ in module.named_children()), *EVENTS}
        raise AttributeError(str(UnknownNameError("part", full, ({f"{path}.{n}" if path else n for n in known} - {full})))) from None


def write(model: Model, full: str, value: Any) -> None:
    """Replace the value of a point in the open trace."""
    site = model.find(full)
    if site is None:
        raise AttributeError(f"{full} is not a point of this model; only points can be assigned, and only inside a trace")
    model.opened(full).write(site, value)
