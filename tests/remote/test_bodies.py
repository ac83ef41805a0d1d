"""In which order sites occur, and bodies that ask for them in another."""

from __future__ import annotations

import pytest
import torch

from cutaway.errors import OutOfOrderError
from cutaway.mediators.scale import scale
from cutaway.models.language import LanguageModel
from cutaway.models.weightless import described, weightless
from cutaway.remote import bodies

TEXTS = ["red blue gold red blue", "red blue"]
POINTS = ("logits", "layers[1].attn.q", "embed", "layers[0].attn.pattern", "layers[1].attn.z", "layers[0].output", "layers[1].input")


@pytest.fixture(scope="module")
def thin() -> LanguageModel:
    made = weightless(described("induction_lm"))
    assert isinstance(made, LanguageModel)
    return made


def test_order_is_that_of_the_forward(thin: LanguageModel) -> None:
    found = bodies.Order(thin).of(bodies.sites(thin, POINTS), thin.prepare((TEXTS,)), {})
    names = {thin.site(point).key: point for point in POINTS}
    expected = ["embed", "layers[0].attn.pattern", "layers[0].output", "layers[1].input", "layers[1].attn.q", "layers[1].attn.z", "logits"]
    assert [names[key] for key in found] == expected


def test_order_is_found_once(thin: LanguageModel) -> None:
    order, prepared = bodies.Order(thin), thin.prepare((TEXTS,))
    calls: list[None] = []
    hook = thin.module.register_forward_pre_hook(lambda module, args: calls.append(None))
    for _ in range(3):
        order.of(bodies.sites(thin, POINTS[:2]), prepared, {})
        order.of(bodies.sites(thin, POINTS[:1]), prepared, {})
    hook.remove()
    assert len(calls) == 1


def test_a_body_replays_to_what_run_gives(thin: LanguageModel, here: LanguageModel) -> None:
    """The graph alone, without a server: edits and reads in any order, several at one point, on rows of different lengths."""
    edits = [
        ("layers[1].attn.q[pos=-1,head=2]", scale(3.0)),
        ("layers[0].output[pos=0]", scale(2.0)),
        ("layers[1].attn.q", scale(0.5)),
        ("layers[1].attn.q[pos=1]", lambda value: value + torch.ones(value.shape[-1])),
    ]
    prepared = thin.prepare((TEXTS,))
    order = bodies.Order(thin).of(bodies.sites(thin, [*(a for a, _ in edits), *POINTS]), prepared, {})
    with torch.no_grad(), thin.record(TEXTS) as trace:
        addresses = bodies.run(thin, trace, prepared, edits, POINTS, order)
    saved, local = here.replay(trace.graph, TEXTS).saved, here.run(TEXTS, edits=edits, read=POINTS)
    for number, address in enumerate(addresses):
        assert torch.equal(saved[f"read{number}"], local[address])


def test_points_that_the_forward_does_not_reach(thin: LanguageModel) -> None:
    prepared = thin.prepare((TEXTS,))
    with pytest.raises(OutOfOrderError, match="embed"), thin.record(TEXTS) as trace:
        bodies.run(thin, trace, prepared, [], ["embed", "logits"], (thin.site("logits").key,))
    with pytest.raises(OutOfOrderError, match="embed"), thin.record(TEXTS) as trace:
        bodies.run(thin, trace, prepared, [("embed", scale(2.0))], [], ())
