"""Every exception Cutaway raises, and the warning it gives.

    CutawayError
    ├── InputError (ValueError)          an argument has a value that cannot be used
    │   ├── GraphError                   an intervention graph is malformed, too large, or holds what is not in the table
    │   ├── AddressError                 a text is not an address, or a selector does not fit its point
    │   └── PromptError                  a span, role, answer or length does not fit the prompt
    ├── UnknownNameError (LookupError)   no method, task, metric, model, view, point ... of that name
    ├── EngineError (RuntimeError)
    │   ├── TraceError                   a trace is used when it is not open, or opened twice
    │   ├── RecordError                  a body does what cannot be written down as an intervention graph
    │   ├── StreamError                  a body and the forward it drives elsewhere do not understand one another, or parted
    │   └── OutOfOrderError              a value is asked for that the forward has already passed, or never reaches
    ├── ModelError (RuntimeError)
    │   ├── WeightsError                 weights cannot be found, fetched or verified
    │   ├── LayoutError                  the model's parts are not where any known family has them
    │   └── ParityError                  the opened model does not compute what the unopened one does
    ├── ServiceError (RuntimeError)      the shared service cannot do what was asked of it
    │   ├── AccessError                  a key is unknown, wrong, revoked or too old
    │   │   └── ScopeError               a key is good, and not for this
    │   ├── ConflictError                an idempotency key was used for something else before
    │   └── BusyError                    the service takes no more of this just now; later it will
    ├── NumericError (ArithmeticError)   the model returned NaN or infinity where a number is needed
    └── StorageError (OSError)           a result cannot be written or read

    SlowSweepWarning (UserWarning)       a sweep is right, but could not share what sweeps share

A message has three parts: what was asked, what was found, what would work. Each error has a page in `docs/errors/`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CutawayError(Exception):
    """Root of the tree. `asked`, `found` and `works` are the three parts of the message."""

    page = "cutaway-error"

    def __init__(self, asked: str, found: str = "", works: str = "") -> None:
        self.asked, self.found, self.works = asked, found, works
        parts = [asked]
        if found:
            parts.append(f"Found: {found}")
        if works:
            parts.append(f"Would work: {works}")
        super().__init__("\n  ".join(parts) + f"\n  (docs/errors/{self.page}.md)")


class InputError(CutawayError, ValueError):
    """An argument has a value that cannot be used."""

    page = "input-error"


class GraphError(InputError):
    """An intervention graph is malformed, too large, or holds what is not in the table."""

    page = "graph-error"


class AddressError(InputError):
    """A text is not an address, or a selector does not fit its point."""

    page = "address-error"


class PromptError(InputError):
    """A span, role, answer or length does not fit the prompt."""

    page = "prompt-error"


class UnknownNameError(CutawayError, LookupError):
    """Nothing of that kind has that name; the closest names are in the message."""

    page = "unknown-name-error"

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name = kind, name
        known = sorted(known)
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        works = " or ".join(close) if close else ", ".join(known) or "nothing: none are installed"
        super().__init__(f"No {kind} is named {name!r}.", works=works)


class EngineError(CutawayError, RuntimeError):
    """A run of a model could not be driven as asked."""

    page = "engine-error"


class TraceError(EngineError):
    """A trace is used when it is not open, or opened twice."""

    page = "trace-error"


class RecordError(EngineError):
    """A body does what cannot be written down as an intervention graph."""

    page = "record-error"


class StreamError(EngineError):
    """A body and the forward it drives elsewhere do not understand one another, or parted."""

    page = "stream-error"


class OutOfOrderError(EngineError):
    """A value is asked for that the forward has already passed, or never reaches."""

    page = "out-of-order-error"


class ModelError(CutawayError, RuntimeError):
    """A model cannot be opened or used."""

    page = "model-error"


class WeightsError(ModelError):
    """Weights cannot be found, fetched or verified."""

    page = "weights-error"


class LayoutError(ModelError):
    """The model's parts are not where any known family has them."""

    page = "layout-error"


class ParityError(ModelError):
    """The opened model does not compute what the unopened one does."""

    page = "parity-error"


class ServiceError(CutawayError, RuntimeError):
    """The shared service cannot do what was asked of it."""

    page = "service-error"


class AccessError(ServiceError):
    """A key is unknown, wrong, revoked or too old."""

    page = "access-error"


class ScopeError(AccessError):
    """A key is good, and not for this."""

    page = "scope-error"


class ConflictError(ServiceError):
    """An idempotency key was used for something else before."""

    page = "conflict-error"


class BusyError(ServiceError):
    """The service takes no more of this just now; later it will.

    retry_after: in how many seconds to ask again.
    """

    page = "busy-error"

    def __init__(self, asked: str, found: str = "", works: str = "", retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__(asked, found, works)


class NumericError(CutawayError, ArithmeticError):
    """The model returned NaN or infinity where a number is needed."""

    page = "numeric-error"


class StorageError(CutawayError, OSError):
    """A result cannot be written or read."""

    page = "storage-error"


class SlowSweepWarning(UserWarning):
    """Some interventions of a sweep cost more than what lies after their edits. Their numbers are right; the message says how many, and why."""
