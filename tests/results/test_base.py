from __future__ import annotations

import dataclasses
import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutaway.errors import StorageError
from cutaway.results.base import Control, Interval, Provenance, Result, load, write_atomically
from cutaway.results.grid import Grid
from cutaway.results.report import Report, Section
from cutaway.results.scores import Scores
from cutaway.results.trajectory import Series, Trajectory

WHENCE = Provenance(
    "locate.test",
    "zoo",
    arguments={"layers": (0, 1), "nested": {"a/b": None, "yes": True}, "scale": 0.1 + 0.2},
    n=3,
    versions={"torch": "2"},
)
RIVAL = Control(
    "random", "As many at random.", "logits", Interval(1 / 3, -0.0, 5e-324, 7), Interval(float("nan"), float("-inf"), float("inf"), 7)
)
NUMBERS = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)


def grid() -> Grid:
    values = NUMBERS[None].astype(np.float64)
    values[0, 0, 0] = np.nan
    return Grid(
        title="“G” <b>\n",
        provenance=WHENCE,
        controls=(RIVAL,),
        row_axis="r",
        column_axis="c",
        rows=(" a", "\n"),
        columns=("0", "1", "\u2028"),
        panels=("p",),
        values=values,
        low=values - 1,
        high=values[:, :, ::-1],
        unit="u",
        cells=((("a", "b", "c"), ("d", "e", "\ud7ff")),),
    )


def scores() -> Scores:
    return Scores(
        title="S", provenance=WHENCE, rows=("a", "b"), columns=("x", "y", "z"), units=("", "u", "v"), values=NUMBERS, total=(None, 0.1, 2.0)
    )


def trajectory() -> Trajectory:
    x = np.arange(3)
    curve = Series(name="s", value=NUMBERS[0], low=NUMBERS[1], high=np.full(3, -0.0), control=True)
    return Trajectory(
        title="T", provenance=WHENCE, x_axis="x", y_axis="y", x=x, panels=("p",), series=((curve,),), levels={"l/1": 0.1}, log_x=True
    )


def report() -> Report:
    section = Section(name="one", title="One", finding="f", how="h", results=(grid(), scores(), trajectory()))
    settings = {"a": 1, "b": [1.5, None], "c": {"d": True}}
    return Report(title="R", provenance=WHENCE, tokens=("a", " b"), marked=(1,), brief=("x",), sections=(section,), settings=settings)


EVERY = pytest.mark.parametrize("result", [grid(), scores(), trajectory(), report()], ids=lambda result: result.kind)


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, NaN and the sign of zero included; a list may come back as a tuple."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, (list, tuple)):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and repr(a) == repr(b)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to let a file grow further, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@EVERY
def test_comes_back_as_it_was(result: Result, tmp_path: Path) -> None:
    path = result.save(tmp_path / "deep" / "stored")
    assert path == tmp_path / "deep" / "stored.json"
    assert sorted(p.name for p in path.parent.iterdir()) == ["stored.json", "stored.safetensors"]
    assert same(result, load(path)) and same(result, load(path.with_suffix("")))


@EVERY
def test_comes_back_from_bytes(result: Result) -> None:
    blob = result.to_bytes()
    assert same(result, Result.from_bytes(blob)) and blob == Result.from_bytes(blob).to_bytes()


@pytest.mark.parametrize(
    "change", [lambda b: b"", lambda b: b[:-1], lambda b: b[:40], lambda b: b.replace(b"Grid", b"Gird"), lambda b: b"x" + b]
)
def test_bytes_that_hold_no_result_are_refused(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(StorageError):
        Result.from_bytes(change(grid().to_bytes()))


@EVERY
def test_stored_form_is_json_that_any_reader_takes(result: Result, tmp_path: Path) -> None:
    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is no JSON")

    document = json.loads(result.save(tmp_path / "x").read_text("utf-8"), parse_constant=refuse)
    assert document["cutaway"] == 1 and document["kind"] == result.kind


@pytest.mark.slow
@EVERY
def test_draws_itself(result: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(result) == result.text()
    assert result._repr_html_() == result.html()
    result.show()
    assert capsys.readouterr().out.rstrip("\n") == result.text()
    picture = result.save_png(tmp_path / "new" / "x.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_numbers_of_numpy_become_plain(tmp_path: Path) -> None:
    changed = scores().with_(total=(np.float64(0.5), np.float32("nan"), None))
    back = load(changed.save(tmp_path / "x"))
    assert isinstance(back, Scores) and repr(back.total) == "(0.5, nan, None)"


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot hold a object"):
        scores().with_(title=object()).save(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return grid().save(tmp_path / "stored")


def broken(path: Path, old: str, new: str) -> Path:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ('"cutaway": 1', '"cutaway": 2', "another format"),
        ('"cutaway": 1', '"other": 1', "another format"),
        ('"kind"', "kind", "property name"),
        ('"result"', '"outcome"', "KeyError"),
        ('"type": "Grid"', '"type": "Hologram"', "a type this version does not know"),
        ('"row_axis"', '"rows_axis"', "TypeError"),
        ('"array": "/values"', '"array": "/nothing"', "KeyError"),
        ('"array": "/values"', '"array": ["/values"]', "TypeError"),
        ('" a",', "", "InputError"),
        ('"type": "Grid"', '"type": "Series"', "TypeError"),
    ],
)
def test_an_edited_file_is_refused(stored: Path, old: str, new: str, found: str) -> None:
    with pytest.raises(StorageError) as error:
        load(broken(stored, old, new))
    assert found in error.value.found


def test_what_is_no_result_is_refused(tmp_path: Path, stored: Path) -> None:
    for text in ("", "[]", "1", '{"cutaway": 1, "kind": "grid", "result": 3}', '{"cutaway": 1, "kind": "grid", "result": {"map": {}}}'):
        stored.write_text(text, "utf-8")
        with pytest.raises(StorageError):
            load(stored)
    stored.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StorageError):
        load(stored)


def test_missing_files_are_named(tmp_path: Path, stored: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere\.json"):
        load(tmp_path / "nowhere")
    arrays = stored.with_suffix(".safetensors")
    arrays.unlink()
    with pytest.raises(StorageError, match=r"stored\.safetensors"):
        load(stored)


def test_damaged_arrays_are_refused(stored: Path) -> None:
    arrays = stored.with_suffix(".safetensors")
    whole = arrays.read_bytes()
    for part in (b"", whole[:4], whole[:-8], b"\xff" * 64):
        arrays.write_bytes(part)
        with pytest.raises(StorageError):
            load(stored)


def test_arrays_of_another_result_are_refused(tmp_path: Path, stored: Path) -> None:
    other = scores().save(tmp_path / "other")
    shutil.copy(other.with_suffix(".safetensors"), stored.with_suffix(".safetensors"))
    with pytest.raises(StorageError, match="of the same"):
        load(stored)


@pytest.mark.parametrize("size", [0, 700], ids=["no room for the arrays", "no room for the JSON"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, size: int) -> None:
    path = grid().save(tmp_path / "x")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with files_of_at_most(size), pytest.raises(StorageError, match=r"Write .*x\.(json|safetensors)"):
        grid().save(path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="writable"):
        grid().save(tmp_path / "file" / "x")


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "x.txt", interrupted)
    assert list(tmp_path.iterdir()) == []


def test_interval_in_words() -> None:
    assert str(Interval(0.12345, -0.1, 0.3, 20)) == "0.123 [-0.1, 0.3], n=20"
