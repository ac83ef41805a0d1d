"""Give a place the features that it has in another run: the interchange intervention.

Geiger, Lu, Icard, Potts 2021, arXiv 2106.02997; in a basis: Geiger, Wu, Potts, Icard, Goodman 2024, arXiv 2303.02536.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from cutaway.engine.place import Edit
from cutaway.mediators.featurizers.base import Featurizer
from cutaway.mediators.swap import swap
from cutaway.mediators.within import within


def interchange(source: Float[Tensor, "..."], basis: Featurizer | None = None) -> Edit:
    """Take the features of `source`, which has the shape of the place or broadcasts to it, and keep the rest; without a basis take all of it."""
    return swap(source) if basis is None else within(basis, swap(basis.encode(source)))
