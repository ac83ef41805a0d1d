"""Bytes come back as they were put, or an error says that they do not."""

from __future__ import annotations

import hashlib
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cutaway.errors import InputError, StorageError
from cutaway.service.results import Results


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results", flush=False)


def files(results: Results) -> list[Path]:
    return [path for path in results.folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("content", [b"", b"abc", bytes(2**20)])
def test_bytes_come_back(results: Results, content: bytes) -> None:
    (name,) = results.put(content)
    assert name == hashlib.sha256(content).hexdigest()
    assert results.get(name) == results.path(name).read_bytes() == content
    assert results.size(name) == len(content)


def test_equal_bytes_lie_there_once(tmp_path: Path) -> None:
    results = Results(tmp_path, flush=True)
    assert results.put(b"abc") == results.put(b"abc")
    assert len(files(results)) == 1


def test_nobody_else_may_read(results: Results) -> None:
    assert stat.S_IMODE(results.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", [b"", b"abd", b"abcd"])
def test_damage_is_found_and_healed(results: Results, damage: bytes) -> None:
    (name,) = results.put(b"abc")
    results.path(name).write_bytes(damage)
    for read in (results.get, results.path):
        with pytest.raises(StorageError, match="other bytes"):
            read(name)
    assert results.put(b"abc") == [name]
    assert results.get(name) == b"abc"


def test_what_is_gone_is_said_to_be(results: Results) -> None:
    (name,) = results.put(b"abc")
    results.delete(name)
    results.delete(name)
    for read in (results.get, results.path, results.size):
        with pytest.raises(StorageError, match="run the work again"):
            read(name)


@pytest.mark.parametrize(
    "name", ["", "..", "../" * 10 + "etc/passwd", "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n", "0" * 63 + "/", "\0" * 64]
)
def test_a_name_is_a_hash(results: Results, name: str) -> None:
    for use in (results.get, results.path, results.size, results.delete):
        with pytest.raises(InputError):
            use(name)


def test_sweep_keeps_what_is_wanted_and_what_is_young(results: Results) -> None:
    wanted, old, young = results.put(b"wanted", b"old", b"young")
    half = results.path(old).with_name(".half.result")
    half.write_bytes(b"ol")
    for path in (results.path(wanted), results.path(old), half):
        os.utime(path, (1_000, 1_000))
    assert results.sweep({wanted}, before=2_000) == 2
    assert sorted(path.stem for path in files(results)) == sorted([wanted, young])
    assert results.put(b"wanted") == [wanted]
    assert results.sweep(set(), before=2_000) == 0, "what is put again is young again"


def test_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """The limit on the size of files stands for a disk without room; a process of its own, because the limit is for a whole process."""
    code = f"""
import resource
from cutaway.errors import StorageError
from cutaway.service.results import Results
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))
results = Results({str(tmp_path)!r})
(name,) = results.put(b"small")
try:
    results.put(b"first", bytes(2000))
except StorageError as error:
    print(error.works)
assert results.get(name) == b"small"
assert len([p for p in results.folder.rglob("*") if p.is_file()]) == 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert results.get(*results.put(bytes(2000))) == bytes(2000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "room" in done.stdout


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        Results(tmp_path / "file" / "results")
