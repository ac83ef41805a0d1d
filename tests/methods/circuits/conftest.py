"""Models written by hand in which one thing is hard to see, with the pair that shows it."""

from __future__ import annotations

import pytest
import torch

import cutaway as cut
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Pair, Task
from cutaway.zoo.base import Transformer, TransformerConfig

Known = tuple[LanguageModel, Task]
WORDS = ("<bos>", "yes", "no", "up", "down", "end")


def _blank(d_mlp: int) -> Transformer:
    config = TransformerConfig(WORDS, n_layers=1, n_heads=1, d_model=2, d_head=2, d_mlp=d_mlp, norm=False, positions="none")
    model = Transformer(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.embed.weight[WORDS.index("up"), 0] = 1.0
        model.embed.weight[WORDS.index("down"), 0] = -1.0
        model.unembed.weight[WORDS.index("yes"), 1] = 1.0
    return model


@pytest.fixture(scope="session")
def few_planted(planted: Known) -> Known:
    """The circuit written by hand, and three of its facts."""
    lm, task = planted
    return lm, task.with_pairs(task.pairs[:3])


@pytest.fixture(scope="session")
def saturated() -> Known:
    """A unit that is off in the base ("down") and on in the counterfactual ("up"): its gradient in the base is zero, its effect 1."""
    model = _blank(d_mlp=1)
    with torch.no_grad():
        mlp = model.blocks[0].mlp
        mlp.up.weight[0, 0] = 1.0
        mlp.down.weight[1, 0] = 1.0
    return cut.open(model.eval()), Task("saturated", (Pair(cut.Prompt("end down"), cut.Prompt("end up"), "no", "yes"),))


@pytest.fixture(scope="session")
def cancelling() -> Known:
    """A head that takes the mean of all tokens, of which two change places: the values' edge is worth +1 at one and -1 at the other."""
    model = _blank(d_mlp=0)
    with torch.no_grad():
        attn = model.blocks[0].attn
        attn.v_proj.weight[0, 0] = 2.0
        attn.o_proj.weight[1, 0] = 1.0
    base, other = (cut.Prompt.mark(f"{a} {b} end", first=a, second=b) for a, b in (("down", "up"), ("up", "down")))
    return cut.open(model.eval()), Task("cancelling", (Pair(base, other, "yes", "no"),))
