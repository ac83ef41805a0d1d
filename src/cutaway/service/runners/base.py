"""What a runner is: where models are open and works are done. The server above it is the same for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, final

from cutaway.engine.node import Limits
from cutaway.engine.streaming import PARK
from cutaway.remote.work import Work
from cutaway.service.outcomes import Outcome

OnEvent = Callable[[str, str, Mapping[str, Any]], None]
"""Takes a job's id, the type of an event ("progress") and its data ({"label", "done", "total"}). May be called from any thread; must not raise."""


@final
@dataclass(frozen=True)
class Settings:
    """How a runner opens and runs.

    device, dtype: of the weights, as `cut.open` takes them. limits: of each graph and stream. seconds: that a turn (a job, or several packed into one
    forward) may take, and that one message of a stream may; None for no limit. streams: that may be open on a model. park: seconds without a message
    after which a stream's forward is let go. grace: seconds that work which has to end is given before its process is killed. memory: bytes
    of addresses a worker process may take beyond those it has with its model loaded (Linux, and not with CUDA, which takes them without use).
    """

    device: str = "cpu"
    dtype: str = "float32"
    limits: Limits = field(default_factory=Limits)
    seconds: float | None = None
    streams: int = 8
    park: float = PARK
    grace: float = 5.0
    memory: int | None = None


class Runner(Protocol):
    """Holds open models by name. Every method may be called from any thread.

    On one model, calls of `run` follow one another; models, and streams, go side by side.
    """

    def load(self, model: str) -> int:
        """Open a model, where it is not open; returns the bytes of its weights. Raises what `cut.open` does, or ServiceError in its place."""

    def unload(self, model: str) -> None:
        """Let go of a model, after what runs on it; its streams end. Nothing happens where it is not open."""

    def loaded(self) -> dict[str, int]:
        """The models that are open, and the bytes of their weights."""

    def run(self, works: Mapping[str, Work], on_event: OnEvent, rehearsed: bool = False) -> dict[str, Outcome]:
        """Do the works of some jobs (id -> work), all of one model; returns what came of each. Several graphs are packed into one forward.

        rehearsed: whether the graphs have passed `Execution.measure` on this model, with these limits; then they are not run on shapes again.

        An outcome is lost where the runner's process died: then the job may be tried again, best by itself. Raises ServiceError where the model is
        not open.
        """

    def cancel(self, job: str) -> None:
        """End a job: at its next operation or block, else with its process after a grace; its `run` returns then.

        Several that are packed end when all of them are cancelled. Nothing happens for a job that does not run.
        """

    def open_stream(self, model: str) -> str:
        """Begin a stream (`engine.streaming`) on a model; returns its id. Raises ServiceError where the model is not open, or has enough of them."""

    def send(self, stream: str, message: bytes) -> bytes:
        """One message of a stream, and its answer; an error is an answer too (`wire.packed({"error": class, "parts": [asked, found, works]})`)."""

    def close_stream(self, stream: str) -> None:
        """Let the forward of a stream go. Nothing happens where there is none of that id."""

    def close(self) -> None:
        """Let go of everything."""
