"""The parts of a decoder as a graph: which part reads what which other parts wrote, and the model run with only some of these connections.

Every head and MLP reads the sum of what all earlier parts wrote to the residual stream. A *sender* is a part that writes: the embeddings, a head
(`layers[i].attn.z[head=h]`), an MLP (`layers[i].mlp.output`). A *receiver* is what reads by itself: the queries, keys or values of a head
(`layers[i].attn.q[head=h]`), the input of an MLP, the logits. An edge joins a sender to a receiver that comes after it. Senders are listed in
causal order, so that receivers that read the stream at one place (a `Reading`) see the first so many of them. Where attention and MLP stand side by
side, the MLP does not read the heads beside it; where key-value heads are shared, a receiver belongs to all heads that use it.

Tensors over senders or receivers are (batch, sender or receiver, pos, d_model).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, final

import numpy as np
import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from cutaway.address import Address
from cutaway.engine.place import Intervention
from cutaway.engine.site import View
from cutaway.errors import LayoutError
from cutaway.models import adapted
from cutaway.models.language import LanguageModel
from cutaway.models.tokens import Tokens

EMBED = "embed"
LOGITS = "logits"


@final
@dataclass(frozen=True)
class Reading:
    """Receivers that read the residual stream at one place. layer: n_layers for the logits. point: the stream there.

    before: the first so many senders have written to it. first: number of its first receiver. normed: where what they read has passed the norm.
    """

    layer: int
    point: str
    before: int
    first: int
    receivers: tuple[Address, ...]
    normed: str

    @property
    def stop(self) -> int:
        """One past the number of the last receiver."""
        return self.first + len(self.receivers)


@final
@dataclass(frozen=True)
class Written:
    """What a run wrote. streams: the residual stream at every reading, (batch, pos, d_model). senders: (batch, sender, pos, d_model)."""

    streams: tuple[Tensor, ...]
    senders: Tensor

    def mean(self, weight: Tensor | None = None) -> Written:
        """The same at the mean over tokens, one token of one row. weight (batch, pos): of each token; all alike without it."""
        batch, pos = self.streams[0].shape[:2]
        share = torch.ones(batch, pos).to(self.senders) if weight is None else weight.to(self.senders)
        share = share / share.sum()
        streams = tuple(einsum(s, share, "b t d, b t -> d")[None, None] for s in self.streams)
        return Written(streams, einsum(self.senders, share, "b s t d, b t -> s d")[None, :, None])

    def silenced(self, readings: tuple[Reading, ...]) -> Written:
        """The same with every sender at zero: what is left of the stream is what no part wrote, such as biases."""
        left = [stream - self.senders[:, : at.before].sum(1) for stream, at in zip(self.streams, readings, strict=True)]
        return Written(tuple(left), torch.zeros_like(self.senders))


@final
@dataclass(frozen=True)
class _Way:
    """From a normed stream to queries, keys or values: a projection, its weight (d_model, head, d_head), and the norm after it, if there is one."""

    module: nn.Module
    weight: Tensor
    view: View
    norm: nn.Module | None = None

    def passed(self, projected: Tensor) -> Tensor:
        """Projected heads (batch, pos, head, d_head) after their norm."""
        assert self.norm is not None
        # the view says in what order of axes the norm takes them
        found: Tensor = self.view.read(self.norm.forward(self.view.write(projected, projected)))
        return found

    @property
    def mixes(self) -> bool:
        """Whether the norm is over all heads together."""
        together = self.weight.flatten(1)[None]
        return bool(self.view.read(together).ndim > together.ndim)


@final
class Edges:
    """Senders, receivers and edges of a model; what parts write; what receivers make of a stream; the model with only some edges.

    Raises LayoutError for a model whose blocks have no heads, or read the stream in a way that is not known.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self.lm, self.family, self.sizes = lm, lm.family, lm.sizes
        if not lm.sizes.n_heads or not lm.family.attn:
            raise LayoutError(f"Edges between the parts of {lm.name}.", "blocks without attention heads", "a transformer")
        points = set(lm.points())
        self.has_mlp = "layers[0].mlp.output" in points
        self.mlp_follows = "layers[0].mid" in points
        """Whether the MLP reads what attention of the same layer wrote."""
        layers = range(self.sizes.n_layers)
        self.senders: tuple[str, ...] = (EMBED, *(name for i in layers for name in self.written_in(i)))
        self.readings: tuple[Reading, ...] = tuple(self._every_reading())
        self.receivers: tuple[str, ...] = tuple(str(receiver) for at in self.readings for receiver in at.receivers)

    def _every_reading(self) -> Iterator[Reading]:
        n, heads, first = self.sizes.n_layers, self.sizes.n_heads, 0
        for layer in range(n):
            before = 1 + layer * (heads + self.has_mlp)
            attending = (("q", heads), ("k", self.sizes.n_kv_heads), ("v", self.sizes.n_kv_heads))
            into = tuple(Address(f"layers[{layer}].attn.{name}", head=h) for name, count in attending for h in range(count))
            yield Reading(layer, f"layers[{layer}].input", before, first, into, f"layers[{layer}].attn.input")
            first += len(into)
            if self.has_mlp:
                point, mlp = f"layers[{layer}].{'mid' if self.mlp_follows else 'input'}", f"layers[{layer}].mlp.input"
                yield Reading(layer, point, before + heads * self.mlp_follows, first, (Address(mlp),), mlp)
                first += 1
        yield Reading(n, f"layers[{n - 1}].output", len(self.senders), first, (Address(LOGITS),), "")

    def written_in(self, layer: int) -> tuple[str, ...]:
        """Senders of a layer: its heads, then its MLP; of layer -1: the embeddings."""
        if layer < 0:
            return (EMBED,)
        return (*(f"layers[{layer}].attn.z[head={h}]" for h in range(self.sizes.n_heads)), *[f"layers[{layer}].mlp.output"] * self.has_mlp)

    @cached_property
    def pairs(self) -> np.ndarray:
        """(edge, 2): sender and receiver of every edge, receivers in order."""
        rows = [(s, r) for at in self.readings for r in range(at.first, at.stop) for s in range(at.before)]
        return np.array(rows, dtype=np.int64)

    @cached_property
    def wiring(self) -> np.ndarray:
        """(n, 2): receiver, and a sender it is an input of."""
        group = self.sizes.n_heads // max(1, self.sizes.n_kv_heads)
        numbers, found = {name: i for i, name in enumerate(self.senders)}, []
        for at in self.readings[:-1]:
            for r, receiver in enumerate(at.receivers, at.first):
                if receiver.head is None:
                    owners = [f"layers[{at.layer}].mlp.output"]
                else:
                    shared = range(receiver.head, receiver.head + 1)
                    if not receiver.point.endswith(".q"):
                        shared = range(receiver.head * group, (receiver.head + 1) * group)
                    owners = [f"layers[{at.layer}].attn.z[head={h}]" for h in shared]
                found += [(r, numbers[owner]) for owner in owners]
        return np.array(found, dtype=np.int64).reshape(-1, 2)

    def groups(self) -> dict[str, tuple[int, int]]:
        """Points that hold what senders write -> first sender, one past the last: the embeddings, each layer's heads together, each MLP."""
        found, per_layer = {"layers[0].input": (0, 1)}, self.sizes.n_heads + self.has_mlp
        for layer in range(self.sizes.n_layers):
            first = 1 + layer * per_layer
            found[f"layers[{layer}].attn.z"] = (first, first + self.sizes.n_heads)
            if self.has_mlp:
                found[f"layers[{layer}].mlp.output"] = (first + self.sizes.n_heads, first + per_layer)
        return found

    # What parts write

    def record(self, tokens: Tokens) -> Written:
        """What a run on these tokens writes, and the stream it makes."""
        points = [at.point for at in self.readings]
        for i in range(self.sizes.n_layers):
            points += [f"layers[{i}].attn.z", *self._raw(i), *[f"layers[{i}].mlp.output"] * self.has_mlp]
        seen = self.lm.run(tokens, read=list(dict.fromkeys(points)))
        parts = [seen["layers[0].input"][:, None]]
        for i in range(self.sizes.n_layers):
            parts.append(self.heads(i, seen[f"layers[{i}].attn.z"], *(seen[point] for point in self._raw(i))))
            if self.has_mlp:
                parts.append(seen[f"layers[{i}].mlp.output"][:, None])
        return Written(tuple(seen[at.point] for at in self.readings), torch.cat(parts, 1))

    def heads(self, layer: int, z: Tensor, raw: Tensor | None = None) -> Tensor:
        """What each head writes (batch, head, pos, d_model), from z (batch, pos, head, d_head).

        raw: the output projection's output, where a norm follows it (`Family.attn_norm`): a head's share of what the norm makes of all heads
        together.
        """
        found: Tensor = einsum(z, self.lm.head_writes(layer).to(z.dtype), "b t h e, h e d -> b h t d")
        if raw is None:
            return found
        norm = self.lm.part(f"{self.family.layers}.{layer}.{self.family.attn_norm}")
        scaled = raw * norm.forward(torch.ones_like(raw[:1, :1]))
        made = norm.forward(raw)
        factor = (made * scaled).sum(-1, keepdim=True) / scaled.square().sum(-1, keepdim=True)
        return found * (factor * norm.forward(torch.ones_like(raw[:1, :1])))[:, None]

    def _raw(self, layer: int) -> list[str]:
        family = self.family
        return [f"{family.layers}.{layer}.{family.attn}.{family.projection}.output"] if family.attn_norm else []

    # What receivers make of the stream

    @cached_property
    def _norms(self) -> dict[bool, str]:
        """Whether of the MLP -> path in a block of the norm before it; empty for none. Found by what equals what, in a run on three tokens."""
        block = f"{self.family.layers}.0"
        children = [name for name, _ in self.lm.part(block).named_children()]
        reads = [at for at in self.readings if at.layer == 0]
        seen = self._three_tokens([*(f"{block}.{name}.output" for name in children), *(p for at in reads for p in (at.point, at.normed))])
        found = {}
        for at in reads:
            target = seen[at.normed]
            made = {"": seen[at.point], **{name: seen[f"{block}.{name}.output"] for name in children}}
            same = [
                n
                for n, v in made.items()
                if isinstance(v, Tensor) and v.numel() == target.numel() and torch.equal(v.flatten(), target.flatten())
            ]
            if not same:
                works = "a model whose attention and MLP read the residual stream through one norm, or none"
                raise LayoutError(f"Edges into {at.normed} of {self.lm.name}.", "a way from the stream to it that is not known", works)
            found["mlp" in at.normed] = same[0]
        return found

    @cached_property
    def _arrivals(self) -> tuple[str, ...]:
        """Queries, keys and values in the order in which a block comes to them."""
        found: list[str] = []

        def come(value: Tensor, name: str) -> Tensor:
            found.append(name)
            return value

        self._three_tokens(["layers[0].attn.output"], [(f"layers[0].attn.{name}", partial(come, name=name)) for name in "qkv"])
        return tuple(found)

    def _three_tokens(self, read: list[str], edits: Sequence[Intervention] = ()) -> Mapping[Address | str, Any]:
        ids = torch.arange(3)[None]
        return self.lm.run(Tokens(ids, torch.ones_like(ids), (3,), ({},)), read=read, edits=edits)

    def norm(self, at: Reading) -> Callable[[Tensor], Tensor]:
        """What the stream passes before receivers project it; the last reading is given to the model as it is."""
        path = "" if at.layer == self.sizes.n_layers else self._norms["mlp" in at.normed]
        # past any hooks, because the module may be watched in the run this is part of
        return self.lm.part(f"{self.family.layers}.{at.layer}.{path}").forward if path else nn.Identity().forward

    def project(self, at: Reading, point: str, normed: Tensor) -> Tensor:
        """What heads' queries, keys or values are made of normed streams, one for each: (batch, head, pos, d_model) -> (batch, head, pos,
        d_head)."""
        way = self._way(at.layer, point)
        if way.norm is None:
            made: Tensor = einsum(normed, way.weight.to(normed.dtype), "b h t d, d h e -> b h t e")
            bias = getattr(way.module, "bias", None)
            return made if bias is None else made + rearrange(way.view.read(bias.detach()[None]), "1 h e -> h 1 e")
        heads = [
            way.passed(way.module.forward(normed[:, h]).unflatten(-1, (-1, self.sizes.d_head)))[:, :, h] for h in range(normed.shape[1])
        ]
        return torch.stack(heads, 1)

    def _carried_back(self, at: Reading, point: str, normed: Tensor, arriving: Tensor) -> Tensor:
        """Gradients at normed streams, one for each head (head, batch, pos, d_model), from those that arrive (batch, pos, head, d_head)."""
        way = self._way(at.layer, point)
        weight = way.weight.to(arriving.dtype)
        if way.norm is None:
            return einsum(arriving, weight, "b t h e, d h e -> h b t d")
        with torch.enable_grad():
            before = way.module.forward(normed.detach()).unflatten(-1, (-1, self.sizes.d_head)).requires_grad_()
            made = way.passed(before)
        if not way.mixes:
            return einsum(torch.autograd.grad(made, before, arriving)[0], weight, "b t h e, d h e -> h b t d")
        alone = torch.eye(arriving.shape[2]).to(arriving)[:, None, None, :, None] * arriving
        return einsum(torch.autograd.grad(made, before, alone, is_grads_batched=True)[0], weight, "r b t h e, d h e -> r b t d")

    def _way(self, layer: int, point: str) -> _Way:
        where = self.family.points[point.replace(f"[{layer}]", "[i]", 1)]
        path, view = where.path.format(i=layer), where.view(self.sizes)
        if not path.endswith("_norm"):
            module = self.lm.part(path)
            return _Way(module, view.read(adapted.matrix(module, self.sizes.d_model)), view)
        module = self.lm.part(path.replace("_norm", "_proj"))
        return _Way(module, adapted.matrix(module, self.sizes.d_model).unflatten(-1, (-1, self.sizes.d_head)), view, self.lm.part(path))

    def points(self, at: Reading) -> dict[str, slice]:
        """Where in the model what receivers read arrives -> which of the reading's receivers: queries, keys and values, in the order in which
        the model comes to them; an MLP's input; the stream."""
        if at.layer == self.sizes.n_layers:
            return {at.point: slice(0, 1)}
        names = [r.point for r in at.receivers]
        order = names[:1] if at.receivers[0].head is None else [f"layers[{at.layer}].attn.{name}" for name in self._arrivals]
        return {name: slice(names.index(name), names.index(name) + names.count(name)) for name in order}

    def made(self, at: Reading, streams: Tensor) -> dict[str, Tensor]:
        """What arrives at each of `points`, from one stream a receiver (batch, receiver, pos, d_model): (batch, receiver, pos, ...)."""
        normed = self.norm(at)(streams)
        return {p: self.project(at, p, normed[:, part]) if ".attn." in p else normed[:, part] for p, part in self.points(at).items()}

    def seen(self, at: Reading) -> tuple[str, ...]:
        """What `slopes` needs to have seen: where the stream is read, then each of `points`.

        Without a norm it is seen where attention or MLP reads it: a gradient at the stream itself is also that of all who read it later.
        """
        bare = at.layer < self.sizes.n_layers and not self._norms["mlp" in at.normed]
        return (at.normed if bare else at.point, *self.points(at))

    def slopes(self, at: Reading, stream: Tensor, arriving: Mapping[Address | str, Tensor]) -> Tensor:
        """Gradients with respect to the stream as each receiver reads it (batch, receiver, pos, d_model).

        stream (batch, pos, d_model): where they are taken, the first of `seen`. arriving: gradients at each of `points`, in the shape of the
        point.
        """
        if at.layer == self.sizes.n_layers:
            return arriving[at.point][:, None]
        with torch.enable_grad():
            here = stream.detach().requires_grad_()
            normed = self.norm(at)(here)
        back = stream.new_empty(len(at.receivers), *stream.shape)
        for point, part in self.points(at).items():
            value = arriving[point]
            back[part] = self._carried_back(at, point, normed, value) if ".attn." in point else value.reshape(stream.shape)
        # one backward for all receivers: they read one stream
        found: Tensor = torch.autograd.grad(normed, here, back, is_grads_batched=True)[0]
        return found.transpose(0, 1)

    # The model with only some edges

    def run(self, tokens: Tokens, keep: Tensor, instead: Written) -> Tensor:
        """Logits at the last token (batch, vocab) where every receiver reads kept senders as they are in this run, others from `instead`.

        keep: 1 keeps an edge, 0 cuts it, numbers between mix: (sender, receiver), or (sender, receiver, pos) to tell tokens apart. Gradients flow
        to `keep` if they are on. With all edges it is the model's run, with none that of `instead`.
        """
        lm, heads = self.lm, self.sizes.n_heads
        lm.ran(len(tokens))
        written: list[Tensor] = []
        with lm.trace(tokens, **self.last_only()) as run:
            for number, at in enumerate(self.readings):
                ran = 1 + at.layer * (heads + self.has_mlp) + heads * (".mlp." in at.normed)
                self._collect(written, ran, instead)
                streams = self._mixed(at, keep, written, instead.streams[number])
                for point, value in self.made(at, streams).items():
                    site = lm.site(point)
                    shaped = rearrange(value, "b h t e -> b t h e") if ".attn." in point else value[:, 0]
                    run.write(site, shaped.reshape(run.read(site).shape))
        return lm.last(run.output)

    def _mixed(self, at: Reading, keep: Tensor, written: list[Tensor], stream: Tensor) -> Tensor:
        """The stream as each receiver of a reading reads it (batch, receiver, pos, d_model)."""
        senders = torch.cat(written, 1)[:, : at.before]
        gates = keep[: at.before, at.first : at.stop].to(senders)
        if gates.ndim == 3:
            mixed = einsum(gates, senders, "s r t, b s t d -> b r t d")
        else:
            mixed = (gates.T @ senders.flatten(2)).unflatten(2, senders.shape[2:])
        return mixed + stream[:, None]

    def _collect(self, written: list[Tensor], upto: int, instead: Written) -> None:
        """Read from the open trace what the first so many senders write, less what they write in `instead`."""
        while (number := sum(part.shape[1] for part in written)) < upto:
            layer, within = divmod(number - 1, self.sizes.n_heads + self.has_mlp)
            if not number:
                found = self._value("layers[0].input")[:, None]
            elif within:
                found = self._value(f"layers[{layer}].mlp.output")[:, None]
            else:
                found = self.heads(layer, *(self._value(p) for p in (f"layers[{layer}].attn.z", *self._raw(layer))))
            written.append(found - instead.senders[:, number : number + found.shape[1]])

    def _value(self, point: str) -> Tensor:
        found: Tensor = self.lm.opened(point).read(self.lm.site(point))
        return found

    def last_only(self) -> dict[str, Any]:
        """Options for a forward of which only the logits at the last token are of use."""
        return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(type(self.lm.module).forward).parameters else {}
