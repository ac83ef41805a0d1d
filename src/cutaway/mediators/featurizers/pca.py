"""Principal components: the orthogonal directions along which some activations vary most, in that order."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import InputError
from cutaway.mediators.featurizers.subspace import Subspace


def pca(activations: Float[Tensor, "rows width"], n: int | None = None, *, centred: bool = True) -> Subspace:
    """The first n components of activations; None: as many as can be told apart. `about["variance"]`: the variance along each.

    centred=False takes them about the origin rather than about the mean, which is the singular value decomposition of the activations.
    The sign of each makes its largest entry positive. Raises InputError for more components than there are.
    """
    x = activations.detach().float()
    mean = x.mean(0) if centred else torch.zeros_like(x[0])
    _, sizes, rows = torch.linalg.svd(x - mean, full_matrices=False)
    most = int((sizes > sizes.max() * max(x.shape) * torch.finfo(x.dtype).eps).sum()) if len(sizes) else 0
    if not 1 <= (most if n is None else n) <= most:
        raise InputError(f"{n or 'Some'} principal components.", f"{most} directions in which these activations vary", f"n=1 to n={most}")
    rows = rows[: most if n is None else n]
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    variance = sizes[: len(rows)].square() / len(x)
    return Subspace(directions=(rows * largest.sign()).T, mean=mean if centred else None, about={"variance": variance.tolist()})
