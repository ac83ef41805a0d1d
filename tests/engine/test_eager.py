"""The compiler's stance is held while anybody asks, and put back by the last, in whatever order they end."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch

from cutaway.engine import eager as eagers
from cutaway.engine.eager import eager


def stance() -> str:
    from torch._dynamo import eval_frame  # not at the top: it takes over a second to import, in every worker that collects this file

    return str(eval_frame._stance.stance)


def test_held_until_the_last_ends() -> None:
    assert stance() == "default"
    for order in itertools.permutations(range(3)):
        held = [eager() for _ in range(3)]
        for one in held:
            one.__enter__()
        for number, i in enumerate(order):
            assert stance() == "force_eager"
            held[i].__exit__(None, None, None)
            assert (stance() == "default") == (number == 2)
    assert not eagers._HOLDERS and not eagers._STANCES


def test_a_stance_of_the_user_comes_back() -> None:
    with torch.compiler.set_stance("eager_on_recompile"):
        with eager(), eager():
            assert stance() == "force_eager"
        assert stance() == "eager_on_recompile"


@pytest.mark.slow
def test_the_compiler_is_not_imported_for_it() -> None:
    code = "import sys\nfrom cutaway.engine.eager import eager\nwith eager(): assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
