"""What was aimed at, and what came out."""

from __future__ import annotations

from collections.abc import Sequence

from cases import AGAIN, BARE, Row

SHORTER = "run, stops at last"  # does less than the others: no verdict on it
TOLERANCE = 1e-3
"""The most values may differ; states of a few hundred, in float32, differ by some 1e-4 between kinds of attention."""

GOALS = {"read": 1.02, "patch": 1.02, "generate": 1.08}
"""Times of the bare model, at most."""
SWEEP_LOOP, SWEEP_BATCH, PACKED = 8.0, 2.0, 4.0
"""Times faster: than the best peer's loop of one forward a patch, than hooks with one batch a layer, than one replay after the other."""
OURS, HOOKS, RIVAL = "Cutaway", "torch hooks", "NNsight"


def disagreeing(rows: Sequence[Row]) -> list[Row]:
    """Rows whose values are not those of the hooks."""
    return [row for row in rows if row.differs is not None and not row.differs < TOLERANCE]


def goals(rows: Sequence[Row]) -> list[str]:
    """For each model and case, the goal and whether it was met."""
    verdicts = []
    for subject in dict.fromkeys(row.subject for row in rows):
        here = {case: [row for row in rows if (row.subject, row.case) == (subject, case)] for case in dict.fromkeys(r.case for r in rows)}
        thin = subject.startswith("thin")
        if not thin:
            verdicts += [_against_bare(subject, row, here[case]) for case in GOALS for row in here.get(case, ()) if _judged(row)]
        verdicts += [_idle(subject, here["idle"]), *_sweep(subject, here.get("sweep", [])), *_packed(subject, here.get("packed", []))]
        if thin:
            verdicts += _overheads(here["read one"], here["read"])
    return verdicts


def per_value(one: Sequence[Row], several: Sequence[Row]) -> dict[tuple[str, str], tuple[float, float]]:
    """Seconds that a trace and a value cost, by peer and way: the line through one read and one read a block (12 of the thin model)."""
    first, last = ({(row.peer, row.way): row.timing.over for row in rows} for rows in (one, several))
    values = {key: (last[key] - first[key]) / 11 for key in first if key in last and key[0] not in (BARE, AGAIN) and key[1] != SHORTER}
    return {key: (first[key] - value, value) for key, value in values.items()}


def _judged(row: Row) -> bool:
    return row.peer == OURS and row.way != SHORTER


def _met(met: bool) -> str:
    return "met" if met else "NOT met"


def _against_bare(subject: str, own: Row, here: Sequence[Row]) -> str:
    others = [row for row in here if row.peer not in (OURS, HOOKS, BARE, AGAIN)]
    goal, ratio = GOALS[own.case], own.timing.ratio
    way = f" by {own.way}" if own.way else ""
    return f"{subject}, {own.case}{way}: {ratio:.3f} x the bare model; goal {goal}: {_met(ratio <= goal)}; {_place(own, others)}"


def _place(own: Row, others: Sequence[Row]) -> str:
    """Where a row stands among others; level with those that lie within the spread of either."""
    places: dict[str, list[str]] = {"ahead of": [], "level with": [], "behind": []}
    for row in others:
        gap = row.timing.ratio - own.timing.ratio
        noise = max(row.timing.spread, own.timing.spread)
        places["level with" if abs(gap) <= noise else "ahead of" if gap > 0 else "behind"].append(row.peer)
    return ", ".join(f"{word} {' and '.join(names)}" for word, names in places.items() if names) or "no peer installed"


def _idle(subject: str, here: Sequence[Row]) -> str:
    own, again = (next(row.timing for row in here if row.peer == peer) for peer in (OURS, AGAIN))
    met = abs(own.ratio - 1) <= max(own.spread, again.spread)
    return (
        f"{subject}, idle: {own.ratio:.3f} x the bare model, which a second time is {again.ratio:.3f}; goal none within noise: {_met(met)}"
    )


def _sweep(subject: str, here: Sequence[Row]) -> list[str]:
    own = next((row.timing.cpu for row in here if row.peer == OURS), None)
    loops = [row for row in here if row.way.startswith("one forward a patch") and row.peer != HOOKS]
    batched = next((row for row in here if row.peer == HOOKS and row.way == "one batch a layer"), None)
    compared = ([(min(loops, key=lambda row: row.timing.cpu), SWEEP_LOOP)] if loops else []) + ([(batched, SWEEP_BATCH)] if batched else [])
    return [
        f"{subject}, sweep: {row.timing.cpu / own:.1f} x faster than {row.peer} ({row.way}); goal {goal}: {_met(row.timing.cpu / own >= goal)}"
        for row, goal in compared
        if own is not None
    ]


def _packed(subject: str, here: Sequence[Row]) -> list[str]:
    times = {row.way: row.timing.cpu for row in here if row.peer == OURS}
    if not times:
        return []
    gain = times["replay, one at a time"] / times["replay_together"]
    return [f"{subject}, packed: {gain:.1f} x the throughput of one replay after the other; goal {PACKED}: {_met(gain >= PACKED)}"]


def _overheads(one: Sequence[Row], several: Sequence[Row]) -> list[str]:
    found = per_value(one, several)
    rival = next((costs for (peer, _), costs in found.items() if peer == RIVAL), None)
    if rival is None:
        return []
    return [
        f"overhead of {OURS} by {way}, {what}: {own * 1e6:.0f} us, {RIVAL} {theirs * 1e6:.0f} us; goal less: {_met(own < theirs)}"
        for (peer, way), costs in found.items()
        if peer == OURS and way != SHORTER
        for what, own, theirs in zip(("a trace", "a value"), costs, rival, strict=True)
    ]
