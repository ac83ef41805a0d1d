"""`cutaway bench`: tracks from the registry, their tables, and the leaderboard made of these."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Cutaway = Callable[..., Any]
BASIC = ("bench", "mib", "circuits", "--model", "compiled.reverse", "--task", "known_circuit:n=8", "--methods", "circuits.eap")


def test_a_track_prints_its_table_and_the_leaderboard_takes_it(cutaway: Cutaway, tmp_path: Path) -> None:
    ran = cutaway(*BASIC, "--to", str(tmp_path / "kept"), "--out", str(tmp_path / "table.json"))
    assert ran.status == 0 and "MIB circuit track" in ran.out and "AUROC" in ran.out
    assert (tmp_path / "kept" / "circuits.eap.scores.json").exists()
    board = cutaway("bench", "mib", "leaderboard", str(tmp_path / "table.json"), "--column", "AUROC")
    assert board.status == 0 and "AUROC of known_circuit on" in board.out


def test_tracks_are_listed_with_what_they_answer(cutaway: Cutaway) -> None:
    ran = cutaway("bench", "mib", "--help")
    assert all(word in ran.out for word in ("circuits", "variables", "leaderboard", "Which method finds the connections"))


def test_a_choice_that_is_none_is_explained(cutaway: Cutaway) -> None:
    ran = cutaway(*BASIC, "--ablation", "meen")
    assert ran.status == 2 and "counterfactual" in ran.out + ran.err
