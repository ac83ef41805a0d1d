"""Going on from the middle of a run, on every architecture: values of whole runs, and slopes of finite differences."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cutaway.engine.place import Edit
from cutaway.models.language import LanguageModel

TEXTS = ["w3 w4 w5 w6 w7 w8", "w9 w1 w2 w12", "w30 w3 w30 w3 w11"]


def test_as_whole_runs(kind: str, tiny: Callable[..., LanguageModel]) -> None:
    lm, address = tiny(kind), "layers[0].output[pos=-2]"
    suffix, rows = lm.suffix(TEXTS, at=[address]), torch.tensor([2, 0])

    along = torch.randn(lm.sizes.d_model, generator=torch.Generator().manual_seed(0))

    def moved(by: Tensor | float) -> Edit:
        return lambda value: value * (1 + by) + by * along.to(value.dtype)

    def whole(by: float) -> Tensor:
        return lm.last(lm.run(TEXTS, edits=[(address, moved(by))]).output)[rows]

    by = torch.tensor(0.3, requires_grad=True)
    ours = suffix([(address, moved(by))], rows)
    torch.testing.assert_close(ours.detach(), whole(0.3), rtol=1e-4, atol=1e-4)
    (slope,) = torch.autograd.grad(ours[:, 5].sum(), by)
    step = 1e-2
    finite = (whole(0.3 + step) - whole(0.3 - step))[:, 5].sum() / (2 * step)
    torch.testing.assert_close(slope, finite, rtol=2e-2, atol=5e-3)
