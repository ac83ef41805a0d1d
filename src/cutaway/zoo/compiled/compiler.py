"""A program's weights, and the edges that its variables travel along.

Every variable owns directions of the residual stream: one for each of its values, or one whose length is a number. A Pick, Mean or Share is a
head and a Map or Number some units of an MLP, each in the first layer where all it reads is there. There is no normalisation.

A head's scores are SHARPNESS times what its select wants. <bos>, which holds no value, gets half of the least that is looked at, so that it
takes all attention where nothing is wanted; for a Share, as much as a word that is looked at. One ReLU unit a combination of values makes up a
Map. On a number, two units make up the slope between two neighbours where the function's value changes.

Nothing is sharper than answers need: a gradient that is exactly zero would hide an edge from every method that follows gradients. It is still
zero far from the numbers at which a function changes (`majority` after "x x x x"); there, only methods that go along a path find the edge.

Parts that are not needed read everything and write into directions of their own, which nothing else reads: one head and some units a layer at
least. They are drawn at random; what they put out depends on the text, and the answer does not depend on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor

from cutaway.errors import InputError
from cutaway.zoo.base import Attention, Block, KnownCircuit, Transformer, TransformerConfig
from cutaway.zoo.compiled.base import Indices, Map, Mean, Number, Pick, Program, Share, Tokens, Variable, table

SHARPNESS = 24.0
SCALE = 10.0
"""Logit of the answer; those of all other words are zero."""
BOS = "<bos>"
IDLE_WIDTH, IDLE_UNITS = 16, 8
CONTEXT = 16
"""Tokens that any model takes, however short its program's texts are."""

_BOS = 0
"""The direction that <bos> owns."""
_Head = Pick | Mean | Share
_Map = Map | Number


def compiled(program: Program, *, seed: int = 0) -> Transformer:
    """The model, which answers after each word as the program does, and its `circuit`. The seed draws the weights of the idle parts alone.

    Raises InputError for a Map of more than two variables, or of a number and another.
    """
    plan = _Plan(program)
    model, generator = Transformer(plan.config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        _embed(model, plan, generator)
        for layer, block in enumerate(model.blocks):
            _attention(block.attn, plan.heads[layer], plan, generator)
            _mlp(block, plan.maps[layer], plan, generator)
        for value, direction in zip(program.output.domain, plan.directions(program.output), strict=True):
            model.unembed.weight[model.vocab.index(str(value)), direction] = SCALE
    model.circuit = KnownCircuit(*plan.edges(), program.pairs)
    return model.eval()


@final
class _Plan:
    """Where everything goes: variables to directions of the residual stream and to parts of the model."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.variables = variables = _ordered(program.output)
        self._time = _schedule(variables)
        layers = range(max(self._time.values()) // 2 + 1)
        self.heads = [[v for v in variables if isinstance(v, _Head) and self._time[v] == 2 * i] for i in layers]
        self.maps = [[v for v in variables if isinstance(v, _Map) and self._time[v] == 2 * i + 1] for i in layers]
        self._start, end = dict[Variable, int](), _BOS + 1
        for variable in variables:
            self._start[variable] = end
            end += 1 if variable.numeric else len(variable.domain)
        self.idle = slice(end, end + IDLE_WIDTH)
        self.config = self._config()

    def directions(self, variable: Variable) -> list[int]:
        """The variable's own directions: one for each value, or the one of a number."""
        start = self._start[variable]
        return [start] if variable.numeric else list(range(start, start + len(variable.domain)))

    def edges(self) -> tuple[dict[str, tuple[str, ...]], frozenset[str]]:
        """Edges with the names of what they carry, and those that carry nothing that varies."""
        carried = dict[str, dict[str, bool]]()
        for variable in self.variables:
            for port, read in _reads(variable):
                edge = f"{self._sender(read)} -> {self._receiver(variable, port)}"
                name, varies = (BOS, False) if read is None else (read.name, read.varies)
                carried.setdefault(edge, {})[name] = varies
        output = self.program.output
        carried[f"{self._sender(output)} -> logits"] = {output.name: output.varies}
        return {edge: tuple(names) for edge, names in carried.items()}, frozenset(
            e for e, names in carried.items() if not any(names.values())
        )

    def _sender(self, variable: Variable | None) -> str:
        if isinstance(variable, _Head):
            return self._receiver(variable, "z")
        return f"layers[{self._time[variable] // 2}].mlp.output" if isinstance(variable, _Map) else "embed"

    def _receiver(self, variable: Variable, port: str) -> str:
        layer = self._time[variable] // 2
        if isinstance(variable, _Head):
            return f"layers[{layer}].attn.{port}[head={self.heads[layer].index(variable)}]"
        return f"layers[{layer}].mlp.{port}"

    def _config(self) -> TransformerConfig:
        words = (word for variable in self.variables if isinstance(variable, Tokens) for word in variable.words)
        widths = (max(len(_keys(head)) + 1, len(head.domain) * (not head.numeric)) for layer in self.heads for head in layer)
        return TransformerConfig(
            vocab=tuple(dict.fromkeys((BOS, *words, *map(str, self.program.output.domain)))),
            n_layers=len(self.heads),
            n_heads=1 + max(map(len, self.heads)),
            d_model=self.idle.stop,
            d_head=max([IDLE_WIDTH, *widths]),
            d_mlp=IDLE_UNITS + max(sum(len(_units(made, self)) for made in layer) for layer in self.maps),
            max_length=max(CONTEXT, 1 + max(self.program.lengths)),
            norm=False,
        )


def _ordered(variable: Variable) -> list[Variable]:
    """All variables that one is made from, each once and after its parents, and itself."""
    found = dict.fromkeys(earlier for parent in variable.parents for earlier in _ordered(parent))
    return [*found, variable]


def _schedule(variables: list[Variable]) -> dict[Variable, int]:
    """When each is there: -1 what is embedded, 2 x layer from a head, 2 x layer + 1 from an MLP."""
    found: dict[Variable, int] = {}
    for variable in variables:
        ready = max((found[parent] for parent in variable.parents), default=-1) + 1
        made = isinstance(variable, _Head | _Map)
        found[variable] = ready + (ready % 2 == isinstance(variable, _Head)) if made else -1
    return found


def _embed(model: Transformer, plan: _Plan, generator: torch.Generator) -> None:
    table, places = model.embed.weight, model.position.weight
    table[:, plan.idle] = torch.randn(table[:, plan.idle].shape, generator=generator)
    table[model.vocab.index(BOS), _BOS] = 1.0
    for variable in plan.variables:
        if isinstance(variable, Tokens):
            table[[model.vocab.index(word) for word in variable.words], plan.directions(variable)] = 1.0
        elif isinstance(variable, Indices):
            places[list(variable.domain), plan.directions(variable)] = 1.0


def _keys(head: _Head) -> tuple[Any, ...]:
    return (None,) if head.select.keys is None else head.select.keys.domain


def _reads(variable: Variable) -> Iterator[tuple[str, Variable | None]]:
    """What a variable's part reads, and where: (port, variable), None for <bos>."""
    if isinstance(variable, _Map):
        yield from (("input", read) for read in variable.of)
        if variable.of[0].numeric:
            yield "input", None
    elif isinstance(variable, _Head):
        yield from (("q", read) for read in (variable.select.queries,) if read is not None)
        yield from (("k", read) for read in (variable.select.keys, None) if read is not None or _wanted_bos(variable))
        yield "v", None if isinstance(variable, Share) else variable.of


def _wanted_bos(head: _Head) -> float:
    """How much more than any other word without a value <bos> is wanted."""
    least = 1.0 if isinstance(head, Share) else 0.5
    return least if head.select.keys is not None else least - head.select.wants(None, None)


def _attention(attn: Attention, heads: list[_Head], plan: _Plan, generator: torch.Generator) -> None:
    for head in range(attn.n_heads):
        rows = slice(head * attn.d_head, (head + 1) * attn.d_head)
        if head < len(heads):
            _head(attn, rows, heads[head], plan)
            continue
        for project in (attn.q_proj, attn.k_proj, attn.v_proj):
            project.weight[rows] = _random(project.weight[rows].shape, generator)
        attn.o_proj.weight[plan.idle, rows] = _random(attn.o_proj.weight[plan.idle, rows].shape, generator)


def _head(attn: Attention, rows: slice, made: _Head, plan: _Plan) -> None:
    """One row of keys and queries for each value of the keys, and one for <bos>."""
    select, keys, row = made.select, _keys(made), rows.start
    scale = SHARPNESS * attn.d_head**0.5
    if select.keys is None:
        attn.k_proj.bias[row] = 1.0
    else:
        attn.k_proj.weight[range(row, row + len(keys)), plan.directions(select.keys)] = 1.0
    for i, key in enumerate(keys):
        if select.queries is None:
            attn.q_proj.bias[row + i] = scale * select.wants(key, None)
        else:
            for query, direction in zip(select.queries.domain, plan.directions(select.queries), strict=True):
                attn.q_proj.weight[row + i, direction] = scale * select.wants(key, query)
    attn.k_proj.weight[row + len(keys), _BOS] = 1.0
    attn.q_proj.bias[row + len(keys)] = scale * _wanted_bos(made)
    reads = [_BOS] if isinstance(made, Share) else plan.directions(made.of)
    carried = range(row, row + len(reads))
    attn.v_proj.weight[carried, reads] = 1.0
    attn.o_proj.weight[plan.directions(made), carried] = 1.0


@final
@dataclass(frozen=True)
class _Unit:
    """A unit of an MLP, direction -> weight: what it reads and what it writes."""

    reads: dict[int, float]
    bias: float
    writes: dict[int, float]


def _mlp(block: Block, maps: list[_Map], plan: _Plan, generator: torch.Generator) -> None:
    up, down = block.mlp.up, block.mlp.down
    units = [unit for made in maps for unit in _units(made, plan)]
    for i, unit in enumerate(units):
        up.weight[i, list(unit.reads)] = torch.tensor(list(unit.reads.values()))
        up.bias[i] = unit.bias
        down.weight[list(unit.writes), i] = torch.tensor(list(unit.writes.values()))
    up.weight[len(units) :] = _random(up.weight[len(units) :].shape, generator)
    down.weight[plan.idle, len(units) :] = _random(down.weight[plan.idle, len(units) :].shape, generator)


def _units(made: _Map, plan: _Plan) -> list[_Unit]:
    """Raises InputError for what no MLP here computes."""
    if len(made.of) == 1 and made.of[0].numeric:
        return _steps(made, plan)
    if not 1 <= len(made.of) <= 2 or any(variable.numeric for variable in made.of):
        found = ", ".join(f"{variable.name} ({'a number' if variable.numeric else 'values'})" for variable in made.of)
        raise InputError(
            f"Compile {made.name}.", f"a function of {found}", "a function of one number, or of one or two variables with values"
        )
    n, units = len(made.of), list[_Unit]()
    places = [dict(zip(variable.domain, plan.directions(variable), strict=True)) for variable in made.of]
    for values, result in table(made):
        if writes := _written(made, result, plan):
            reads = Counter(place[value] for place, value in zip(places, values, strict=True))  # one variable may be read twice
            units.append(_Unit({direction: 2.0 * times for direction, times in reads.items()}, 1.0 - 2 * n, writes))
    return units


def _steps(made: _Map, plan: _Plan) -> list[_Unit]:
    """The function's value at the smallest number, then what changes from each number to the next, in a straight line. All are off at <bos>."""
    (source,) = plan.directions(made.of[0])
    rows = sorted((value, result) for (value,), result in table(made))
    units = [_Unit({_BOS: -1.0}, 1.0, _written(made, rows[0][1], plan))]
    off = 1 + max(abs(float(value)) for value, _ in rows)
    for (low, before), (high, after) in pairwise(rows):
        if before != after:
            slope = 1 / float(high - low)
            change = _written(made, after, plan)
            for direction, weight in _written(made, before, plan).items():
                change[direction] = change.get(direction, 0.0) - weight
            for sign, start in ((1, low), (-1, high)):
                reads = {source: slope, _BOS: -slope * off}
                units.append(_Unit(reads, -slope * float(start), {d: sign * weight for d, weight in change.items()}))
    return units


def _written(made: _Map, result: Any, plan: _Plan) -> dict[int, float]:
    """What stands for a value in the residual stream: direction -> length."""
    if result is None or (made.numeric and not result):
        return {}
    return {plan.directions(made)[0 if made.numeric else made.domain.index(result)]: float(result) if made.numeric else 1.0}


def _random(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator) * shape[1] ** -0.5
