"""Tiny models with random weights, one for every architecture there is a family for, opened once each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as vocabularies
from torch import nn

import cutaway as cut
from cutaway.models.language import LanguageModel

WORDS = ("<bos>", *(f"w{i}" for i in range(1, 40)))
LAYERS = 3
_WIDTH = {"hidden_size": 32, "num_hidden_layers": LAYERS}
_FEW_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 32}),
    "neox": ("GPTNeoXConfig", {}),
    "neox_sequential": ("GPTNeoXConfig", {"use_parallel_residual": False}),
    "llama": ("LlamaConfig", {"head_dim": 16}),
    "mistral": ("MistralConfig", {"sliding_window": 3}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 16}),
    "gemma": ("GemmaConfig", {"head_dim": 16}),
    "gemma2": ("Gemma2Config", {"head_dim": 16, "sliding_window": 3, "query_pre_attn_scalar": 16}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 16, "sliding_window": 3, "query_pre_attn_scalar": 16, "sliding_window_pattern": 2}),
    "phi": ("PhiConfig", {}),
    "phi3": ("Phi3Config", {}),
    "olmo": ("OlmoConfig", {}),
    "olmo2": ("Olmo2Config", {}),
    "olmo3": ("Olmo3Config", {"sliding_window": 3}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4}),
    "qwen2_moe": ("Qwen2MoeConfig", {**_FEW_EXPERTS, "shared_expert_intermediate_size": 24}),
    "qwen3_moe": ("Qwen3MoeConfig", {**_FEW_EXPERTS, "head_dim": 16}),
    "opt": ("OPTConfig", {**_WIDTH, "num_attention_heads": 4, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 32}),
    "gptj": ("GPTJConfig", {"n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 32, "rotary_dim": 4}),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": LAYERS, "n_head": 4}),
    "mamba": ("MambaConfig", {**_WIDTH, "state_size": 8}),
    "mamba2": ("Mamba2Config", {**_WIDTH, "state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 4}),
}
"""Kind -> config class of transformers, and options. The windows are smaller than the prompts."""
_OWN_SIZES = ("gpt2", "opt", "gptj", "bloom", "mamba", "mamba2")
_EXPERTS, _STATE_SPACES = ("mixtral", "qwen2_moe", "qwen3_moe"), ("mamba", "mamba2")
_OTHER_BLOCKS = ("phi", "olmo2", "mixtral", "qwen3_moe", "opt", "gptj", "bloom", "mamba", "mamba2")
_PARAMETERS = {
    "kind": list(KINDS),
    "attending": [kind for kind in KINDS if kind not in _STATE_SPACES],
    "neural": [kind for kind in KINDS if kind not in (*_STATE_SPACES, *_EXPERTS)],
    "routing": _EXPERTS,
    "state_space": _STATE_SPACES,
    "swept": list(KINDS)[:10],
    "swept_briefly": _OTHER_BLOCKS,
}
"""Name of a test's argument -> the kinds it runs for: all; those with attention; whose neurons are points;
those with experts; with state spaces. Sweeps are slow to test: at length for some, briefly for others whose blocks are called in another way."""
_SIZES = {**_WIDTH, "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 32}


QUICK = ("gpt2", "neox", "llama", "gemma3", "mixtral", "mamba")
"""Kinds of the quick tier; each of the others is like one of them in most."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `kind` runs for every architecture; one that takes another of the names, for those it stands for."""
    for name, kinds in _PARAMETERS.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in kinds])


def word_tokenizer(bos: bool = True, words: tuple[str, ...] = WORDS) -> Any:
    """Words between white space, and "<bos>" before every text if `bos`."""
    inner = Tokenizer(vocabularies.WordLevel({word: i for i, word in enumerate(words)}))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>")


def tiny_module(kind: str, **options: Any) -> nn.Module:
    """A module with weights large enough for every part to matter."""
    name, own = KINDS[kind]
    sizes = {} if kind in _OWN_SIZES else _SIZES | ({} if kind.startswith("neox") else {"num_key_value_heads": 2})
    config = getattr(transformers, name)(
        vocab_size=len(WORDS), bos_token_id=0, eos_token_id=None, pad_token_id=None, **(sizes | own | options)
    )
    module = transformers.AutoModelForCausalLM.from_config(config).eval()
    if kind in _EXPERTS:
        module.set_experts_implementation("eager")  # the default computes in no float64
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in module.parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            weight.copy_(drawn * weight.shape[-1] ** -0.5 * 1.5 if weight.ndim > 1 else weight + 0.2 * drawn)
    return module


@cache
def _tiny(kind: str, dtype: torch.dtype) -> LanguageModel:
    return cut.open(tiny_module(kind).to(dtype), tokenizer=word_tokenizer())


@pytest.fixture(scope="session")
def tiny() -> Callable[..., LanguageModel]:
    """`tiny(kind)`, `tiny(kind, torch.float64)`: shared between tests, which leave it as it was."""
    return lambda kind, dtype=torch.float32: _tiny(kind, dtype)


@pytest.fixture
def fresh() -> Callable[..., nn.Module]:
    """`fresh(kind, **config)`: a module of one's own, not opened."""
    return tiny_module


@pytest.fixture(scope="session")
def tokenizer() -> Callable[..., Any]:
    """`tokenizer(bos=True, words=...)`."""
    return word_tokenizer


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub cannot be reached; transformers reads this when it is imported, so both its switches are set."""
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
