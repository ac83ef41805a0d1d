"""A causal language model, opened: standard names, prompts with roles, logits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cutaway.address import Address
from cutaway.engine.interleave import Trace
from cutaway.engine.model import Model
from cutaway.engine.packing import Rows
from cutaway.engine.recording import Recorded
from cutaway.engine.site import Site, entry
from cutaway.engine.stack import Stack
from cutaway.errors import AddressError, InputError, NumericError, PromptError
from cutaway.models import adapted, attention, folded, generation
from cutaway.models.any_module import dotted
from cutaway.models.decoder import DecoderStack
from cutaway.models.families.base import Family, Sizes, Where
from cutaway.models.points import POINTS, generic, row
from cutaway.models.prompt import Prompt
from cutaway.models.state_space import StateSpaceStack
from cutaway.models.tokens import Tokens, encode, joined, tokenize

Text = str | Prompt | Sequence[str] | Sequence[Prompt] | Tokens
"""What a language model runs on."""

_LAYERS = re.compile(r"^layers(?:\[(\d+)\](?:\.(attn|mlp|ssm)(?=\.|\[|$))?)?")
_BATCH = 32
_STREAMED = frozenset({"input_ids", "attention_mask", "position_ids", "use_cache"})
"""What `LanguageModel.arguments` makes of a text."""


@final
class LanguageModel(Model):
    """`lm.trace("text")`, `lm.run(...)`, `lm.sweep(...)` on texts; `lm.layers[3].attn.z` and the other points of `docs/points.md`."""

    def __init__(self, module: nn.Module, name: str, family: Family, sizes: Sizes, tokenizer: Any, revision: str = "") -> None:
        super().__init__(module, name)
        self.family, self.sizes, self.tokenizer, self.revision = family, sizes, tokenizer, revision
        pattern = family.points.get("layers[i].attn.pattern")
        registered = pattern is not None and pattern.offering is None
        self._opening = partial(attention.opened, module) if registered else nullcontext

    # Text

    def tokens(self, text: Text) -> Tokens:
        """Prompts as a batch of tokens. Raises PromptError."""
        if isinstance(text, Tokens):
            return text
        one: list[str | Prompt] = [text] if isinstance(text, (str, Prompt)) else list(text)
        prompts = [Prompt(p) if isinstance(p, str) else p for p in one]
        return tokenize(self.tokenizer, prompts, self.sizes.context, self.bos_id)

    @cached_property
    def bos_id(self) -> int | None:
        """The token the tokenizer puts before every text; None if it puts none."""
        ids = self.tokenizer("")["input_ids"]
        return int(ids[0]) if ids and ids[0] == self.tokenizer.bos_token_id else None

    def token_text(self, token: int) -> str:
        """A token as text, with its leading space."""
        return str(self.tokenizer.decode([int(token)]))

    def token_id(self, text: str) -> int:
        """The id of a text that is one token. Raises PromptError if it is several."""
        ids = self._plain_ids(text)
        if len(ids) != 1:
            pieces = " + ".join(repr(self.token_text(i)) for i in ids) or "nothing"
            raise PromptError(
                f"The answer {text!r} as one token.", f"{len(ids)} tokens: {pieces}", "an answer of one token, such as its first"
            )
        return ids[0]

    def first_token(self, text: str) -> str:
        """The text of the first token of `text`. Raises PromptError if it is empty."""
        ids = self._plain_ids(text)
        if not ids:
            raise PromptError(f"The first token of {text!r}.", "no tokens", "a text that is not empty")
        return self.token_text(ids[0])

    @cached_property
    def _ordinary(self) -> Tensor:
        special = set(self.tokenizer.all_special_ids)
        words = (i for i in range(self.sizes.vocab) if i not in special and re.fullmatch(r" ?[a-z]{2,}", self.token_text(i)))
        return torch.tensor(list(words))

    def ordinary_tokens(self) -> Int[Tensor, "n"]:
        """Ids of tokens that are plain lower-case words."""
        return self._ordinary

    def next_logits(self, text: Text) -> Float[Tensor, "batch vocab"]:
        """Logits after the last token of each prompt, for any number of prompts of any lengths. Raises NumericError for NaN."""
        if not isinstance(text, (str, Prompt, Tokens)):
            return torch.cat([self.next_logits(self.tokens(text[i : i + _BATCH])) for i in range(0, len(text), _BATCH)])
        point = f"layers[{self.sizes.n_layers - 1}].output[pos=-1]"
        logits = self.unembed(self.run(self.tokens(text), read=[point])[point])
        if not torch.isfinite(logits).all():
            raise NumericError(f"Run {self.name}.", "NaN or infinite logits", "another dtype (dtype='float32'), or other weights")
        return logits

    def unembed(self, hidden: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest vocab"]:
        """The model's final norm and unembedding, applied to any residual state."""
        with torch.no_grad():
            return self._head(hidden)

    def _head(self, hidden: Tensor) -> Tensor:
        """As `unembed`, with gradients where they are kept."""
        normed = self._called(self.family.final_norm, hidden)
        weight = getattr(self.part(self.family.unembed), "weight", normed)
        # Mamba keeps its residual stream in float32 where its weights are not
        logits = self._called(self.family.unembed, normed.to(weight.dtype) if weight.is_floating_point() else normed)
        cap = getattr(getattr(self.module, "config", None), "final_logit_softcapping", None)
        return torch.tanh(logits / cap) * cap if cap else logits

    def _called(self, path: str, value: Tensor) -> Tensor:
        """What a module makes of a tensor. In a recording it is one node: what the module does with its weights first needs values."""
        recorder = self.recorder if isinstance(value, Recorded) else None
        made: Tensor = self.part(path)(value) if recorder is None else recorder.call(path, self.part(path), (value,), {})
        return made

    def part(self, path: str) -> nn.Module:
        """A module by its own path."""
        return self.module.get_submodule(path)

    def head_writes(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """What each head's output is multiplied by on its way to the residual stream: its slice of the output projection, bias apart."""
        projection = self.part(f"{self.family.layers}.{layer}.{self.family.attn}.{self.family.projection}")
        inward = adapted.matrix(projection, self.sizes.n_heads * self.sizes.d_head)
        return inward.unflatten(0, (self.sizes.n_heads, -1))

    def word_directions(self, ids: Int[Tensor, "n"]) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, "n"]]:
        """Rows of the unembedding for some words, and their biases (0 where there are none)."""
        head = self.part(self.family.unembed)
        rows, bias = adapted.matrix(head, self.sizes.d_model).T[ids], getattr(head, "bias", None)
        return rows, rows.new_zeros(len(ids)) if bias is None else bias.detach()[ids]

    def points(self) -> tuple[str, ...]:
        """Every standard point this model has, layer by layer."""
        per_layer = [p.name for p in POINTS if p.name in self.family.points and "[i]" in p.name]
        names = [name.replace("[i]", f"[{i}]") for i in range(self.sizes.n_layers) for name in per_layer]
        return tuple(name for name in ("embed", *names, "norm", "logits") if self.find(name) is not None)

    def generate(self, text: Text, *, new_tokens: int = 20, temperature: float = 0.0, seed: int = 0, **options: Any) -> Trace:
        """Open a generation: `with lm.generate("...") as run: for step in run.steps: ...`; `run.output` is ids (rows, prompt and new tokens).

        The first step is the prompt, each later one a token. temperature 0 takes the likeliest token, any other samples, from a generator
        seeded with `seed`. options: others of transformers' `generate`. Without gradients. Raises PromptError, InputError.
        """
        tokens = self.tokens(text)
        self.refuse_longer(tokens, new_tokens)
        return self.trace(tokens, fn=self.generation(new_tokens=new_tokens, temperature=temperature, seed=seed, **options))

    def refuse_longer(self, tokens: Tokens, new_tokens: int) -> None:
        """Raise PromptError where so many new tokens would not fit into the context."""
        width, context = tokens.ids.shape[1], self.sizes.context
        if width + new_tokens - 1 > context:  # the last one is not read
            works = f"new_tokens={max(context - width + 1, 0)} at most: its context is {context}"
            raise PromptError(f"Generate {new_tokens} tokens.", f"a prompt of {width}", works)

    def generation(self, *, new_tokens: int = 20, temperature: float = 0.0, seed: int = 0, **options: Any) -> generation.Generation:
        """What drives `generate`, for a scan, a recording or a replay of a body over its steps: `lm.record(text, fn=lm.generation(new_tokens=5))`."""
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        return generation.Generation(self.module, new_tokens, temperature, seed, pad, **options)

    def driver(self, told: Any) -> Callable[..., Any]:
        kinds: dict[str, Any] = {"name": str, "new_tokens": int, "temperature": (int, float), "seed": int}
        fits = isinstance(told, dict) and told.keys() == kinds.keys() and all(isinstance(told[k], v) for k, v in kinds.items())
        if not fits or told["name"] != generation.NAME or told["new_tokens"] > self.sizes.context:
            raise InputError("Drive a stream's forward.", str(told)[:200], f"lm.generation(new_tokens=...), at most {self.sizes.context}")
        return self.generation(new_tokens=told["new_tokens"], temperature=told["temperature"], seed=told["seed"])

    def refuse(self, args: Sequence[Any], kwargs: Mapping[str, Any], driver: Any, tokens: int) -> None:
        ids, places = kwargs.get("input_ids"), kwargs.get("position_ids", torch.zeros(0, dtype=torch.long))
        if (
            args
            or not kwargs.keys() <= _STREAMED
            or not (isinstance(ids, Tensor) and ids.ndim == 2 and _whole_below(ids, self.sizes.vocab))
        ):
            found = ", ".join(kwargs)[:80] + (f", and {len(args)} more" if args else "")
            raise InputError(
                f"Run {self.name} for others.", found, f"{', '.join(sorted(_STREAMED))}: ids of its vocabulary, (rows, tokens)"
            )
        width = ids.shape[1] + (driver.get("new_tokens", 1) - 1 if isinstance(driver, dict) else 0)
        if width > self.sizes.context or len(ids) * width > tokens or not _whole_below(places, self.sizes.context):
            found = f"{len(ids):,} rows of {width:,} tokens"
            raise InputError(
                f"Run {self.name} for others.", found, f"at most {self.sizes.context:,} in a row, its context, and {tokens:,} in all"
            )

    # What a kind of model has to say

    def prepare(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(inputs) != 1:
            raise PromptError("Run a language model.", f"{len(inputs)} inputs", "one text, prompt, list of them, or Tokens")
        return (self.tokens(inputs[0]),)

    def arguments(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        tokens: Tokens = inputs[0]
        folded.prepared(tokens.ids)
        device = self.device
        kwargs: dict[str, Any] = {"input_ids": tokens.ids.to(device)}
        if tokens.padded:
            mask = tokens.mask.to(device)
            kwargs |= {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
        if self.family.name != "zoo":
            kwargs["use_cache"] = False
        return (), kwargs | options

    def locate(self, point: str) -> Site | None:
        listed = row(point)
        if listed is None:
            self._refuse(generic(point)[0] if point.startswith("layers[") else "", point)
            return None
        kind, layer = listed
        if layer >= self.sizes.n_layers:
            raise AddressError(
                f"{point}", f"{self.sizes.n_layers} layers in {self.name}", f"layers[0] to layers[{self.sizes.n_layers - 1}]"
            )
        where = self.family.points.get(kind.name)
        if where is None:
            self._refuse(kind.name, point, kind.without)
            return Site(point, self.module, "", "output", entry("logits"), kind.dims) if kind.name == "logits" else None
        path = where.path.format(i=layer)
        try:
            module = self.module.get_submodule(path)
        except AttributeError:  # a part this model goes without, such as the MLP of an attention-only model
            return None
        return Site(point, module, path, where.event, where.view(self.sizes), kind.dims, self._offering(where, layer, module))

    def _refuse(self, name: str, point: str, without: tuple[str, str] | None = None) -> None:
        """Say of a point that this family does not have why, and what works instead. Raises AddressError, unless nothing is known of it."""
        said = self.family.missing.get(name, without) if name else None
        if said is not None:
            raise AddressError(f"{point} in {self.name}.", f"a {self.family.name} model: {said[0]}", said[1])

    def _offering(self, where: Where, layer: int, module: nn.Module) -> Callable[..., AbstractContextManager[None]] | None:
        if where.offering is not None:
            return where.offering(self.part(f"{self.family.layers}.{layer}"), module)
        return self._opening if where.event not in ("input", "output") else None

    def below(self, path: str) -> Iterable[str]:
        prefix = f"{generic(path)[0]}." if path else ""
        here = [name for name in (*self.family.points, "logits") if name.startswith(prefix)]
        inside = {name.removeprefix(prefix).partition(".")[0] for name in here}
        return sorted(name.partition("[")[0] for name in inside)

    def native(self, path: str) -> str:
        found = _LAYERS.match(path)
        if found is None:
            return dotted(path)
        if found[2] and not getattr(self.family, found[2]):
            return dotted(path)  # no such part: as a path of the module's own it is not there either
        parts = [self.family.layers, *([found[1]] if found[1] else []), *([getattr(self.family, found[2])] if found[2] else [])]
        return dotted(".".join(parts) + path[found.end() :])

    def positions(self, address: Address, inputs: tuple[Any, ...]) -> Tensor | None:
        tokens: Tokens = inputs[0]
        return None if address.pos is None else tokens.positions(address.pos)

    def together(self, inputs: Sequence[tuple[Any, ...]]) -> tuple[tuple[Any, ...], list[Rows]]:
        batches: list[Tokens] = [one[0] for one in inputs]
        whole, starts = joined(batches), [0]
        for tokens in batches:
            starts.append(starts[-1] + len(tokens))
        width = whole.ids.shape[1]
        rows = [Rows(first, first + len(tokens), width - tokens.ids.shape[1]) for first, tokens in zip(starts, batches, strict=False)]
        return (whole,), rows

    def last(self, output: Any) -> Tensor:
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits[:, -1]

    @property
    def stack(self) -> Stack | None:  # not kept: it refers to this model, and a cycle would keep the weights alive
        blocks = self.part(self.family.layers)
        assert isinstance(blocks, nn.ModuleList)
        embed = self.site("embed").module
        if self.family.ssm:
            return StateSpaceStack(blocks, embed, self._head)
        mlp = blocks[-1].get_submodule(self.family.mlp) if self.family.mlp and hasattr(blocks[-1], self.family.mlp) else None
        return DecoderStack(blocks, embed, self._head, self.sizes, self._opening, mlp)

    def _plain_ids(self, text: str) -> list[int]:
        return [int(i) for i in encode(self.tokenizer, text, add_special_tokens=False)["input_ids"]]


def _whole_below(tensor: Any, bound: int) -> bool:
    """Whether a tensor holds whole numbers from 0 below a bound; an accelerator does not survive an index that is not there."""
    if not isinstance(tensor, Tensor) or tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        return False
    return tensor.numel() == 0 or bool(0 <= tensor.min() and tensor.max() < bound)
