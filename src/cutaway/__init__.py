"""Cutaway: see inside a neural network while it runs, find which parts cause a behaviour, change them, prove the change.

import cutaway as cut

    lm = cut.open("smollm2-135m")
    with lm.trace("The Eiffel Tower is in the city of") as run:
        h = lm.layers[12].output
    cut.locate.causal_trace(lm, task="facts").show()

Names are imported on first use, so that `import cutaway` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cutaway import registry

if TYPE_CHECKING:
    from cutaway.address import Address as Address
    from cutaway.engine.graph import Graph as Graph
    from cutaway.errors import CutawayError as CutawayError
    from cutaway.models.opening import open as open
    from cutaway.models.prompt import Prompt as Prompt
    from cutaway.remote.client import connect as connect
    from cutaway.results.base import load as load
    from cutaway.studies.explain import explain as explain
    from cutaway.tasks.base import Pair as Pair
    from cutaway.tasks.base import Task as Task

__version__ = "0.1.0"

_HOMES = {
    "Address": "address",
    "CutawayError": "errors",
    "Graph": "engine.graph",
    "Pair": "tasks.base",
    "Prompt": "models.prompt",
    "Task": "tasks.base",
    "connect": "remote.client",
    "explain": "studies.explain",
    "load": "results.base",
    "open": "models.opening",
}
__all__ = [*sorted(_HOMES), *registry.families(), *registry.families("benchmarks")]  # noqa: PLE0604  # families come from the folder


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"cutaway.{_HOMES[name]}"), name)
    if name in registry.families():
        return registry.Namespace("methods", name)
    if name in registry.families("benchmarks"):
        return registry.Namespace("benchmarks", name)
    raise AttributeError(f"module 'cutaway' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
