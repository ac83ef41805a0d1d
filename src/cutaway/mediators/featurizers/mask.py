"""Which features of a basis are interchanged: a gate for each, learned, that ends at 1 (the base's feature is kept) or 0 (the source's is taken).

Differential binary masking: De Cao et al. 2020, arXiv 2004.14992; on causal variables: Davies et al. 2023, arXiv 2307.03637.
"""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor

from cutaway.mediators.featurizers.base import Featurizer, Learner
from cutaway.mediators.gate import Sigmoid, gate

_COLDEST = 0.01


@final
class Mask(Learner):
    """Sigmoid gates, half open at first, whose temperature falls from 1 to 0.01 by the same factor at every step.

    price: what taking all features costs in the loss.
    """

    anneals = True

    def __init__(self, basis: Featurizer, *, price: float) -> None:
        self.gates = Sigmoid((basis.n,))
        self.parameters = (self.gates.parameters,)
        self._basis, self._price = basis, price

    def interchanged(self, base: Float[Tensor, "*rest width"], source: Float[Tensor, "*rest width"], done: float) -> Tensor:
        self.gates.temperature = _COLDEST**done
        return self._basis.replaced(base, gate(self.gates.values(), self._basis.encode(source))(self._basis.encode(base)))

    def penalty(self) -> Tensor:
        return self._price * self.gates.replaced() / self._basis.n

    def learned(self) -> Featurizer:
        return self._basis.select((~self.gates.rounded()).nonzero()[:, 0].tolist())


mask = Mask
