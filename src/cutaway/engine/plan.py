"""What each intervention of a sweep touches, and so where its cone begins; what cannot be resumed is named, with the reason."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from cutaway.engine.place import Edit, Intervention, Place, parsed
from cutaway.engine.stack import Stack, owners
from cutaway.errors import EngineError, SlowSweepWarning

if TYPE_CHECKING:
    from cutaway.engine.model import Model

BEFORE = -1
"""The block of what runs before all blocks."""


@final
@dataclass
class Row:
    """One intervention: the block it joins before, the first token it touches, edits made on joining and edits made later.

    A row that joins `BEFORE` has its edits before the blocks made on joining.
    """

    index: int
    join: int
    start: int
    entering: list[tuple[Place, Edit]] = field(default_factory=list)
    inside: list[tuple[Place, Edit]] = field(default_factory=list)


@final
@dataclass
class Plan:
    """rows: interventions that are resumed. whole: indices of the others. before: the base run's own edits before the blocks."""

    rows: list[Row] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    before: list[tuple[Place, Edit]] = field(default_factory=list)


@final
@dataclass
class _Touch:
    """One edit: the block it acts in, or, if it acts on a block's output and so `between` blocks, the block it acts before."""

    block: int
    between: bool
    place: Place
    edit: Edit

    @property
    def first(self) -> int:
        """The first token it touches."""
        return 0 if self.place.positions is None else int(self.place.positions.min())


def planned(model: Model, inputs: tuple[Any, ...], edits: Sequence[Sequence[Intervention]], base: Sequence[Intervention]) -> Plan:
    """Plan a sweep. Gives a SlowSweepWarning for interventions that cannot be resumed, or not from the token they touch."""
    stack, every = model.stack, range(len(edits))
    if model.edits:  # they are written for the inputs' own shapes, and may look anywhere
        _warn(model, len(edits), Counter({"the model has edits of its own": len(edits)}))
        return Plan(whole=list(every))
    if stack is None:
        _warn(model, len(edits), Counter({"no blocks are known that run one after the other": len(edits)}))
        return Plan(whole=list(every))
    owner = owners(stack.blocks) | {id(module): BEFORE for module in stack.before}
    outside: Counter[str] = Counter()
    again, strange = _touched(model, inputs, stack, owner, base)
    if strange:
        _warn(model, len(edits), Counter({f"the base run is edited at {strange}, which does not lie in one of the blocks": len(edits)}))
        return Plan(whole=list(every))
    plan = Plan(before=[(touch.place, touch.edit) for touch in again if touch.block == BEFORE])
    again = [touch for touch in again if touch.block != BEFORE]
    for index in every:
        touched, strange = _touched(model, inputs, stack, owner, edits[index])
        if strange:
            plan.whole.append(index)
            outside[f"{strange} does not lie in one of the blocks"] += 1
            continue
        plan.rows.append(_row(index, stack, touched, again))
        outside["its tokens look ahead, so that all of them are run"] += (
            stack.causal is False and min((t.first for t in touched), default=0) > 0
        )
    _warn(model, len(edits), outside)
    return plan


def refuse_mixed_rows(model: Model) -> None:
    """Rows of a batch are compared with one another, so each has to be what it would be alone. Raises EngineError."""
    for path, part in model.module.named_modules():
        if isinstance(part, _BatchNorm) and (part.training or part.running_mean is None):
            found = f"{path or 'a module'} normalises over the rows of a batch"
        elif part.training and _drops(part):
            found = f"{path or 'a module'} drops values at random, because it is in training mode"
        else:
            continue
        works = "model.module.eval() first" if part.training else "one `run` for each intervention"
        raise EngineError(f"Sweep {model.name}.", found, works)


def _drops(part: nn.Module) -> bool:
    if isinstance(part, _DropoutNd):
        return part.p > 0
    # attention, recurrent modules and stochastic depth keep the rate themselves
    return any(isinstance(rate, float) and rate > 0 for name, rate in vars(part).items() if "drop" in name)


def _touched(
    model: Model, inputs: tuple[Any, ...], stack: Stack, owner: dict[int, int], edits: Sequence[Intervention]
) -> tuple[list[_Touch], str]:
    """What each edit touches; and the point of one that lies in none of the blocks, if there is one. owner: module id -> index of its block."""
    touched = []
    for address, edit in parsed(edits):
        place = model.place(address, inputs)
        module = place.site.module
        block = owner.get(id(module))
        if block is None:
            return [], place.address.point
        between = block != BEFORE and module is stack.blocks[block] and place.site.event == "output"
        touched.append(_Touch(block + between, between, place, edit))
    return touched, ""


def _row(index: int, stack: Stack, touched: Sequence[_Touch], base: Sequence[_Touch]) -> Row:
    """Where an intervention's cone begins."""
    join = min((touch.block for touch in touched), default=len(stack.blocks))
    # edits of the base run that lie in the cone: a resumed block has to make them anew
    again = [touch for touch in base if touch.block > join or (touch.block == join and not touch.between)]
    first = [touch.first for touch in (*again, *touched)]
    row = Row(index, join, min(first, default=0) if stack.causal else 0, inside=[(t.place, t.edit) for t in again])
    for touch in touched:
        joining = touch.block == join and (touch.between or join == BEFORE)
        (row.entering if joining else row.inside).append((touch.place, touch.edit))
    return row


def _warn(model: Model, total: int, reasons: Counter[str]) -> None:
    slow = reasons.total()
    if slow and total > 1:  # one alone has nobody to share with
        listed = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common() if count)
        said = f"{slow} of {total} interventions on {model.name} cost more than what lies after their edits: {listed}."
        warnings.warn(said, SlowSweepWarning, stacklevel=5)
