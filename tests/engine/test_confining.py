"""In a confined block nothing is opened that is only named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import cutaway as cut
from cutaway.engine import confining
from cutaway.errors import InputError
from cutaway.mediators.featurizers.base import exists, load
from cutaway.mediators.featurizers.neurons import Neurons


def test_nothing_is_opened_by_its_name(tmp_path: Path) -> None:
    basis = Neurons(size=4, which=torch.arange(4))
    basis.save(tmp_path / "kept")
    for opens in (
        lambda: cut.open("induction_lm"),
        lambda: load(tmp_path / "kept"),
        lambda: exists(tmp_path / "kept"),
        lambda: basis.save(tmp_path / "n"),
    ):
        opens()
        with confining.confined(), pytest.raises(InputError, match="for others") as caught:
            opens()
        assert str(tmp_path) not in str(caught.value)


def test_it_ends_with_its_block() -> None:
    with pytest.raises(ZeroDivisionError), confining.confined():
        raise ZeroDivisionError
    confining.refuse_opening("a file")
