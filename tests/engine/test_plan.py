"""Where cones begin, what is said of interventions that have none, and models whose rows cannot be compared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor, nn

import cutaway as cut
from cutaway.engine.place import Intervention
from cutaway.engine.plan import BEFORE, planned
from cutaway.errors import EngineError, SlowSweepWarning
from cutaway.mediators.scale import scale
from cutaway.models.any_module import AnyModule

Open = Callable[[nn.Module], AnyModule]
N_LAYERS = 3


def at(*places: str) -> list[Intervention]:
    return [(place, scale(2.0)) for place in places]


@pytest.mark.parametrize(
    ("edits", "base", "join", "start", "entering", "inside"),
    [
        ([], [], N_LAYERS, 0, 0, 0),
        (["layers[1].output[pos=3]"], [], 2, 3, 1, 0),
        (["layers[1].input[pos=3]"], [], 1, 3, 0, 1),
        (["layers[2].attn.z[head=1, pos=-1]", "layers[0].output[pos=4]"], [], 1, 4, 1, 1),
        (["layers[2].output[pos=2]"], [], N_LAYERS, 2, 1, 0),
        (["embed[pos=2]"], [], BEFORE, 2, 1, 0),
        (["embed[pos=2]", "layers[0].output[pos=1]"], [], BEFORE, 1, 1, 1),
        (["layers[1].output[pos=3]"], ["layers[2].attn.z[pos=1]"], 2, 1, 1, 1),  # made anew, and so from its token on
        (["layers[1].output[pos=3]"], ["layers[1].output[pos=1]", "embed[pos=1]"], 2, 3, 1, 0),  # in the recorded state
        (["embed[pos=3]"], ["embed[pos=1]", "layers[2].attn.z[pos=2]"], BEFORE, 2, 1, 1),
    ],
)
def test_where_a_cone_begins(edits: list[str], base: list[str], join: int, start: int, entering: int, inside: int) -> None:
    lm = cut.open("planted_circuit")
    plan = planned(lm, lm.prepare(("this is alice whose colour is",)), [at(*edits)], at(*base))
    (row,) = plan.rows
    assert (row.join, row.start, len(row.entering), len(row.inside)) == (join, start, entering, inside)
    assert len(plan.before) == sum(place.startswith("embed") for place in base) and not plan.whole


def test_what_has_no_cone_runs_whole() -> None:
    lm = cut.open("planted_circuit")
    with pytest.warns(SlowSweepWarning, match=r"2 of 3 interventions on planted_circuit .*norm does not lie .*\(2\)\."):
        plan = planned(lm, lm.prepare(("this is alice",)), [at("norm"), at("embed"), at("layers[0].output", "norm")], [])
    assert plan.whole == [0, 2] and [row.index for row in plan.rows] == [1]


def test_a_sweep_says_what_it_could_not_share(model: AnyModule, chain: AnyModule, x: Tensor) -> None:
    with pytest.warns(SlowSweepWarning, match=r"2 of 2 interventions on branch.*no blocks") as found:
        model.sweep(x, edits=[[], []], metric=lambda out: out)
    assert found[0].filename == __file__, "it points at the caller's line"
    with pytest.warns(SlowSweepWarning, match=r"3 of 4 interventions on chain.*: input does [^;]*\(2\); output does [^;]*\(1\)\."):
        chain.sweep(x, edits=[at("input"), at("input", "[1].output"), at("[1].output"), at("output")], metric=lambda out: out)
    with pytest.warns(SlowSweepWarning, match=r"2 of 2 interventions.*base run is edited at output"):
        chain.sweep(x, edits=[[], []], base=at("output"), metric=lambda out: out)


def test_one_intervention_has_nothing_to_share(model: AnyModule, x: Tensor, recwarn: pytest.WarningsRecorder) -> None:
    model.sweep(x, edits=[at("first.output")], metric=lambda out: out)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("part", "found"),
    [
        (nn.Dropout(0.1), "drops values"),
        (nn.MultiheadAttention(8, 2, dropout=0.1), "drops values"),
        (nn.BatchNorm1d(8), "normalises over the rows"),
    ],
    ids=["dropout", "attention", "batch norm"],
)
def test_rows_that_training_mode_mixes_are_refused(opened: Open, x: Tensor, part: nn.Module, found: str) -> None:
    model = opened(nn.Sequential(nn.Linear(8, 8), part))
    model.module.train()
    with pytest.raises(EngineError, match=rf"1 {found}.*\n.*model\.module\.eval\(\)"):
        model.sweep(x, edits=[[]], metric=lambda out: out)
    model.module.eval()
    if not isinstance(part, nn.MultiheadAttention):
        assert model.sweep(x, edits=[at("[0].output")], metric=lambda out: out).isfinite().all()


def test_training_mode_that_changes_nothing_is_no_reason(opened: Open, x: Tensor) -> None:
    model = opened(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.0)))
    model.module.train()
    assert model.sweep(x, edits=[at("[0].output")], metric=lambda out: out).isfinite().all()


def test_a_batch_norm_without_running_statistics_is_refused_in_any_mode(opened: Open, x: Tensor) -> None:
    model = opened(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, track_running_stats=False)))
    with pytest.raises(EngineError, match="one `run` for each"):
        model.sweep(x, edits=[[]], metric=lambda out: out)
