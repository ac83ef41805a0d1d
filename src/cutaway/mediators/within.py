"""Do something to the features of a place, in a basis, and leave all that the basis does not see."""

from __future__ import annotations

from cutaway.engine.place import Edit
from cutaway.mediators.featurizers.base import Featurizer


def within(basis: Featurizer, edit: Edit) -> Edit:
    """Apply `edit` to the features: `within(basis, ablate())` takes them out, `within(basis, add(v))` steers along them."""
    return lambda value: basis.replaced(value, edit(basis.encode(value)))
