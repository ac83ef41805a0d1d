"""Which axes of a value follow the rows of a batch, and which its tokens.

The axes of a standard point are known. Those of any other value are found out by running the model on shapes, with one, two and three batches in
one: an axis that grows with the rows, or with the tokens, is one of them. A value in which rows are not the first axis, such as the tokens of an
expert, has no layout.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from cutaway.engine import fake
from cutaway.engine.place import IMAGE, POSITION_AXES
from cutaway.engine.site import Site, attached

if TYPE_CHECKING:
    from cutaway.engine.model import Model

Layout = tuple[tuple[int, ...], ...]
"""For each tensor of a value the axes that follow the tokens. Its first axis follows the rows."""
_Shapes = dict[str, list[tuple[int, ...]]]

_FOUND: weakref.WeakKeyDictionary[nn.Module, dict[tuple[str, bool], Layout | None]] = weakref.WeakKeyDictionary()


def layouts(model: Model, inputs: Sequence[tuple[Any, ...]], sites: Mapping[str, Site]) -> dict[str, Layout | None]:
    """The layouts of values at sites, by name; None for a value that has none. inputs: prepared ones of several runs."""
    widths = [width(one) for one in inputs]
    uneven = len(set(widths)) > 1
    found = _FOUND.setdefault(model.module, {})
    for name, site in sites.items():
        if site.dims[:1] == ("batch",) and site.dims != IMAGE:
            found[name, uneven] = (tuple(axis for axis, dim in enumerate(site.dims) if dim in (*POSITION_AXES, "key")),)
    unknown = {name: site for name, site in sites.items() if (name, uneven) not in found}
    if unknown:
        first, other = inputs[0], inputs[widths.index(next((w for w in widths if w != widths[0]), widths[0]))]
        probes = [[first], [first, first], [other, other, other]]
        seen = [_shapes(model, probe, unknown) for probe in probes]
        for name in unknown:
            found[name, uneven] = _layout([shapes.get(name) for shapes, _, _ in seen], [(rows, tokens) for _, rows, tokens in seen], uneven)
    return {name: found[name, uneven] for name in sites}


def width(inputs: tuple[Any, ...]) -> int:
    """Tokens of prepared inputs, padding included; 0 where they are no sequences."""
    found = next((getattr(x, "ids", x) for x in inputs), None)
    return int(found.shape[1]) if isinstance(found, Tensor) and found.ndim > 1 else 0


def _shapes(model: Model, probe: list[tuple[Any, ...]], sites: Mapping[str, Site]) -> tuple[_Shapes, int, int]:
    """Shapes at sites of a forward on shapes, its rows and its tokens. No shapes where the forward depends on values."""
    whole, rows = model.together(probe)
    within = fake.mode()
    args, kwargs = fake.faked(model.arguments(whole, {}), within)
    seen: _Shapes = {}

    def note(name: str, site: Site, raw: Any) -> None:
        seen.setdefault(name, [tuple(tensor.shape) for tensor in fake.tensors(site.view.read(raw))])

    try:
        with (
            fake.quiet(),
            fake.forward(model.module, within),
            attached([(site, partial(note, name, site)) for name, site in sites.items()]),
        ):
            model.module(*args, **kwargs)
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        seen = {}
    return seen, rows[-1].stop, width(whole)


def _layout(seen: list[list[tuple[int, ...]] | None], sizes: list[tuple[int, int]], uneven: bool) -> Layout | None:
    if any(shapes is None or len(shapes) != len(seen[0] or ()) for shapes in seen):
        return None
    layout = []
    for shapes in zip(*(shapes or () for shapes in seen), strict=True):
        if len({len(shape) for shape in shapes}) > 1 or not shapes[0]:
            return None
        axes = list(zip(*shapes, strict=True))
        rows, tokens = zip(*sizes, strict=True)
        if axes[0] != rows:
            return None
        along = tuple(i for i, axis in enumerate(axes) if uneven and i and axis == tokens)
        if any(len(set(axis)) > 1 for i, axis in enumerate(axes) if i and i not in along):
            return None
        layout.append(along)
    return tuple(layout)
