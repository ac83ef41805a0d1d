"""A model with the layout of a real one, small and random, for counting; and one that holds two variables in one state."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch

import cutaway as cut
from cutaway.mediators.featurizers.rotation import rotation
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task
from cutaway.tasks.behaviour import Behaviour, causal_task
from cutaway.tasks.causal_model import CausalModel, caused, one_of
from cutaway.zoo.base import Transformer, TransformerConfig


@pytest.fixture(scope="session")
def smollm_layout() -> LanguageModel:
    """Twelve layers of a Llama whose vocabulary, MLP and attention cost in the proportion they have in SmolLM2."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(512)}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=48, intermediate_size=128, num_hidden_layers=12, num_attention_heads=3, num_key_value_heads=1, vocab_size=512
    )
    return cut.open(LlamaForCausalLM(config).eval(), tokenizer=PreTrainedTokenizerFast(tokenizer_object=words))


Crossed = Callable[[bool], tuple[LanguageModel, Task, torch.Tensor]]
N_VALUES, N_WORDS, WIDTH = 3, 108, 24


@pytest.fixture(scope="session")
def crossed() -> Crossed:
    """A model that adds two digits modulo three, both of which stand in one word and so in one state, its task, and the directions of each.

    One word w<n> is the prompt. After layer 0 its state holds a one-hot digit `a`, a one-hot digit `b` and 18 random numbers of the word's own, which
    nothing reads, each in its own directions: those of `a` are the first three columns of what is returned, those of `b` the next three. Rotated,
    these are random; else they are the axes. The full state carries both digits; interchanged, it is right for one of them where the other agrees.
    """
    return cache(_crossed)


def _crossed(rotated: bool) -> tuple[LanguageModel, Task, torch.Tensor]:
    words = tuple(f"w{i}" for i in range(N_WORDS))
    vocab = ("<bos>", "zero", "one", "two", *words)
    config = TransformerConfig(
        vocab, n_layers=2, n_heads=1, d_model=WIDTH, d_head=1, d_mlp=N_VALUES**2, max_length=8, norm=False, positions="none"
    )
    model, generator = Transformer(config), torch.Generator().manual_seed(0)
    axes = rotation(WIDTH, WIDTH, seed=3).directions if rotated else torch.eye(WIDTH)
    digits = torch.tensor([(n % N_VALUES, n // N_VALUES % N_VALUES) for n in range(N_WORDS)])
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        noise = torch.randn(N_WORDS, WIDTH - 2 * N_VALUES, generator=generator) * 0.5
        inside = torch.cat([torch.eye(N_VALUES)[digits[:, 0]], torch.eye(N_VALUES)[digits[:, 1]], noise], 1)
        model.embed.weight[4:] = inside @ axes.T
        adder = model.blocks[1].mlp
        for unit in range(N_VALUES**2):
            a, b = unit % N_VALUES, unit // N_VALUES
            adder.up.weight[unit] = axes[:, a] + axes[:, N_VALUES + b]
            adder.up.bias[unit] = -1.0
            adder.down.weight[:, unit] = axes[:, -1 - (a + b) % N_VALUES]
        # what the word itself has in the directions of the answer is small beside it
        model.embed.weight -= model.embed.weight @ axes[:, -N_VALUES:] @ axes[:, -N_VALUES:].T
        model.unembed.weight[1:4] = 10 * axes[:, -N_VALUES:].flip(1).T

    causes = CausalModel(
        {
            "n": one_of(range(N_WORDS)),
            "a": caused(lambda n: n % N_VALUES),
            "b": caused(lambda n: n // N_VALUES % N_VALUES),
            "answer": caused(lambda a, b: ("zero", "one", "two")[(a + b) % N_VALUES]),
        }
    )
    lm = cut.open(model.eval())
    behaviour = Behaviour(causes, lambda s: ("{word}", {"word": words[s["n"]]}), ("n",))
    task = causal_task("crossed", behaviour, lm, role="word", arguments={"n": 200, "seed": 0, "known": True})
    return lm, task, axes
