from __future__ import annotations

import pytest

import cutaway as cut
from cutaway.errors import InputError
from cutaway.tasks.known_circuit import known_circuit
from cutaway.zoo.compiled.two_hop import two_hop


def test_pairs_are_answered_right_and_say_what_changed() -> None:
    lm = cut.open(two_hop())
    task = known_circuit(lm, n=12, seed=3)
    assert len(task) == 12 and str(task) == "known_circuit:n=12,seed=3"
    for pair in task.pairs:
        guesses = lm.next_logits([pair.base, pair.counterfactual]).argmax(-1).tolist()
        assert guesses == [lm.token_id(pair.answer), lm.token_id(pair.foil)] and pair.answer != pair.foil
        base, other = pair.base.text.split(), pair.counterfactual.text.split()
        (start, end), there = pair.base.spans["changed"], pair.counterfactual.spans["changed"]
        assert (start, end) == there and pair.base.text[:start] == pair.counterfactual.text[:start]
        assert pair.base.text[end:] == pair.counterfactual.text[end:]
        first = len(pair.base.text[:start].split())
        assert base[first] != other[first]


def test_pairs_differ_with_the_seed_alone() -> None:
    lm = cut.open(two_hop())
    assert known_circuit(lm, n=3, seed=1) == known_circuit(lm, n=3, seed=1)
    assert known_circuit(lm, n=3, seed=1).pairs != known_circuit(lm, n=3, seed=2).pairs


def test_a_model_without_a_known_circuit_is_refused() -> None:
    with pytest.raises(InputError, match=r"compiled\.reverse"):
        known_circuit(cut.open("induction_lm"))
    with pytest.raises(InputError, match="n=0"):
        known_circuit(cut.open(two_hop()), n=0)
