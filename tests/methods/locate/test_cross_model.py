"""A donor that differs in one head, and one that was trained further."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cutaway as cut
from cutaway.errors import InputError, PromptError
from cutaway.mediators.swap import swap
from cutaway.methods.base import examples
from cutaway.methods.locate.cross_model import between
from cutaway.models.language import LanguageModel
from cutaway.results.scores import Scores
from cutaway.tasks.base import Task, find_task
from cutaway.zoo import planted_circuit

Known = tuple[LanguageModel, Task]
EARLY, LATE = "layers[0].attn.z[head=1]", "layers[2].attn.z[head=2]"


def _without(head: str) -> LanguageModel:
    """The planted model with one head's values taken out."""
    model = planted_circuit.planted_circuit()
    layer, number = int(head[7]), int(head[-2])
    with torch.no_grad():
        model.blocks[layer].attn.v_proj.weight.unflatten(0, (4, -1))[number] = 0
    return cut.open(model)


def _moved(scores: Scores) -> set[str]:
    return {row for row, value in zip(scores.rows, scores.values[:, 0], strict=True) if abs(value) > 1e-4}


def test_it_is_exactly_the_head_in_which_two_models_differ(planted: Known) -> None:
    whole, task = planted
    scores = between(_without(LATE), whole, task, k=1)
    assert _moved(scores) == {LATE}
    assert scores.numbers["accuracy of the donor"] == 1 and scores.numbers["accuracy"] < 0.5
    assert scores.numbers["share closed by the best 1"] == 1
    (control,) = scores.controls
    assert control.trivial.value == 0 < control.found.low


def test_a_late_head_brings_along_what_an_earlier_one_found(planted: Known) -> None:
    """What is stated under `Does not show`: the donor's late head closes the gap although it is the early one that differs."""
    assert _moved(between(_without(EARLY), planted[0], planted[1], k=1)) == {EARLY, LATE}


def test_a_ranking_is_taken_as_it_is_and_heads_are_added_in_its_order(planted: Known) -> None:
    whole, task = planted
    scores = between(_without(LATE), whole, task, ranking=("layers[1].attn.z[head=0]", LATE), k=2)
    together = dict(zip(scores.rows, scores.values[:, 2], strict=True))
    gap = scores.numbers["accuracy of the donor"] - scores.numbers["accuracy"]
    assert together["layers[1].attn.z[head=0]"] == 0
    assert together[LATE] == pytest.approx(gap) == pytest.approx(together["layers[0].attn.z[head=0]"])
    assert scores.controls[0].found.n == len(task)


def test_it_equals_one_forward_for_each_head() -> None:
    lm, donor = cut.open("entity_base_lm"), cut.open("entity_lm")
    task = find_task("entity_tracking:boxes=3,n=4,known=false", lm)
    scores = between(lm, donor, task, position="last", ranking=("layers[0].attn.z[head=0]",), draws=1)
    naive = np.zeros((len(scores.rows), len(task)))
    for n, example in enumerate(examples(lm, task, "logit_difference")):
        for row, name in enumerate(scores.rows):
            place = f"{name[:-1]}, pos=-1]"
            there = donor.run(example.base, read=[place])[place]
            output = lm.run(example.base, edits=[(place, swap(there))]).output
            naive[row, n] = float(example.score(lm.last(output))) - example.at_base
    assert np.abs(scores.values[:, 0] - naive.mean(1)).max() < 1e-4 < np.abs(naive).max()


def test_from_itself_nothing_changes() -> None:
    scores = cut.locate.cross_model(cut.open("induction_lm"), "induction:n=4,length=6")
    assert np.abs(scores.values).max() < 1e-4
    assert scores.provenance.arguments["donor"] == "induction_lm"


@pytest.mark.parametrize(
    ("donor", "options", "message"),
    [
        ("induction_lm", {}, "n_layers=2"),
        ("planted_circuit", {"k": 0}, "k=12"),
        ("planted_circuit", {"ranking": ("layers[1].mlp.output",)}, "no head"),
    ],
)
def test_what_cannot_be_compared_is_refused(planted: Known, donor: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cut.locate.cross_model(*planted, donor=donor, **options)


def test_another_vocabulary_and_a_single_pair_are_refused(planted: Known) -> None:
    from dataclasses import replace

    from cutaway.zoo.base import Transformer

    lm, task = planted
    config = planted_circuit.planted_circuit().config
    other = cut.open(Transformer(replace(config, vocab=(config.vocab[0], *config.vocab[:0:-1]))))
    with pytest.raises(InputError, match="other tokens"):
        between(lm, other, task)
    with pytest.raises(PromptError, match="two pairs"):
        between(lm, lm, task.with_pairs(task.pairs[:1]))


@pytest.mark.slow
@pytest.mark.parametrize("boxes", [5, 7])
def test_a_third_of_the_heads_closes_the_gap_of_the_entity_model(boxes: int) -> None:
    """After Prakash et al. 2024: a few heads of the fine-tuned model are enough. Random heads do less, and not nothing; see below."""
    lm = cut.open("entity_base_lm")
    scores = cut.locate.cross_model(lm, f"entity_tracking:boxes={boxes},n=120,known=false", donor="entity_lm", k=4)
    assert scores.numbers["share closed by the best 4"] > 0.9
    (control,) = scores.controls
    gap = scores.numbers["accuracy of the donor"] - scores.numbers["accuracy"]
    assert control.found.low > 0.5 * gap
    assert control.trivial.value < 0.5 * control.found.value
    # late heads that were not picked pass on what the donor's earlier ones found: random heads are not below a tenth of the gap
    assert scores.numbers["share closed by 4 random heads"] > 0.1
    alone = dict(zip(scores.rows, scores.values[:, 1] / gap, strict=True))
    assert np.mean([share for row, share in alone.items() if row.startswith("layers[0]")]) < 0.1
    assert scores.ranked()[0] == "layers[1].attn.z[head=1]" and alone[scores.ranked()[0]] > 0.5
