"""Weights and tokenizers read by transformers: from a hub id, a folder or a .gguf file, quietly, with errors of ours."""

from __future__ import annotations

import contextlib
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from cutaway.errors import WeightsError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load(source: str | Path, dtype: torch.dtype, revision: str | None) -> tuple[PreTrainedModel, Any]:
    """A model of the class that its config names, a causal language model if it names none, from a hub id or a folder. Raises WeightsError.

    Its tokenizer comes with it; None for a model that is no causal language model and has none.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    revision = revision or "main"
    with _quiet(), _explained(source):
        own = _class(AutoConfig.from_pretrained(source, revision=revision))
        module: PreTrainedModel = (own or AutoModelForCausalLM).from_pretrained(source, dtype=dtype, revision=revision)
        if own is None:
            return module, AutoTokenizer.from_pretrained(source, revision=revision)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # what transformers raises where there are no files for it
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
            if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) > 1:  # else it was made up, from no files
                return module, tokenizer
    return module, None


def _class(config: Any) -> Any:
    """The class of a checkpoint that is no causal language model; None for one that is, or does not say."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    name = next(iter(getattr(config, "architectures", None) or ()), "")
    return None if name in CAUSAL.values() else getattr(transformers, name, None)


def load_gguf(path: Path) -> tuple[PreTrainedModel, Any]:
    """The same from a .gguf file, the weights expanded to float32. Raises WeightsError."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    if not path.is_file():
        raise WeightsError(f"Open {path}.", "no such file", "the path of a .gguf file")
    with _quiet(), _explained(path):
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own loading bars and warnings, which speak of files the user never named."""
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
