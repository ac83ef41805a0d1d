"""The interchange in a basis is the same in every way of running a model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import cutaway as cut
from cutaway.mediators.featurizers.base import Featurizer
from cutaway.mediators.featurizers.neurons import Neurons
from cutaway.mediators.featurizers.rotation import rotation
from cutaway.mediators.interchange import interchange
from cutaway.models.language import LanguageModel

TEXT, OTHER = "cat river stone cat", "cat stone river cat"
AT = "layers[0].output[pos=-1]"
BASES = [rotation(64, 16), Neurons(size=64, which=torch.arange(0, 64, 3))]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return cut.open("induction_lm")


@pytest.fixture(scope="module")
def source(lm: LanguageModel) -> Tensor:
    return lm.run(OTHER, read=[AT])[AT]


def by_hand(lm: LanguageModel, basis: Featurizer, source: Tensor) -> Tensor:
    """Next logits, with the features written out."""
    here = lm.run(TEXT, read=[AT])[AT]
    if isinstance(basis, Neurons):
        here[:, basis.which] = source[:, basis.which]
    else:
        project = basis.encode(torch.eye(64)) @ basis.encode(torch.eye(64)).T
        here = here + (source - here) @ project
    return lm.last(lm.run(TEXT, edits=[(AT, lambda _: here)]).output)


def test_without_a_basis_it_is_a_swap(source: Tensor) -> None:
    assert torch.equal(interchange(source)(torch.zeros_like(source)), source)


@pytest.mark.parametrize("basis", BASES, ids=["rotation", "neurons"])
def test_in_run_sweep_trace_and_edit(lm: LanguageModel, source: Tensor, basis: Featurizer) -> None:
    wanted, edit = by_hand(lm, basis, source), interchange(source, basis)
    assert (wanted - lm.next_logits(TEXT)).abs().max() > 0.1
    found = [lm.last(lm.run(TEXT, edits=[(AT, edit)]).output), lm.sweep(TEXT, edits=[[(AT, edit)]], metric=lambda out: out)[0]]
    with lm.trace(TEXT) as run:
        lm.layers[0].output[:, -1] = edit(lm.layers[0].output[:, -1])
        found.append(run.save(logits=lm.logits[:, -1]) or lm.logits[:, -1])
    with lm.edit(TEXT) as edited:
        lm.layers[0].output[:, -1] = edit(lm.layers[0].output[:, -1])
    found.append(edited.next_logits(TEXT))
    for logits in found:
        torch.testing.assert_close(logits.detach(), wanted, rtol=0, atol=1e-4)


def test_at_every_step_of_a_generation(lm: LanguageModel, source: Tensor) -> None:
    """With all features of one state at each step, each next token is that state's own."""
    basis = rotation(64, 64)
    at = f"layers[{lm.sizes.n_layers - 1}].output"
    last = lm.run(OTHER, read=[f"{at}[pos=-1]"])[f"{at}[pos=-1]"]
    with lm.edit(TEXT) as edited:
        lm.layers[lm.sizes.n_layers - 1].output[:, -1] = interchange(last, basis)(lm.layers[lm.sizes.n_layers - 1].output[:, -1])
    with edited.generate(TEXT, new_tokens=3) as run:
        pass
    wanted = int(lm.next_logits(OTHER).argmax())
    assert run.output[0, -3:].tolist() == [wanted] * 3
