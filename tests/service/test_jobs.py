"""The states of a job: every one can be reached, and every way ends."""

from __future__ import annotations

from cutaway.service.jobs import FINAL, LEASED, NEXT, State


def test_every_state_has_its_row_and_can_be_reached() -> None:
    assert set(NEXT) == set(State)
    reached, new = set(), {State.RECEIVED}
    while new:
        reached |= new
        new = {following for state in new for following in NEXT[state]} - reached
    assert reached == set(State)


def test_final_states_lead_nowhere_but_to_expiry() -> None:
    assert {state for state in State if NEXT[state] <= {State.EXPIRED}} == FINAL


def test_whoever_holds_a_lease_can_always_lose_it() -> None:
    assert all(State.QUEUED in NEXT[state] and State.CANCELLED in NEXT[state] for state in LEASED)
