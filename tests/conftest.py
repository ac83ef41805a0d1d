"""What all tests share: one thread a worker, and the real language model, opened once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cutaway.models.language import LanguageModel


@pytest.fixture(scope="session", autouse=True)
def _one_thread_a_worker() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        import torch

        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start, whose numbers are compared bit by bit


@pytest.fixture(scope="session")
def smollm() -> LanguageModel:
    """SmolLM2, 135 million parameters; tests that use it are slow."""
    import cutaway as cut

    return cut.open("smollm2-135m")
