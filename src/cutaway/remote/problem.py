"""An error as data that travels: the fields of problem+json (RFC 9457)."""

from __future__ import annotations

import inspect
from typing import Any

from cutaway.errors import CutawayError


def problem(error: CutawayError, line: str = "") -> dict[str, Any]:
    """Fields of problem+json. `type` is the name of its page in `docs/errors`; `line` stands in the user's text."""
    parts = {"asked": error.asked, "found": error.found, "works": error.works, "line": line}
    title = (inspect.getdoc(type(error)) or "").partition("\n")[0]
    return {"type": error.page, "title": title, "detail": " ".join(filter(None, (error.asked, error.found))), **parts}
