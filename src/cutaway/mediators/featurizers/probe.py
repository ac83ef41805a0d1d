"""Directions that a linear probe reads: those along which activations of different labels lie apart."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from cutaway.errors import InputError
from cutaway.mediators.featurizers.subspace import Subspace

_ITERATIONS = 200


def probe(activations: Float[Tensor, "rows width"], labels: Int[Tensor, "rows"], *, penalty: float = 1e-2) -> Subspace:
    """Orthonormal directions, one fewer than there are labels, of a logistic regression from activations to labels.

    penalty: of the squared weights, on activations scaled to unit variance on average. The fit is convex and starts at zero: the same data give
    the same directions. `about["accuracy"]`: on these activations. Raises InputError for fewer than two labels.
    """
    names, classes = labels.unique(return_inverse=True)
    if len(names) < 2 or len(activations) != len(labels):
        raise InputError(f"A probe from {len(activations)} activations.", f"{len(labels)} labels, {len(names)} different", "two or more")
    x = activations.detach().float()
    x = (x - x.mean(0)) / x.std(0).square().mean().sqrt().clamp(min=torch.finfo(x.dtype).tiny)
    weight = torch.zeros(x.shape[1], len(names), requires_grad=True)
    bias = torch.zeros(len(names), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        with torch.enable_grad():
            found = cross_entropy(x @ weight + bias, classes) + penalty * weight.square().sum()
            weight.grad, bias.grad = torch.autograd.grad(found, (weight, bias))
        return found.detach()

    optimizer.step(loss)
    fitted = weight.detach()
    accuracy = float(((x @ fitted + bias.detach()).argmax(1) == classes).float().mean())
    apart = fitted[:, 1:] - fitted[:, :1]
    return Subspace(directions=torch.linalg.qr(apart).Q, about={"accuracy": accuracy, "labels": names.tolist()})
