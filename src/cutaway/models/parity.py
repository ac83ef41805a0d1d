"""Checks at opening that the names are right: the opened model computes what the unopened one does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cutaway.errors import ParityError
from cutaway.models.prompt import Prompt

if TYPE_CHECKING:
    from cutaway.models.language import LanguageModel

OPENED = 1e-4
"""How much showing the inside of attention may change a logit, relative to the largest logit where that exceeds one."""


def check(model: LanguageModel) -> None:
    """Compare logits on a short text of random tokens: plain, read through the standard names, with attention opened, and from the last block through
    `unembed`. Raises ParityError naming the comparison that failed."""
    training = model.module.training
    model.module.eval()  # dropout would make any two runs differ
    try:
        _check(model)
    finally:
        model.module.train(training)
        model.forwards = 0.0


def _check(model: LanguageModel) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.sizes.vocab, (min(6, model.sizes.context),), generator=generator)
    tokens = model.tokens(Prompt("", ids=tuple(int(i) for i in ids)))
    args, kwargs = model.arguments((tokens,), {})
    with torch.no_grad():
        output = model.module(*args, **kwargs)
    plain = output if isinstance(output, torch.Tensor) else output.logits
    last = model.sizes.n_layers - 1
    _same(model, "read through the standard names", plain, model.run(tokens, read=["logits"])["logits"], 0.0)
    hidden = model.run(tokens, read=[f"layers[{last}].output"])[f"layers[{last}].output"]
    _same(model, "recomputed from the last block's output", plain, model.unembed(hidden), OPENED)
    maps = [name for name in model.points() if name.endswith(".attn.pattern")]
    if maps:
        _same(model, "with attention opened", plain, model.run(tokens, read=[*maps, "logits"])["logits"], OPENED)
    routers = [name for name in model.points() if name.endswith(".mlp.router")]
    if routers:
        _same(model, "with routing made anew from its logits", plain, model.run(tokens, read=[*routers, "logits"])["logits"], OPENED)


def _same(model: LanguageModel, how: str, plain: torch.Tensor, ours: torch.Tensor, tolerance: float) -> None:
    scale = max(1.0, float(plain.abs().max()))
    difference = float((plain - ours).abs().max()) / scale
    slack = tolerance if plain.dtype == torch.float32 else max(tolerance, 100 * torch.finfo(plain.dtype).eps)
    if not difference <= (0.0 if tolerance == 0.0 else slack):
        raise ParityError(
            f"Open {model.name} as a {model.family.name} model.",
            f"logits {how} differ by {difference:.2g}",
            f"a difference of at most {tolerance:g}; this layout is not what its model type says (verify=False opens it all the same)",
        )
