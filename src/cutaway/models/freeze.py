"""A norm with its denominator held at the value it had: linear, so that a sum of parts can be taken through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Kind = Literal["rms", "rms_plus_one", "layer", "none"]
_UNSTATED = 1e-5  # in OLMo's norms, which hold it as a number in their code alone


def frozen(norm: nn.Module, kind: Kind, at: Float[Tensor, "*rest d"]) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The linear part of `norm` as it acted on `at`, and the constant it adds: `norm(at) = linear(at) + constant`.

    rms: x / rms(at) * gain. layer: (x - mean(x)) / std(at) * gain, plus bias. none: x.
    """
    zero = torch.zeros_like(at)
    if kind == "none" or isinstance(norm, nn.Identity):
        return (lambda x: x), zero
    weight = getattr(norm, "weight", None)
    gain = torch.ones_like(at[..., :1]) if weight is None else weight.detach() + (kind == "rms_plus_one")
    spelling = "variance_epsilon" if hasattr(norm, "variance_epsilon") else "eps"  # transformers has both
    epsilon: float = getattr(norm, spelling, _UNSTATED)
    if kind == "layer":
        scale = (at.var(-1, unbiased=False, keepdim=True) + epsilon).sqrt()
        bias = getattr(norm, "bias", None)
        constant = zero if bias is None else bias.detach().expand_as(at)
        return (lambda x: (x - x.mean(-1, keepdim=True)) / scale * gain), constant
    scale = (at.pow(2).mean(-1, keepdim=True) + epsilon).sqrt()
    return (lambda x: x / scale * gain), zero
