"""Whole states against a naive loop and the trained model of hierarchical equality."""

from __future__ import annotations

import numpy as np

import cutaway as cut
from cutaway.mediators.swap import swap
from cutaway.methods.locate._alignment import examples
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task, find_task

EQUALITY = "hierarchical_equality:examples=false,n=60"


def test_it_equals_one_forward_for_each_interchange(induction: tuple[LanguageModel, Task]) -> None:
    lm, task = induction
    grid = cut.locate.interchange(lm, task, positions=("target.last", "-1"))
    for row, position in enumerate(("target.last", -1)):
        for layer in range(2):
            hits = []
            for one in examples(lm, task, None, 0).swapped:
                at = f"layers[{layer}].output[pos={position}]"
                out = lm.run(one.base, edits=[(at, swap(lm.run(one.source, read=[at])[at]))]).output
                hits.append(int(lm.last(out).argmax()) == one.answer)
            assert grid.values[0, row, layer] == np.mean(hits)
    assert grid.values[0].max() > 0.9


def test_an_equality_is_known_at_the_second_word_of_its_pair_and_the_answer_at_the_end() -> None:
    lm = cut.open("equality_lm")
    task = find_task(EQUALITY, lm)
    left = cut.locate.interchange(lm, task, variable="left")
    assert left.rows == ("w.last", "x.last", "y.last", "z.last", "last")
    assert left.values[0, 1, 0] == 1 and left.values[0, [0, 2, 3], 0].max() < 0.75
    answer = cut.locate.interchange(lm, task, variable="answer", positions=("last",))
    assert answer.values[0, 0].tolist()[-1] == 1
    for control in left.controls:
        assert control.found.value == 1 and control.trivial.value < 0.75
