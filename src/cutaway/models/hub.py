"""Weights and tokenizers read by transformers: from a hub id, a folder or a .gguf file, quietly, with errors of ours."""

from __future__ import annotations

import contextlib
import logging
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from cutaway.errors import WeightsError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def load(source: str | Path, dtype: torch.dtype, revision: str | None) -> tuple[PreTrainedModel, Any]:
    """A model of the class that its config names, a causal language model if it names none, from a hub id or a folder. Raises WeightsError.

    Its tokenizer comes with it; None for a model that is no causal language model and has none.
    """
    revision = revision or "main"
    with quiet(), _explained(source):
        from transformers import AutoConfig, AutoModelForCausalLM

        own = _class(AutoConfig.from_pretrained(source, revision=revision))
        module: PreTrainedModel = (own or AutoModelForCausalLM).from_pretrained(source, dtype=dtype, revision=revision)
        return module, _tokenizer(source, revision, own is None)


def outline(source: str | Path, revision: str | None) -> tuple[PreTrainedConfig, Any, str]:
    """What `load` or `load_gguf` reads besides the weights: config, tokenizer, and the name of the class in transformers. Raises WeightsError."""
    with quiet(), _explained(source):
        from transformers import AutoConfig, AutoTokenizer

        if isinstance(source, Path) and source.suffix == ".gguf":
            config = AutoConfig.from_pretrained(source.parent, gguf_file=source.name)
            return config, AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name), "AutoModelForCausalLM"
        config = AutoConfig.from_pretrained(source, revision=revision or "main")
        own = _class(config)
        return config, _tokenizer(source, revision or "main", own is None), "AutoModelForCausalLM" if own is None else own.__name__


def _tokenizer(source: str | Path, revision: str, needed: bool) -> Any:
    from transformers import AutoTokenizer

    if needed:
        return AutoTokenizer.from_pretrained(source, revision=revision)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # what transformers raises where there are no files for it
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) > 1:  # else it was made up, from no files
            return tokenizer
    return None


def _class(config: Any) -> Any:
    """The class of a checkpoint that is no causal language model; None for one that is, or does not say."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    name = next(iter(getattr(config, "architectures", None) or ()), "")
    return None if name in CAUSAL.values() else getattr(transformers, name, None)


def load_gguf(path: Path) -> tuple[PreTrainedModel, Any]:
    """The same from a .gguf file, the weights expanded to float32. Raises WeightsError."""
    if not path.is_file():
        raise WeightsError(f"Open {path}.", "no such file", "the path of a .gguf file")
    with quiet(), _explained(path):
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        module: Any = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # the weights are dense now; these leftovers would make save_pretrained refuse
    for name in ("hf_quantizer", "quantization_method"):
        if hasattr(module, name):
            delattr(module, name)
    module.is_quantized = False
    if hasattr(module.config, "quantization_config"):
        del module.config.quantization_config
    return module, tokenizer


@contextlib.contextmanager
def _explained(source: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, struct.error) as error:  # what readers of damaged files raise
        reason = str(error).strip().partition("\n")[0]
        works = "a machine that reaches the hub, a local folder or .gguf file, or a name that `cutaway models` lists"
        raise WeightsError(f"Load the weights of {source}.", reason, works) from error


_LOCK = threading.RLock()
"""Held by who uses transformers to make a model: it imports its parts when they are asked for, which two threads at once cannot, and changes settings
that all threads share."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """One thread at a time, and without transformers' own loading bars and warnings, which speak of files the user never named."""
    with _LOCK:
        from transformers.utils import logging as theirs

        bars, level = theirs.is_progress_bar_enabled(), theirs.get_verbosity()
        client = logging.getLogger("huggingface_hub")
        before = client.level
        try:
            client.setLevel(logging.CRITICAL)  # what it has to say comes back as an error
            theirs.disable_progress_bar()
            theirs.set_verbosity(logging.ERROR)
            yield
        finally:
            theirs.set_verbosity(level)
            client.setLevel(before)
            if bars:
                theirs.enable_progress_bar()
