"""`cutaway jobs`, `cutaway models --url` and `cutaway drain`, against a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import cutaway as cut

Cutaway = Callable[..., Any]


@pytest.fixture(scope="module")
def texts(serve: Any) -> Iterator[dict[str, str]]:
    """The address of a server, and the keys of a user and of an administrator."""
    with serve(keys=True) as (url, _, keys):
        yield {"url": url, "ada": keys.issue("ada").text, "root": keys.issue("root", ("run", "admin")).text}


@pytest.fixture
def at(texts: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Become a user of that server."""

    def become(user: str) -> None:
        monkeypatch.setenv("CUTAWAY_URL", texts["url"])
        monkeypatch.setenv("CUTAWAY_KEY", texts[user])

    return become


def test_a_job_listed_followed_and_fetched(cutaway: Cutaway, at: Callable[[str], None], texts: dict[str, str], tmp_path: Path) -> None:
    at("ada")
    lm = cut.connect(texts["url"], texts["ada"]).open("induction_lm")
    job = lm.submit("locate.direct_effect", "induction:n=2,length=6")
    shown = cutaway("jobs", "show", job.id)
    assert shown.status == 0 and shown.out.rstrip().endswith("done")
    assert json.loads(cutaway("jobs", "show", job.id, "--json").out)["state"] == "done"
    assert job.id in cutaway("jobs", "list").out
    (listed,) = json.loads(cutaway("jobs", "list", "--state", "done", "--json").out)
    assert listed["method"] == "locate.direct_effect"
    fetched = cutaway("jobs", "result", job.id, "--out", str(tmp_path / "r.json"))
    assert "Direct effects" in fetched.out and cut.load(tmp_path / "r.json").title == "Direct effects"
    with lm.trace("red blue gold") as run:
        run.save(state=lm.layers[0].output)
    assert run.job is not None
    out = cutaway("jobs", "result", run.job.id, "--out", str(tmp_path / "g.safetensors")).out
    assert "state" in out and load_file(tmp_path / "g.safetensors")["state"].equal(run.saved["state"])
    assert "done" in cutaway("jobs", "cancel", job.id).out


def test_who_may_what(cutaway: Cutaway, at: Callable[[str], None]) -> None:
    at("ada")
    assert "induction_lm" in cutaway("models").out
    for refused in (("drain",), ("jobs", "list", "--all"), ("models", "--close", "induction_lm")):
        ran = cutaway(*refused)
        assert ran.status == 1 and "ScopeError" in ran.err
    assert cutaway("jobs", "show", "0" * 32).status == 2
    at("root")
    assert "direct_effect" in cutaway("jobs", "list", "--all").out
    assert "closed" in cutaway("models", "--close", "induction_lm").out
    (told,) = json.loads(cutaway("models", "--open", "induction_lm", "--json").out)
    assert told["state"] in ("closed", "loading", "open")


def test_no_server_there(cutaway: Cutaway) -> None:
    ran = cutaway("models", "--open", "gpt2")
    assert ran.status == 2 and "--url" in ran.err
