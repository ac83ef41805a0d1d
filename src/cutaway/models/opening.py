"""`cut.open`: from a name, a folder, a file or a module to a model with standard names, verified.

What a name may be, tried in this order: a zoo model, a model packaged for the Python package index (`wheels`), a local folder or .gguf
file, a hub id.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cutaway import registry
from cutaway.engine import confining
from cutaway.engine.model import Model
from cutaway.errors import InputError, LayoutError, UnknownNameError
from cutaway.models import adapted, hub, parity, wheels
from cutaway.models.any_module import AnyModule
from cutaway.models.families.base import Family, Layout, Sizes
from cutaway.models.language import LanguageModel
from cutaway.models.named_module import NamedModule
from cutaway.models.vision_language import VisionLanguageModel
from cutaway.zoo.base import Transformer, TransformerConfig


def open(
    what: str | os.PathLike[str] | nn.Module,
    *,
    tokenizer: Any = None,
    device: str = "cpu",
    dtype: str = "float32",
    revision: str | None = None,
    verify: bool = True,
) -> Any:
    """Open a model: a `LanguageModel` or, for encoders, vision and other models, a `NamedModule` where its layout is known; else an `AnyModule`.

    what: "induction_lm" (zoo), "smollm2-135m", a folder or .gguf file, a hub id such as "openai-community/gpt2", or a module.
    tokenizer: needed with a module that is a language model, other than a zoo model's, and to run any other on texts. dtype: of the weights, as
    torch spells it. verify: check that opening a language model changes nothing.
    Raises UnknownNameError, WeightsError, LayoutError, ParityError, InputError.
    """
    if isinstance(what, nn.Module):
        what = adapted.bare(what)
        if any(type(weight.data).__name__ == "DTensor" for weight in what.parameters()):
            found = "weights split over several processes (tensor parallelism): heads and neurons here would be a part of them"
            raise LayoutError(f"Open a {type(what).__name__}.", found, "a module that is whole in this process")
        family = _family(what)
        if tokenizer is None and isinstance(what, Transformer):
            tokenizer = _zoo_tokenizer(what.vocab)
        if family is None or tokenizer is None:
            return _other(what, type(what).__name__, tokenizer, family)
        return _language_model(what, type(what).__name__, family, tokenizer, "", verify)
    confining.refuse_opening("a model")
    name = os.fspath(what)
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise InputError(f"dtype={dtype!r}.", works="float32, bfloat16, float16")
    if name in registry.names("zoo"):
        loaded, words = registry.load("zoo", name)(), None
    else:
        loaded, words = _load(name, kind, revision)
    return named(loaded.to(device=device, dtype=kind).eval(), name, tokenizer or words, revision or "", verify)


def named(module: nn.Module, name: str, tokenizer: Any, revision: str, verify: bool) -> Model:
    """A loaded module with its standard names, as `open` gives it. Raises LayoutError, ParityError."""
    family = _family(module)
    if family is None and _layout(module) is None:
        raise LayoutError(
            f"Open {name} with standard names.",
            f"a {type(module).__name__}, which no family describes",
            "model types " + ", ".join(sorted(_model_types())) + "; or cut.open(module), which knows native paths only",
        )
    if tokenizer is None and isinstance(module, Transformer):
        tokenizer = _zoo_tokenizer(module.vocab)
    if family is None:
        return _other(module, name, tokenizer, family)
    return _language_model(module, name, family, tokenizer, revision, verify)


def source(name: str) -> str | Path:
    """Where the weights of a model lie that is none of the zoo's: a folder, a .gguf file, or an id of the hub. Raises UnknownNameError."""
    path = Path(name)
    if name in wheels.WHEELS:
        return wheels.fetch(name)
    if path.is_dir() or path.suffix == ".gguf":
        return path
    if name.count("/") != 1:
        raise UnknownNameError("model", name, [*registry.names("zoo"), *wheels.WHEELS])
    return name


def _load(name: str, dtype: torch.dtype, revision: str | None) -> tuple[nn.Module, Any]:
    found = source(name)
    if isinstance(found, Path) and found.suffix == ".gguf":
        return hub.load_gguf(found)
    return hub.load(found, dtype, None if name in wheels.WHEELS else revision)


def _known() -> list[Family | Layout]:
    return [registry.load("models.families", name) for name in registry.names("models.families")]


def _families() -> list[Family]:
    return [known for known in _known() if isinstance(known, Family)]


def _model_types() -> set[str]:
    return {kind for known in _known() for kind in known.model_types}


def _other(module: nn.Module, name: str, tokenizer: Any, family: Family | None) -> Model:
    """A module that is opened as no language model: by its layout, or by its own paths where none describes it."""
    layout = _layout(module)
    if layout is not None:
        named = NamedModule(module, name, layout, tokenizer)
        return VisionLanguageModel(named) if layout.kind == "vision_language" else named
    kind = getattr(getattr(module, "config", None), "model_type", None)
    described = f"no family describes it, {f'a model of type {kind!r}' if kind else 'a module without a config'}"
    return AnyModule(module, name, described if family is None else f"it is a {family.name} language model, and was given no tokenizer")


def _layout(module: nn.Module) -> Layout | None:
    """The layout that names the module's class, or else its config's model type."""
    config = getattr(module, "config", None)
    classes = {owner.__name__ for owner in type(module).__mro__}
    layouts = [known for known in _known() if isinstance(known, Layout)]
    named = [layout for layout in layouts if classes & set(layout.classes)]
    named += [layout for layout in layouts if getattr(config, "model_type", None) in layout.model_types]
    for layout in named:
        fits = all(getattr(config, entry, None) == value for entry, value in layout.config.items())
        if fits and NamedModule(module, layout.name, layout).points():
            return layout
    return None


def _family(module: nn.Module) -> Family | None:
    config = getattr(module, "config", None)
    kind = "cutaway_zoo" if isinstance(config, TransformerConfig) else getattr(config, "model_type", None)
    for family in _families():
        if kind in family.model_types and all(getattr(config, name, None) == value for name, value in family.config.items()):
            with contextlib.suppress(AttributeError):  # a headless model of the same type has other paths
                module.get_submodule(family.layers), module.get_submodule(family.unembed)
                return family
    return None


def _language_model(module: nn.Module, name: str, family: Family, tokenizer: Any, revision: str, verify: bool) -> Model:
    model = LanguageModel(module, name, family, _sizes(module.config), tokenizer, revision)
    if verify:
        parity.check(model)
    return model


_WIDTHS = ("moe_intermediate_size", "intermediate_size", "ffn_dim", "n_inner")
"""How configs call the number of neurons; none of them: four times d_model."""
_UNBOUNDED = 2**31
"""Context of a model whose positions have no end (alibi, state spaces)."""


def _sizes(config: Any) -> Sizes:
    if isinstance(config, TransformerConfig):
        c = config
        return Sizes(c.n_layers, c.n_heads, c.n_heads, c.d_model, c.d_head, c.d_mlp, len(c.vocab), c.max_length)
    d_model, n_heads = config.hidden_size, getattr(config, "num_attention_heads", 0)
    return Sizes(
        n_layers=config.num_hidden_layers,
        n_heads=n_heads,
        n_kv_heads=getattr(config, "num_key_value_heads", None) or n_heads,
        d_model=d_model,
        d_head=(getattr(config, "head_dim", None) or d_model // n_heads) if n_heads else 0,
        d_mlp=next((width for width in (getattr(config, name, None) for name in _WIDTHS) if width), 4 * d_model) if n_heads else 0,
        vocab=config.vocab_size,
        context=getattr(config, "max_position_embeddings", None) or _UNBOUNDED,
        d_inner=0 if n_heads else int(config.expand * d_model),
    )


def _zoo_tokenizer(vocab: tuple[str, ...]) -> Any:
    """Words separated by white space, "<bos>" before every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocab)}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", vocab.index("<bos>"))])
    with hub.quiet():
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<bos>")
