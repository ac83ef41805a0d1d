"""A small decoder whose every inner value is the input or the output of a named module.

    embed, position                                    words and places -> the residual stream
    layers[i].norm_1
    layers[i].attn.q_proj / k_proj / v_proj            (batch, token, head x d_head)
    layers[i].attn.scores / pattern                    (batch, head, query, key), before and after the softmax
    layers[i].attn.o_proj                              its input is z, the heads side by side
    layers[i].norm_2
    layers[i].mlp.up / act / down                      only where d_mlp > 0
    norm, unembed                                      the residual stream -> logits

Blocks take their mask, positions and earlier keys and values by the keywords that transformers uses, so that what can drive one
can drive the other. Weights lie in a safetensors file, with the config as JSON in its metadata.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, final, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cutaway.errors import InputError, PromptError, StorageError, WeightsError

POSITIONS = ("learned", "rotary", "none")
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}
ROTARY_BASE = 10_000.0


@runtime_checkable
class EarlierTokens(Protocol):
    """Keys and values of the tokens before those a block is called on; the caches of transformers fit."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Take the new keys and values (batch, head, token, d_head); give back those of all tokens, earlier ones first."""


@final
@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and choices. d_mlp=0: attention only. norm=False: no normalisation, so everything adds up along the residual stream."""

    vocab: tuple[str, ...]
    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    d_mlp: int = 0
    max_length: int = 64
    norm: bool = True
    positions: str = "learned"
    activation: str = "relu"
    biases: bool = True
    tied: bool = False

    def __post_init__(self) -> None:
        if len(set(self.vocab)) != len(self.vocab) or not self.vocab:
            found = f"{len(self.vocab)} words of which {len(set(self.vocab))} differ"
            raise InputError("Make a vocabulary.", found, "one or more words, each once")
        for name in ("n_layers", "n_heads", "d_model", "d_head", "max_length"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}.", works=f"{name}=1 or a larger whole number")
        if self.d_mlp < 0:
            raise InputError(f"d_mlp={self.d_mlp}.", works="0 for no MLPs, or their width")
        if self.positions not in POSITIONS:
            raise InputError(f"positions={self.positions!r}.", works=", ".join(POSITIONS))
        if self.activation not in ACTIVATIONS:
            raise InputError(f"activation={self.activation!r}.", works=", ".join(ACTIVATIONS))
        if self.positions == "rotary" and self.d_head % 2:
            raise InputError(f"Rotary positions with d_head={self.d_head}.", "a width that does not split into pairs", "an even d_head")


@final
@dataclass(frozen=True)
class TextPair:
    """Two texts of one length, and the word that each is answered with."""

    base: str
    counterfactual: str
    answer: str
    foil: str


@final
@dataclass(frozen=True)
class KnownCircuit:
    """How a model does what it does, where it was made to do it that way.

    edges: "sender -> receiver", as `circuits.edge_patching` names them, and the variables that travel along it and are used. fixed: those of
    them that carry the same in any two texts of one length, so that swapping one text's activations for the other's cannot show them.
    pairs(n, seed): texts on which everything else can be seen.
    """

    edges: Mapping[str, tuple[str, ...]]
    fixed: frozenset[str]
    pairs: Callable[[int, int], list[TextPair]]

    @property
    def shown(self) -> frozenset[str]:
        """The edges that swapping activations between two texts of one length can show."""
        return frozenset(self.edges) - self.fixed

    @property
    def components(self) -> tuple[str, ...]:
        """The heads and MLPs that send something that is used, in the order of their first edge."""
        return tuple(dict.fromkeys(sender for sender in (edge.partition(" -> ")[0] for edge in self.edges) if sender != "embed"))


@final
class Transformer(nn.Module):
    """The decoder. Weights are drawn from a generator of their own with `seed`."""

    circuit: KnownCircuit | None = None
    """What is known of how it works; not saved with the weights."""

    def __init__(self, config: TransformerConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        # Built without storage: the constructors of torch would draw from the global generator.
        with torch.device("meta"):
            self.embed = nn.Embedding(len(config.vocab), config.d_model)
            if config.positions == "learned":
                self.position = nn.Embedding(config.max_length, config.d_model)
            self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
            self.norm = _norm(config)
            self.unembed = nn.Linear(config.d_model, len(config.vocab), bias=config.biases)
        self.to_empty(device=torch.get_default_device())
        if config.tied:
            self.unembed.weight = self.embed.weight
        if not self.embed.weight.is_meta:
            self._draw(torch.Generator().manual_seed(seed))

    @property
    def vocab(self) -> tuple[str, ...]:
        """The words; a word's place is its token id."""
        return self.config.vocab

    @property
    def blocks(self) -> tuple[Block, ...]:
        """What `layers` holds, as the type it has."""
        return tuple(cast(Block, block) for block in self.layers)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: EarlierTokens | None = None,
    ) -> Tensor:
        """Logits (batch, token, word) of ids (batch, token).

        attention_mask (batch, token): 1 at real tokens, 0 at padding on the left. position_ids (batch, token) count from 0 at the
        first real token unless given. past_key_values: an empty cache, which every block fills. Raises PromptError if the ids have another
        shape or there are more than max_length of them.
        """
        if input_ids.ndim != 2 or input_ids.shape[1] > self.config.max_length:
            works = f"(batch, token), at most {self.config.max_length} tokens"
            raise PromptError("Run a zoo model.", f"ids of shape {tuple(input_ids.shape)}", works)
        n_tokens = input_ids.shape[1]
        if position_ids is None:
            if attention_mask is None:
                position_ids = torch.arange(n_tokens, device=input_ids.device)[None]
            else:
                position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
        look = None
        if attention_mask is not None:
            look = _causal(n_tokens, n_tokens, input_ids.device) & attention_mask.bool()[:, None, None, :]
        hidden = self.embed(input_ids)
        if self.config.positions == "learned":
            hidden = hidden + self.position(position_ids)
        for block in self.layers:
            hidden = block(hidden, attention_mask=look, position_ids=position_ids, past_key_values=past_key_values)
        return cast(Tensor, self.unembed(self.norm(hidden)))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write weights and config to one safetensors file. Raises StorageError; nothing half-written is left."""
        path = Path(path)
        tensors = self.state_dict()
        if self.config.tied:
            del tensors["unembed.weight"]
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            save_file(tensors, partial, metadata={"config": json.dumps(dataclasses.asdict(self.config))})
            partial.chmod(0o644)  # safetensors writes for the owner alone
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            raise StorageError(f"Write {path}.", str(error), "a folder that exists, is writable and has room") from error
        finally:
            partial.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Transformer:
        """Read what `save` wrote. Raises WeightsError if the file is not there or is not such a file."""
        try:
            with safe_open(path, "pt") as file:
                config = json.loads((file.metadata() or {})["config"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            model = cls(TransformerConfig(**(config | {"vocab": tuple(config["vocab"])})))
            if model.config.tied:
                tensors["unembed.weight"] = tensors["embed.weight"]
            model.load_state_dict(tensors)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(f"Load a zoo model from {path}.", str(error), "a file that Transformer.save wrote") from error
        return model.eval()

    @torch.no_grad()
    def _draw(self, generator: torch.Generator) -> None:
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                weight.copy_(torch.randn(weight.shape, generator=generator, device="cpu") * weight.shape[1] ** -0.5)
            else:  # the scale of a norm is its only vector that does not start at zero
                weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)


@final
class Block(nn.Module):
    """Attention, then an MLP, each added to the residual stream (batch, token, d_model)."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.norm_1 = _norm(config)
        self.attn = Attention(config, layer)
        if config.d_mlp:
            self.norm_2 = _norm(config)
            self.mlp = Mlp(config)
        self.has_mlp = config.d_mlp > 0

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: EarlierTokens | None = None,
    ) -> Tensor:
        """hidden (batch, token, d_model) to the same; the keywords are those of Attention."""
        hidden = hidden + self.attn(
            self.norm_1(hidden), attention_mask=attention_mask, position_ids=position_ids, past_key_values=past_key_values
        )
        if self.has_mlp:
            hidden = hidden + self.mlp(self.norm_2(hidden))
        return hidden


@final
class Attention(nn.Module):
    """Causal softmax attention; z, the heads side by side, is the input of `o_proj`."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.layer_idx, self.n_heads, self.d_head = layer, config.n_heads, config.d_head
        self.rotary = config.positions == "rotary"
        width = config.n_heads * config.d_head
        self.q_proj = nn.Linear(config.d_model, width, bias=config.biases)
        self.k_proj = nn.Linear(config.d_model, width, bias=config.biases)
        self.v_proj = nn.Linear(config.d_model, width, bias=config.biases)
        self.scores = nn.Identity()
        self.pattern = nn.Identity()
        self.o_proj = nn.Linear(width, config.d_model, bias=config.biases)

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: EarlierTokens | None = None,
    ) -> Tensor:
        """hidden (batch, token, d_model) to the same.

        attention_mask (batch or 1, 1, query, key): True where the query may look; None for causal, the last query looking at all keys.
        position_ids (batch or 1, token): needed by rotary positions alone. past_key_values: the tokens before these, whose keys come first.
        """
        q, k, v = (self._split(project(hidden)) for project in (self.q_proj, self.k_proj, self.v_proj))
        if self.rotary:
            if position_ids is None:
                raise InputError("Run attention with rotary positions.", "no position_ids", "position_ids of shape (batch, token)")
            q, k = _rotate(q, position_ids), _rotate(k, position_ids)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        if attention_mask is None:
            attention_mask = _causal(q.shape[2], k.shape[2], q.device)
        scores = q @ k.transpose(2, 3) * self.d_head**-0.5
        # The lowest finite number: a padded query may look nowhere, and with infinities its row would be NaN.
        scores = self.scores(scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min))
        z = self.pattern(scores.softmax(-1)) @ v
        return cast(Tensor, self.o_proj(z.transpose(1, 2).flatten(2)))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.n_heads, self.d_head)).transpose(1, 2)


@final
class Mlp(nn.Module):
    """d_model -> d_mlp -> d_model."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_mlp, bias=config.biases)
        self.act = ACTIVATIONS[config.activation]()
        self.down = nn.Linear(config.d_mlp, config.d_model, bias=config.biases)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (batch, token, d_model) to the same."""
        return cast(Tensor, self.down(self.act(self.up(hidden))))


def _norm(config: TransformerConfig) -> nn.Module:
    return nn.LayerNorm(config.d_model) if config.norm else nn.Identity()


def _causal(n_queries: int, n_keys: int, device: torch.device) -> Tensor:
    """(1, 1, query, key), True where the query may look: the queries are the last of the keys."""
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)[None, None]


def _rotate(x: Tensor, position_ids: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864) on x (batch, head, token, d_head); units i and i + d_head / 2 turn together."""
    half = x.shape[-1] // 2
    frequencies = ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = position_ids[:, None, :, None].float() * frequencies
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    left, right = x[..., :half], x[..., half:]
    return torch.cat((left * cos - right * sin, left * sin + right * cos), -1)
