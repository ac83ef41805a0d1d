from __future__ import annotations

import re
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cutaway.errors import StorageError
from cutaway.results.base import Result, load
from cutaway.results.report import Report
from cutaway.views.report import save_page

Draw = Callable[..., Any]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to let a file grow further, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_page_has_every_part(report: Report, parse: Draw) -> None:
    html = report.html()
    document = parse(html)
    assert html.startswith("<!doctype html>")
    assert not re.search(r"https?://|src=|<link", html)
    chips = [e for e in document.elements if "token" in e.attributes.get("class", "").split()]
    assert len(chips) == len(report.tokens)
    assert [e.text for e in document.all("mark")] == ["·E", "iff", "el", "·Tower"]
    text = document.all("body")[0].text
    for section in report.sections:
        assert section.finding in text and section.how in text
        for result in section.results:
            assert result.limits in text and result.title in text
    assert all(sentence in text for sentence in report.brief)
    assert report.limits in text and "mean ablation" in text and "2.13.0" in text
    figures = [e for e in document.all("figure")]
    assert len(figures) == sum(len(section.results) for section in report.sections)
    assert len(document.all("style")) == 1 and len(document.all("h1")) == 1


def test_links_of_the_contents_lead_somewhere(report: Report, parse: Draw) -> None:
    names = ("top", "settings", "tip", "findings")  # ids of the page's own do not collide with any name a section may have
    sections = tuple(replace(section, name=name) for section, name in zip(report.sections, names, strict=True))
    document = parse(replace(report, sections=sections).html())
    ids = [e.attributes["id"] for e in document.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    assert {e.attributes["href"][1:] for e in document.all("a") if e.attributes["href"].startswith("#")} <= set(ids)


def test_each_claim_stands_beside_its_control(report: Report, parse: Draw) -> None:
    document = parse(report.html())
    cards = document.all("div", "versus")
    controls = [control for section in report.sections for result in section.results for control in result.controls]
    assert len(cards) == len(controls) == 6
    for card, control in zip(cards, controls, strict=True):
        assert control.name in card.text and control.says in card.text
    verdicts = [e.text for e in document.all("span", "verdict")]
    assert sum("overlap" in verdict for verdict in verdicts) == 2


@pytest.mark.slow
def test_summary_for_a_terminal(report: Report, draw: Draw) -> None:
    text, _, _ = draw(report)
    flat = " ".join(text.split())
    assert "The⟦ Eiffel Tower⟧" in flat.replace("⟦E", "⟦ E") or "The ⟦Eiffel Tower⟧ is in the city of" in flat
    assert "2 Causal trace" in text and "random parts, kept" in flat
    assert all(sentence in flat for sentence in report.brief)


def test_an_empty_report(report: Report, draw: Draw, tmp_path: Path) -> None:
    bare = replace(report, sections=(), brief=(), tokens=(), marked=(), settings={})
    assert "<main" in bare.html() and bare.text()
    assert save_page(bare, tmp_path / "bare").exists()


def test_a_prompt_is_shown_not_run(report: Report, parse: Draw, hostile: str) -> None:
    section = replace(report.sections[0], title=hostile, finding=hostile, how=hostile)
    strange = replace(
        report, title=hostile, question=hostile, tokens=(hostile, "</mark></style>"), marked=(0,), brief=(hostile,) * 2, sections=(section,)
    )
    document = parse(replace(strange, settings={hostile: hostile}, limits=hostile).html())
    assert len(document.all("script")) == 1 and "alert" not in document.all("script")[0].text
    assert "alert" in document.all("h1")[0].text
    assert strange.text()


@pytest.mark.slow
def test_folder_holds_page_data_and_pictures(report: Report, parse: Draw, tmp_path: Path) -> None:
    page = save_page(report, tmp_path / "a" / "report")
    names = {path.name for path in page.parent.iterdir()}
    pictures = {"answer-0.png", "trace-0.png", "parts-0.png", "parts-1.png", "verification-0.png"}
    assert names == {"index.html", "report.json", "report.safetensors", *pictures}
    document = parse(page.read_text("utf-8"))
    links = {e.attributes["href"] for e in document.all("a") if not e.attributes["href"].startswith("#")}
    assert links == {"report.json", *pictures}
    again = load(page.with_name("report.json"))
    assert isinstance(again, Report) and again.html() == report.html() and again.text() == report.text()
    assert [path.name for path in page.parent.parent.iterdir()] == ["report"], "nothing is left beside it"


def test_a_new_report_replaces_the_old_one_whole(report: Report, tmp_path: Path) -> None:
    save_page(replace(report, sections=report.sections[3:]), tmp_path / "report")
    save_page(replace(report, title="Another", sections=report.sections[1:2]), tmp_path / "report")
    assert set(snapshot(tmp_path / "report")) == {"index.html", "report.json", "report.safetensors", "trace-0.png"}
    assert load(tmp_path / "report" / "report").title == "Another"


@pytest.mark.slow
@pytest.mark.parametrize("size", [10_000, 150_000], ids=["at a picture", "at the page"])
def test_a_full_disk_leaves_the_old_report(report: Report, tmp_path: Path, size: int) -> None:
    bare = replace(report, sections=())
    save_page(bare, tmp_path / "report")
    before = snapshot(tmp_path / "report")
    with files_of_at_most(size), pytest.raises(StorageError, match="Write the report"):
        save_page(replace(report, title="Another", sections=report.sections[2:3]), tmp_path / "report")
    assert snapshot(tmp_path / "report") == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_where_nothing_was(report: Report, tmp_path: Path) -> None:
    with files_of_at_most(10_000), pytest.raises(StorageError):
        save_page(report, tmp_path / "report")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_the_old_report(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_page(replace(report, sections=()), tmp_path / "report")
    before = snapshot(tmp_path / "report")
    draw_png = Result.save_png

    def interrupted(self: Result, path: Any) -> Path:
        if Path(path).name == "parts-0.png":
            signal.raise_signal(signal.SIGINT)
        return draw_png(self, path)

    monkeypatch.setattr(Result, "save_png", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_page(replace(report, sections=report.sections[1:3]), tmp_path / "report")
    assert snapshot(tmp_path / "report") == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_an_interrupt_while_moving_brings_the_old_report_back(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = replace(report, sections=())
    save_page(bare, tmp_path / "report")
    before = snapshot(tmp_path / "report")
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name == "new":
            signal.raise_signal(signal.SIGINT)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_page(bare, tmp_path / "report")
    assert snapshot(tmp_path / "report") == before


def test_a_folder_with_other_things_in_it_is_never_replaced(report: Report, tmp_path: Path) -> None:
    bare = replace(report, sections=())
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match="other files"):
        save_page(bare, mine)
    save_page(bare, tmp_path / "report")
    (tmp_path / "report" / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=re.escape("notes.txt")):
        save_page(bare, tmp_path / "report")
    assert (tmp_path / "report" / "notes.txt").read_text() == "mine"
    with pytest.raises(StorageError, match="a file of that name"):
        save_page(bare, mine / "thesis.tex")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert save_page(bare, empty).exists()


def test_a_folder_that_cannot_be_made(report: Report, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Write the report"):
        save_page(replace(report, sections=()), tmp_path / "file" / "report")
