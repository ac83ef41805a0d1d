"""A model without its weights: what it takes to write bodies for one that runs elsewhere, as plain data and back.

    told = described("smollm2-135m")     # where the model can be opened: its config, its tokenizer, and which weights they are
    lm = weightless(told)                # anywhere: the same names, sizes and tokens, every parameter on "meta"
    with lm.record("The Eiffel Tower is in") as run:
        run.save(logits=lm.logits[0, -1])

What `weightless` is given may come from a stranger: it builds classes of this package and of transformers alone, and refuses sizes that nobody has.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cutaway import registry
from cutaway.engine.model import Model
from cutaway.errors import CutawayError, InputError, LayoutError
from cutaway.models import hub, opening, wheels
from cutaway.models.remembered import remember
from cutaway.zoo.base import Transformer, TransformerConfig

FIELDS = {"name": str, "kind": str, "config": Mapping, "files": Mapping, "revision": str, "class": str, "dtype": str}
"""Entries of a description. dtype: of the weights, as torch spells it. class: of the module, a name of transformers (or Transformer, of the zoo)."""
KINDS = ("zoo", "transformers")
FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja"),
)
"""Files of a tokenizer, all of them text."""
_MOST_CALLS = 30_000
_MOST_TEXT = 256 * 2**20
_LEFT_OUT = ("auto_map", "custom_pipelines", "quantization_config", "_name_or_path", "dtype", "torch_dtype")
"""Entries of configs that name code, files, or how weights are stored: none of them says what the model computes."""


def described(name: str, *, revision: str | None = None, dtype: str = "float32") -> dict[str, Any]:
    """What a model is, as `cut.open(name)` would open it, in plain data. Weights are not loaded, except the zoo's, which are small.

    `revision` in it changes when the weights may have changed: a commit of the hub, the checksum of a package, a hash of a folder's file names, sizes
    and times. Raises UnknownNameError, WeightsError, StorageError.
    """
    if name in registry.names("zoo"):
        module = registry.load("zoo", name)()
        told = {"kind": "zoo", "config": _plain(dataclasses.asdict(module.config)), "files": {}, "class": type(module).__name__}
        return {"name": name, **told, "revision": _numbers(module), "dtype": dtype}
    source = opening.source(name)
    config, words, kind = hub.outline(source, revision)
    version = _version(name, source, config, revision)
    made = {"kind": "transformers", "config": _bare(config.to_dict()), "files": _files(words), "class": kind}
    return {"name": name, **made, "revision": version, "dtype": dtype}


def weightless(description: Mapping[str, Any]) -> Model:
    """The model that was described: its names, sizes and tokenizer, with every parameter on "meta".

    It can be scanned, recorded and streamed from, and not run. No code that comes with a model is run. Raises InputError for a description that is
    none, LayoutError for a model that is not known here.
    """
    told = _checked(description)
    dtype = getattr(torch, told["dtype"], None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"A model of dtype {told['dtype'][:40]!r}.", works="float32, bfloat16, float16")
    try:
        if told["kind"] == "zoo":
            module, words = _zoo(told), None
        else:
            with hub.quiet():
                module, words = _transformers(told), _tokenizer(told["config"], told["files"])
    except CutawayError:
        raise
    except Exception as error:  # whatever the constructors of transformers make of a config that is none of theirs
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
        raise InputError(
            f"Make {told['name']} from its description.", reason[:200], "what the server told of a model, unchanged"
        ) from error
    model = opening.named(module.to(dtype=dtype).eval(), told["name"], words, told["revision"], verify=False)
    if model.stack is not None:
        remember(model.stack.blocks)
    return model


def _checked(description: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(description, Mapping) or description.keys() != FIELDS.keys():
        found = ", ".join(map(str, description))[:200] if isinstance(description, Mapping) else f"a {type(description).__name__}"
        raise InputError("Make a model from its description.", found or "nothing", ", ".join(FIELDS))
    for name, kind in FIELDS.items():
        if not isinstance(description[name], kind):
            raise InputError(f"A description with {name} of type {type(description[name]).__name__}.", works=f"a {kind.__name__}")
    told = dict(description)
    if told["kind"] not in KINDS or not told["name"].isprintable() or len(told["name"]) > 300:
        raise InputError(
            "A description of a model.", f"kind {told['kind'][:40]!r}, name {told['name'][:80]!r}", f"kind {' or '.join(KINDS)}"
        )
    strange = [str(name)[:80] for name, text in told["files"].items() if name not in FILES or not isinstance(text, str)]
    if strange or sum(map(len, told["files"].values())) > _MOST_TEXT:
        raise InputError("A tokenizer's files.", f"{strange[0]!r}" if strange else "too much text", f"of {', '.join(FILES)}")
    return told


def _zoo(told: Mapping[str, Any]) -> nn.Module:
    config = dict(told["config"])
    known = {field.name: field.type for field in dataclasses.fields(TransformerConfig)}
    vocab = config.get("vocab")
    if not isinstance(vocab, (list, tuple)) or not all(isinstance(word, str) for word in vocab):
        raise InputError("A model of the zoo.", "a vocabulary that is no list of words", "vocab: words")
    kinds = {"int": int, "bool": bool, "str": str}
    for name, value in config.items():
        if name != "vocab" and (name not in known or type(value) is not kinds[str(known[name])]):
            raise InputError("A model of the zoo.", f"{str(name)[:80]} = {str(value)[:80]}", f"{', '.join(known)}")
    with _Bounded(), torch.device("meta"):
        return Transformer(TransformerConfig(**{**config, "vocab": tuple(vocab)}))


def _transformers(told: Mapping[str, Any]) -> nn.Module:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    entries, name = _bare(told["config"]), told["class"]
    kind = entries.pop("model_type", None)
    owner = getattr(transformers, name, None) if name.isidentifier() and not name.startswith("_") else None
    causal = owner is transformers.AutoModelForCausalLM
    if kind not in transformers.CONFIG_MAPPING or not (
        causal or (isinstance(owner, type) and issubclass(owner, transformers.PreTrainedModel))
    ):
        raise LayoutError(f"Make a {name[:80]!r} of type {str(kind)[:80]!r}.", "none that transformers has here", "a newer transformers")
    assert owner is not None
    config = transformers.AutoConfig.for_model(kind, **entries, dtype=told["dtype"])
    if causal:
        _ = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]  # imports the class: what its module makes for good is made before, and not on "meta"
    with _Bounded(), torch.device("meta"):
        module = owner.from_config(config) if causal else owner(config)
    assert isinstance(module, transformers.PreTrainedModel)
    module.set_experts_implementation("batched_mm")  # the default has no shapes on "meta"; where experts there are none this does nothing
    return module


def _tokenizer(config: Mapping[str, Any], files: Mapping[str, str]) -> Any:
    """Read by transformers as from the model's folder, where there is no code."""
    if not files:
        return None
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="cutaway-") as folder:
        for name, text in {**files, "config.json": json.dumps(_bare(config))}.items():
            if name == "tokenizer_config.json":
                text = json.dumps(_bare(json.loads(text)))
            Path(folder, name).write_text(text, "utf-8")
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


@final
class _Bounded(TorchFunctionMode):
    """Ends the making of a module with more tensors than any model has: on "meta" each is free, and a billion of them is not."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._calls += 1
        if self._calls > _MOST_CALLS:
            raise InputError(
                "Make a model from its description.", "more tensors than any model has", "sizes of a model that is run somewhere"
            )
        return function(*args, **(kwargs or {}))


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _bare(value: Any) -> Any:
    """Plain data without what names code or files."""
    if isinstance(value, Mapping):
        return {str(name): _bare(item) for name, item in value.items() if name not in _LEFT_OUT}
    return [_bare(item) for item in value] if isinstance(value, (list, tuple)) else _plain(value)


def _files(words: Any) -> dict[str, str]:
    if words is None:
        return {}
    with tempfile.TemporaryDirectory(prefix="cutaway-") as folder:
        words.save_pretrained(folder)
        return {name: Path(folder, name).read_text("utf-8") for name in FILES if Path(folder, name).is_file()}


def _numbers(module: nn.Module) -> str:
    digest = hashlib.sha256(json.dumps(_plain(module.config.__dict__), sort_keys=True).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + _bytes(value))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return bytes(tensor.detach().cpu().contiguous().numpy().tobytes())


def _version(name: str, source: str | Path, config: Any, revision: str | None) -> str:
    if name in wheels.WHEELS:
        return wheels.WHEELS[name].sha256
    if isinstance(source, str):  # the hub's
        return str(getattr(config, "_commit_hash", None) or revision or "main")
    files = [source] if source.is_file() else sorted(path for path in source.iterdir() if path.is_file())
    stated = [(path.name, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(stated).encode()).hexdigest()
