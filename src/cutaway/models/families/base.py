"""What a family of architectures has to say: where the standard points lie in its modules.

A family file holds one `Family` (a decoder language model) or `Layout` (any other model) of the file's name and nothing else. A new architecture
is a new file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Literal, final

import torch
from torch import nn

from cutaway.engine.site import ARGUMENT, FIRST, WHOLE, View, part
from cutaway.engine.site import heads as unfold
from cutaway.engine.source import Rewritten


@final
@dataclass(frozen=True)
class Sizes:
    """Numbers of a decoder that views need; 0 of what it goes without. d_inner: channels of a state space."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    vocab: int
    context: int
    d_inner: int = 0


@final
@dataclass(frozen=True)
class Where:
    """A module's path (`{i}`: the layer), the event, and the view through which the point is seen: a function of `Sizes`, or of a layout's config.

    offering: for an event that is neither input nor output and not one of attention's: makes of the block and of the module in it what a site needs
    opened for the event to occur (`Site.opening`).
    """

    path: str
    event: str
    view: Callable[[Any], View] = lambda sizes: FIRST
    offering: Callable[[nn.Module, nn.Module], Callable[..., AbstractContextManager[None]]] | None = None


@final
@dataclass(frozen=True)
class Family:
    """model_types: `config.model_type` of transformers. norm: kind of the final norm, at `final_norm`.

    layers: path of the blocks. attn, mlp, ssm: paths of modules in a block, empty where it has none; of an MLP that is no module, its first part.
    config: other entries of the config that this layout goes with.
    projection: attention's output projection, relative to attn. attn_norm: a norm on what attention adds, relative to a layer, if there is one.
    missing: points this family does not have -> why, and what to use instead.
    """

    name: str
    model_types: tuple[str, ...]
    layers: str
    attn: str
    mlp: str
    projection: str
    final_norm: str
    unembed: str
    norm: Literal["rms", "rms_plus_one", "layer", "none"]
    points: Mapping[str, Where]
    attn_norm: str = ""
    ssm: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    missing: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class Layout:
    """Where the standard points of a model that is no decoder language model lie. `Where.view` is called with the module's `config`.

    kind: a key of `points.KINDS`. points: standard name -> where; `[i]` and `[j]` in names are `{i}` and `{j}` in paths.
    modules: standard module path -> own path (`layers[i].mlp` -> `encoder.layer.{i}.mlp`), so that native paths work below a standard name.
    Paths are those of the bare model; in a model that wraps it, such as one with a head, transformers' `base_model_prefix` is put before them, or
    one of `prefixes`.
    model_types: `config.model_type` of transformers. classes: names of module classes, for modules without one.
    config: other entries of the config that this layout goes with.
    missing: points this architecture does not have -> why, and what to use instead.
    opening: what shows the inside of its attention, given the module and the greenlet that runs it, where that is not transformers' attention.
    """

    name: str
    kind: str
    points: Mapping[str, Where]
    modules: Mapping[str, str]
    model_types: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    missing: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    opening: Callable[..., AbstractContextManager[Any]] | None = None


def within_attention(attn: str) -> Callable[[nn.Module, nn.Module], Callable[..., AbstractContextManager[None]]]:
    """For attention that is not in the registry of transformers: its calls are offered by a rewritten forward (`engine/source`).

    attn: its path in a block. Every point inside it needs this, so that the forward that offers is the one that is entered.
    """
    return lambda block, module: Rewritten(block.get_submodule(attn))


def scores_of_softmax(sizes: Sizes) -> View:
    """Scores as the first argument of a softmax. What is hidden stays hidden whatever is written."""

    def write(raw: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        lowest = torch.finfo(raw.dtype).min
        return new.masked_fill(raw < lowest / 2, lowest)

    return ARGUMENT.then(View(WHOLE.read, write))


def query_heads(sizes: Sizes) -> View:
    """Unfold heads."""
    return unfold(sizes.n_heads)


def kv_heads(sizes: Sizes) -> View:
    """Unfold key/value heads."""
    return unfold(sizes.n_kv_heads)


def third(number: int) -> Callable[[Sizes], View]:
    """Queries, keys or values of a projection that holds all three one after another."""
    return lambda sizes: part(number * sizes.d_model, (number + 1) * sizes.d_model).then(unfold(sizes.n_heads))


def third_of_each_head(number: int) -> Callable[[Sizes], View]:
    """Queries, keys or values of a projection that holds all three head by head."""
    return lambda sizes: unfold(sizes.n_heads).then(part(number * sizes.d_head, (number + 1) * sizes.d_head))


def heads_first(sizes: Sizes) -> View:
    """Heads of a (batch, head, pos, d_head) tensor, seen as (batch, pos, head, d_head)."""
    return View(lambda raw: raw.transpose(1, 2), lambda raw, new: new.transpose(1, 2))


def _write_shared(raw: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    return raw.copy_(new)


def shared(sizes: Sizes) -> View:
    """What a module's input is, written in place, because others read the same tensor: the residual stream at the input of a norm, for one."""
    return View(WHOLE.read, _write_shared)


def heads_of(entry: str) -> Callable[[Any], View]:
    """Unfold heads, of which a config says in `entry` (`vision_config.num_attention_heads`) how many there are."""
    number = attrgetter(entry)
    return lambda config: unfold(number(config))


def attention(name: str, path: str, projections: tuple[str, str, str], output: str, heads: Callable[[Any], View]) -> dict[str, Where]:
    """q, k, v, scores, pattern and z of attention at `path` with separate `projections` inside it; `output`: path of the projection after them."""
    return {
        **{f"{name}.{point}": Where(f"{path}.{own}", "output", heads) for point, own in zip("qkv", projections, strict=True)},
        f"{name}.scores": Where(path, "scores"),
        f"{name}.pattern": Where(path, "pattern"),
        f"{name}.z": Where(output, "input", heads),
    }


def rows_of(number: int) -> Callable[[Any], View]:
    """Queries, keys or values of a projection that holds all three one after another, by the entries most configs have."""

    def view(config: Any) -> View:
        return part(number * config.hidden_size, (number + 1) * config.hidden_size).then(unfold(config.num_attention_heads))

    return view


def element(number: int) -> Callable[[Any], View]:
    """One element of a tuple that a module returns."""
    return lambda config: _nth(number)


def flat(config: Any) -> View:
    """A map of one cell (batch, channel, 1, 1), seen as (batch, channel)."""
    return View(lambda raw: raw.flatten(1), lambda raw, new: new.reshape(raw.shape))


def argument(number: int) -> Callable[[Any], View]:
    """One argument of a call, given by position; with event `inputs`."""
    return lambda config: View(lambda raw: raw[0], lambda raw, new: (new, raw[1])).then(_nth(number))


def _nth(number: int) -> View:
    return View(lambda raw: raw[number], lambda raw, new: (*raw[:number], new, *raw[number + 1 :]))
