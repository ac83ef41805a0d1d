"""The document of the API: the one that is committed is the one that is served, and the server keeps to it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from cutaway.service.api import app

DOCUMENT = Path(__file__).parents[2] / "docs/openapi.json"
PROBES = {"/livez", "/readyz"}
UNSAID = (positive_data_acceptance,)
"""Of bodies, of which no schema says what a model or a method takes."""
OPERATIONS = [(path, verb) for path, verbs in json.loads(DOCUMENT.read_text("utf-8"))["paths"].items() for verb in verbs]
CASES = [(*one, mode) for one in OPERATIONS for mode in GenerationMode if one[0] not in PROBES or mode is GenerationMode.POSITIVE]
"""With no parameters nothing can be wrong."""


def text() -> str:
    return json.dumps(app(None).openapi(), sort_keys=True, indent=1) + "\n"  # type: ignore[arg-type]  # of a server it says nothing


def test_the_document_is_the_one_that_is_served(door: Any) -> None:
    """`python tests/service/test_schemas.py` writes it anew."""
    assert DOCUMENT.read_text("utf-8") == text()
    assert door("GET", "/v1/openapi.json", "").json() == json.loads(text())


def test_errors_are_problems() -> None:
    for path, verbs in json.loads(text())["paths"].items():
        for verb, operation in verbs.items():
            for status, answer in operation["responses"].items():
                assert status < "400" or list(answer["content"]) == ["application/problem+json"], (path, verb, status)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "verb", "mode"), CASES)
def test_the_server_keeps_to_it(door: Any, path: str, verb: str, mode: GenerationMode) -> None:
    """Requests as the document allows them, and as it does not, also of what is there: the answers are as it says."""
    operation = schemathesis.openapi.from_asgi("/v1/openapi.json", door.http.app)[path][verb]
    job = door.method(seed=301, who="root").json()["id"]
    there = {"id": job} if path.startswith("/v1/jobs") else {"name": "induction_lm"} if path.startswith("/v1/models") else {}
    turns = itertools.cycle([{}, there])

    @settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def kept(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and case.path_parameters:
            case.path_parameters.update(next(turns))
        answer = case.call(headers={"Authorization": f"Bearer {door.texts['root']}"})
        door.server.dispatcher.draining = False
        door.watch(answer.content.decode("latin-1"))
        case.validate_response(answer, excluded_checks=UNSAID if verb == "post" and operation.body else ())

    kept()


if __name__ == "__main__":
    DOCUMENT.write_text(text(), "utf-8")
