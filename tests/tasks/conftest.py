"""Real language models with untrained weights; their tokenizers differ in what tasks care about: digits, and a token before every text."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cutaway.models.language import LanguageModel
    from cutaway.tasks.behaviour import Behaviour

OpenTiny = Callable[[int, bool], "LanguageModel"]


@cache
def _tiny(digits: int, bos: bool) -> LanguageModel:
    import torch
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors, trainers
    from tokenizers.decoders import ByteLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    import cutaway as cut
    from cutaway.tasks import facts, greater_than, ioi

    tokenizer = Tokenizer(models.BPE())
    numbers = pre_tokenizers.Split(Regex(rf" ?[0-9]{{1,{digits}}}"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([numbers, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = ByteLevel()
    rows = [(t.format(subject=s), a) for r in facts._facts().values() for t in r.templates for s, a in r.answers.items()]
    texts = [f"{text} {answer}" for text, answer in rows]
    texts += [f"x {word}" for word in (*ioi._NAMES, *ioi._PLACES, *ioi._OBJECTS, *greater_than._NOUNS)] * 20 + [*ioi._TEMPLATES] * 50
    texts += [f"x {i:02d}{j:02d}" for i in range(100) for j in range(100)] + [f"{i:0{digits}d}" for i in range(10**digits)]
    trainer = trainers.BpeTrainer(
        vocab_size=6000, special_tokens=["<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", pad_token="<s>")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 128}
    config = LlamaConfig(vocab_size=len(wrapped), **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = LlamaForCausalLM(config).eval()
    model: LanguageModel = cut.open(module, tokenizer=wrapped)
    return model


@pytest.fixture(scope="session")
def open_tiny() -> OpenTiny:
    """`open_tiny(digits, bos)`: at most so many digits in a token; whether every text is opened by a token."""
    return _tiny


@pytest.fixture(scope="session")
def tiny(open_tiny: OpenTiny) -> LanguageModel:
    return open_tiny(1, False)


@cache
def _behaviours() -> list[Behaviour]:
    """One of each task that has a causal model, as its file makes it by default."""
    return [module.behaviour() for module in _modules() if hasattr(module, "behaviour")]


def _modules() -> list[ModuleType]:
    import importlib

    from cutaway import registry

    return [importlib.import_module(f"cutaway.tasks.{name}") for name in registry.names("tasks")]


@pytest.fixture(scope="session")
def whole_words() -> LanguageModel:
    """An untrained zoo model whose tokenizer knows the words of every task with a causal model, and nothing but whole words."""
    import cutaway as cut
    from cutaway.zoo.base import Transformer, TransformerConfig

    open_ended = [module.behaviour() for module in _modules() if hasattr(module, "behaviour") and not hasattr(module, "WORDS")]
    texts = [part for behaviour in open_ended for text in behaviour.texts(300) for part in text]
    closed = [word for module in _modules() for word in getattr(module, "WORDS", ())]
    vocab = ("<bos>", *sorted({word for text in texts for word in text.split()} | set(closed)))
    module = Transformer(TransformerConfig(vocab, n_layers=1, n_heads=1, d_model=8, d_head=8, max_length=256))
    model: LanguageModel = cut.open(module)
    return model


@pytest.fixture(scope="session")
def spoken() -> LanguageModel:
    """An untrained language model whose byte-level tokenizer has the words of those tasks as tokens, with their spaces; single digits."""
    import random

    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from tokenizers.decoders import ByteLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    import cutaway as cut

    tokenizer, rng, texts = Tokenizer(models.BPE()), random.Random(0), []
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = ByteLevel()
    for behaviour in _behaviours():
        drawn = [behaviour.model.sample(rng, behaviour.valid) for _ in range(150)]
        texts += [behaviour.prompt(inputs).text + behaviour.answer(inputs) for inputs in drawn]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=4000, initial_alphabet=alphabet, show_progress=False))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 512}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = LlamaForCausalLM(LlamaConfig(vocab_size=len(wrapped), **sizes)).eval()
    model: LanguageModel = cut.open(module, tokenizer=wrapped)
    return model
