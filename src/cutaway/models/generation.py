"""Text after a prompt, token by token: what drives the forward in `lm.generate`.

transformers' own loop where the model has one; a plain loop for a zoo model, which has no cache of its own: there every step runs the whole text.
Sampling draws from a generator of the call, by adding Gumbel noise to logits / temperature and taking the largest: the same distribution as
drawing from their softmax (Gumbel 1954; Maddison et al. 2014).
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from cutaway.errors import InputError

NAME = "generation"
_CACHES = ("past_key_values", "cache_params")
_DRAWING = ("do_sample", "top_k", "top_p", "min_p", "typical_p")


@final
class Sampler:
    """Scores (rows, vocab) -> scores whose largest is a sample. As a logits processor of transformers, which calls it with the ids so far."""

    def __init__(self, temperature: float, seed: int) -> None:
        self._temperature, self._seed = temperature, seed
        self._generator: torch.Generator | None = None

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        if scores.device.type == "meta":  # of a model without weights: there are no numbers to draw
            return scores.double()
        if self._generator is None:
            self._generator = torch.Generator(scores.device).manual_seed(self._seed)
        uniform = torch.rand(scores.shape, generator=self._generator, device=scores.device, dtype=torch.float64)
        return scores.double() / self._temperature - torch.log(-torch.log(uniform.clamp_min(torch.finfo(torch.float64).tiny)))


@final
class Generation:
    """Drives a forward token by token: called with the forward's arguments, returns ids (rows, tokens of the prompt and new ones).

    temperature 0: the likeliest token each time. options: others of transformers' `generate`. On fake tensors it makes the same calls,
    `new_tokens` of them, so that a body can be recorded over its steps. Raises InputError.
    """

    def __init__(
        self, module: nn.Module, new_tokens: int, temperature: float = 0.0, seed: int = 0, pad: int | None = None, **options: Any
    ) -> None:
        if new_tokens < 1:
            raise InputError(f"new_tokens={new_tokens}.", works="new_tokens=1 or more")
        if temperature < 0:
            raise InputError(f"temperature={temperature}.", works="0 for the likeliest token, or a positive number")
        self._module, self.new_tokens, self._pad, self._options = module, new_tokens, pad, options
        self._temperature, self._seed = temperature, seed
        if options and not hasattr(module, "generate"):
            found = f"a {type(module).__name__}, which has no such options"
            raise InputError(f"Generate with {', '.join(options)}.", found, "new_tokens, temperature, seed")
        drawing = [name for name in _DRAWING if name in options]
        if drawing:
            works = "temperature=1.0, seed=0, which draw; and logits_processor, which rules words out"
            raise InputError(
                f"Generate with {', '.join(drawing)}.", "options by which transformers draws from the global random state", works
            )

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Tensor:
        sampler = Sampler(self._temperature, self._seed) if self._temperature else None
        with torch.no_grad():
            if not hasattr(self._module, "generate"):
                return self._loop(sampler, input_ids, attention_mask)
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            return self._shapes(input_ids, mask) if isinstance(input_ids, FakeTensor) else self._theirs(sampler, input_ids, mask)

    def data(self) -> dict[str, Any]:
        """Its settings, for a stream. Raises InputError for options of transformers, which stay where they are."""
        if self._options:
            raise InputError(f"Stream a generation with {', '.join(self._options)}.", works="new_tokens, temperature, seed")
        return {"name": NAME, "new_tokens": self.new_tokens, "temperature": self._temperature, "seed": self._seed}

    def _theirs(self, sampler: Sampler | None, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        fixed: dict[str, Any] = {"max_new_tokens": self.new_tokens, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if self._pad is not None:
            fixed["pad_token_id"] = self._pad
        if sampler is not None:
            fixed["logits_processor"] = [*self._options.get("logits_processor", ()), sampler]
        module: Any = self._module
        ids: Tensor = module.generate(input_ids, attention_mask=attention_mask, **(self._options | fixed))
        return ids

    def _loop(self, sampler: Sampler | None, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        for _ in range(self.new_tokens):
            scores = self._module(input_ids, attention_mask=attention_mask)[:, -1]
            scores = scores if sampler is None else sampler(input_ids, scores)
            input_ids = torch.cat([input_ids, scores.argmax(-1, keepdim=True)], 1)
            if attention_mask is not None:
                attention_mask = torch.cat([attention_mask, attention_mask.new_ones(len(input_ids), 1)], 1)
        return input_ids

    def _shapes(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """The calls that transformers' `generate` makes, on tensors without values: the prompt, then one token at a time from its cache."""
        module: Any = self._module
        given: dict[str, Any] = {"logits_to_keep": 1} if module._supports_logits_to_keep() else {}
        ids, new = input_ids, input_ids
        for _ in range(self.new_tokens):
            out = module(input_ids=new, attention_mask=mask, use_cache=True, **given)
            given |= {name: out[name] for name in _CACHES if out.get(name) is not None}
            new = out["logits"][:, -1:].argmax(-1)
            ids, mask = torch.cat([ids, new], 1), torch.cat([mask, torch.ones_like(new)], 1)
        return ids
