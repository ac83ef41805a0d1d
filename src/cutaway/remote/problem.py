"""An error as data that travels: the fields of problem+json (RFC 9457), and the error that they stand for."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from cutaway.errors import BusyError, CutawayError, InputError, ServiceError, StorageError

_KINDS: Mapping[str, type[CutawayError]] = {"too-many": BusyError, "draining": BusyError, "too-large": InputError, "storage": StorageError}
"""Types that are no page of an error's own. Any other, such as "internal", is an error of the service."""
_LONGEST = 2_000


def problem(error: CutawayError, line: str = "") -> dict[str, Any]:
    """Fields of problem+json. `type` is the name of its page in `docs/errors`; `line` stands in the user's text."""
    parts = {"asked": error.asked, "found": error.found, "works": error.works, "line": line}
    title = (inspect.getdoc(type(error)) or "").partition("\n")[0]
    return {"type": error.page, "title": title, "detail": " ".join(filter(None, (error.asked, error.found))), **parts}


def raised(fields: Mapping[str, Any], retry_after: float = 1.0) -> CutawayError:
    """The error that a problem stands for, to be raised: of the class of its `type`, with its three parts and the line in the user's text.

    A server may send anything: what is no text is left out, and a text is shown without control characters.
    """
    kind = next((cls for cls in _classes(CutawayError) if cls.page == fields.get("type")), None) or _KINDS.get(
        str(fields.get("type")), ServiceError
    )
    asked, found, works, line, number = (_text(fields.get(name)) for name in ("asked", "found", "works", "line", "id"))
    asked = asked or _text(fields.get("title")) or "Use the service."
    error = kind.__new__(kind)  # some have arguments of their own, which do not travel
    CutawayError.__init__(error, asked, found or ("" if works else _text(fields.get("detail"))), works)
    if line and line not in asked:
        error.add_note(f"  at {line}")
    if number and number not in works:
        error.add_note(f"  the server's log has it under {number}")
    if isinstance(error, BusyError):
        error.retry_after = retry_after
    return error


def _classes(base: type[CutawayError]) -> Iterator[type[CutawayError]]:
    """A class, and all below it."""
    yield base
    for cls in base.__subclasses__():
        yield from _classes(cls)


def _text(value: Any) -> str:
    """A text from elsewhere, which is going to be shown on a terminal."""
    text = value[:_LONGEST] if isinstance(value, str) else ""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)
