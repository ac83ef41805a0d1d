"""Through which connections does the difference flow, at which places of the prompt, and from which place to which?

Position-aware edge attribution patching: estimates are summed over the tokens of a place alone, and heads have edges from place to place.

Mediator:
    edge; what a sender writes, as one receiver reads it, at each place of the prompt apart.

Search:
    gradient; one backward at the base.

Measure:
    change of the metric, first order.

Controls:
    random direction.

Method:
    A schema names places of the prompt that all pairs have; it splits every prompt into them, and each edge into one for every place.
    Edges at one place, sender s to receiver R: sum over its tokens of (s' - s) . dm/d(stream as R reads it), as in edge attribution patching.
    Edges inside a head, from queries, keys or values at one place to what the head reads (z) at another: sum over both places' tokens t' and t of
    (z*_t - z_t) . dm/dz_t, with z* what the head reads when its query at t, or its key or value at t', alone is the counterfactual's: through the
    true softmax.

Source:
    Haklay et al. 2025, arXiv 2502.04577.

Returns:
    Graph whose nodes have places (`layers[1].attn.v[head=0, pos=subject]`); score: estimated change of the metric, mean over pairs. Edges inside
    heads join a query, key or value to a z.

Does not show:
    Effects past a flat gradient. What happens inside a place is summed: a schema as fine as the behaviour has to be given.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> graph = cut.circuits.peap(lm, "induction:n=4,length=8")
    >>> "target" in graph.places and "pos=target" in graph.ranked()[0]
    True
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from einops import einsum, repeat
from torch import Tensor

from cutaway.address import Address
from cutaway.engine.place import Intervention
from cutaway.errors import PromptError
from cutaway.mediators.swap import swap
from cutaway.methods.base import Example, Started, examples
from cutaway.methods.circuits.base import Batch, against_directions, batches, slopes
from cutaway.models.edges import LOGITS, Edges
from cutaway.models.language import LanguageModel
from cutaway.progress import progress
from cutaway.results.graph import Graph
from cutaway.tasks.base import Task, find_task

_UNIT = "estimated change of the metric"
Parts = tuple[list[str], list[str], np.ndarray, np.ndarray]
"""Sources and targets of edges, their scores (pair, edge), and the variance of each score for changes in random directions (edge,)."""


def peap(lm: LanguageModel, task: Task | str, *, schema: tuple[str, ...] = (), metric: str = "logit_difference", seed: int = 0) -> Graph:
    """First-order estimate of each edge's patching effect at each place; see the module.

    schema: roles of the prompts, which become places; without it, all roles that every pair has, and where there are none, every token by its
    number (t0, t1, ...). Tokens before the first role are `before`, those after a role and before the next `after_...`, a last token of no role
    `last`; a token of two roles belongs to the one named later. metric: what is measured, a name from cutaway.metrics. seed: of the interval.
    Raises PromptError for a role that some prompt lacks, or prompts of different lengths without roles; LayoutError for a model without heads.
    """
    task = find_task(task, lm)
    started = Started(lm, "circuits.peap", task, seed, {"schema": list(schema), "metric": metric})
    edges, every = Edges(lm), examples(lm, task, metric)
    named, places = _places(every, schema)
    looking = _looking(named, places)
    found: list[tuple[tuple[int, ...], list[Parts]]] = []
    with progress("edge attribution", len(every)) as done:
        for batch in batches(edges, every):
            within = _membership([named[n] for n in batch.numbers], places).to(lm.device)
            parts = [*_at_one_place(edges, batch, within, places), *_inside_heads(edges, batch, within, places, looking)]
            found.append((batch.numbers, parts))
            done(len(batch.numbers))
    sources, targets = ([name for part in found[0][1] for name in part[i]] for i in (0, 1))
    values, variance = np.zeros((len(every), len(sources)), np.float32), np.zeros(len(sources))
    for numbers, parts in found:
        values[list(numbers)] = np.concatenate([part[2] for part in parts], 1)
        variance += np.concatenate([part[3] for part in parts])
    return Graph(
        title="Position-aware edge attribution patching",
        question="Through which connections, at which places of the prompt, does the difference between the two prompts reach the answer?",
        limits="It does not see effects past a flat gradient, nor what cancels inside a place.",
        provenance=started.provenance(),
        unit=_UNIT,
        places=places,
        **_graph(sources, targets, values, variance, seed),
    )


# Places


def _places(every: Sequence[Example], schema: Sequence[str]) -> tuple[list[list[str]], tuple[str, ...]]:
    """The place of each token of each example; all places, in the order in which they stand in most prompts."""
    spans = [example.base.spans[0] for example in every]
    shared = [role for role in spans[0] if all(role in row for row in spans)]
    missing = [role for role in schema if role not in shared]
    if missing:
        raise PromptError(f"A schema with {missing[0]!r}.", f"prompts that all have the roles {', '.join(shared) or 'none'}", "one of them")
    roles = list(schema) or shared
    if not roles and len({example.n_tokens for example in every}) > 1:
        raise PromptError("Places of prompts without roles.", "prompts of different lengths", "prompts with roles, or of one length")
    named = [_named(row, example.n_tokens, roles) for row, example in zip(spans, every, strict=True)]
    first: dict[str, list[float]] = {}
    for row in named:
        for name in dict.fromkeys(row):
            first.setdefault(name, []).append(row.index(name) / len(row))
    return named, tuple(sorted(first, key=lambda name: float(np.mean(first[name]))))


def _named(spans: dict[str, tuple[int, int]], length: int, roles: Sequence[str]) -> list[str]:
    if not roles:
        return [f"t{i}" for i in range(length)]
    own: list[str | None] = [None] * length
    for role in roles:
        for i in range(*spans[role]):
            own[i] = role
    found, gap = [], "before"
    for name in own:
        gap = f"after_{name}" if name is not None else gap
        found.append(gap if name is None else name)
    return found if own[-1] is not None else [*found[:-1], "last"]


def _looking(named: Sequence[Sequence[str]], places: Sequence[str]) -> list[tuple[int, int]]:
    """(place that is read, place that reads) by number, wherever in some prompt the one has a token no later than one of the other."""
    ends = [({name: row.index(name) for name in row}, {name: i for i, name in enumerate(row)}) for row in named]
    numbers = range(len(places))
    here = [(places[x], places[y], x, y) for x in numbers for y in numbers]
    return [(x, y) for a, b, x, y in here if any(a in first and b in last and first[a] <= last[b] for first, last in ends)]


def _membership(named: Sequence[Sequence[str]], places: Sequence[str]) -> Tensor:
    """(batch, place, pos): 1 where a token belongs to a place."""
    return torch.tensor([[[float(name == place) for name in row] for place in places] for row in named])


# Edges


def _at_one_place(edges: Edges, batch: Batch, within: Tensor, places: Sequence[str]) -> Iterator[Parts]:
    change = edges.record(batch.counterfactual).senders - edges.record(batch.base).senders
    for _, at, slope in slopes(edges, batch):
        changed = change[:, : at.before]
        product = einsum(slope, changed, "b r t d, b s t d -> b r s t")
        noise = einsum(slope.square().sum(-1), changed.square().sum(-1), "b r t, b s t -> b r s t") / slope.shape[-1]
        chosen = slice(None)
        if at.layer == edges.sizes.n_layers:
            chosen = slice(-1, None)
        by_place = einsum(product[..., chosen], within[..., chosen].to(product), "b r s t, b p t -> b r s p")
        spread = einsum(noise[..., chosen], within[..., chosen].to(noise), "b r s t, b p t -> r s p")
        names = [(s, str(r), p) for r in at.receivers for s in edges.senders[: at.before] for p in places]
        yield [_at(s, p) for s, _, p in names], [_at(r, p) for _, r, p in names], _flat(by_place), spread.flatten().double().cpu().numpy()


def _inside_heads(edges: Edges, batch: Batch, within: Tensor, places: Sequence[str], looking: Sequence[tuple[int, int]]) -> Iterator[Parts]:
    """From queries to z at one place, from keys and values to z between any two."""
    lm, layers = edges.lm, range(edges.sizes.n_layers)
    base, there, crossed = _attention(edges, batch)
    z_points = [f"layers[{i}].attn.z" for i in layers]
    _, slope = lm.gradients(batch.base, of=lambda out: batch.score(lm.last(out)), at=z_points, **edges.last_only())
    group = edges.sizes.n_heads // edges.sizes.n_kv_heads
    for i in layers:
        at = f"layers[{i}].attn"
        v, other_v = (repeat(run[f"{at}.v"], "b k h e -> b (h g) k e", g=group) for run in (base, there))
        g = slope[f"{at}.z"].transpose(1, 2)
        scores, pattern = base[f"{at}.scores"], base[f"{at}.pattern"]
        read = einsum(g, v, "b h q e, b h k e -> b h q k")
        by_value = pattern * einsum(g, other_v - v, "b h q e, b h k e -> b h q k")
        by_key = torch.zeros_like(pattern)
        for k in range(pattern.shape[-1]):
            changed = scores.clone()
            changed[..., k] = crossed["k"][f"{at}.scores"][..., k]
            by_key[..., k] = ((changed.softmax(-1) - pattern) * read).sum(-1)
        by_query = ((crossed["q"][f"{at}.scores"].softmax(-1) - pattern) * read).sum(-1)
        own = within.to(pattern)
        heads = range(edges.sizes.n_heads)
        found = _flat(einsum(by_query, own, "b h q, b p q -> b h p"))
        names = [(_at(f"{at}.q[head={h}]", p), _at(f"{at}.z[head={h}]", p)) for h in heads for p in places]
        yield [a for a, _ in names], [b for _, b in names], found, np.zeros(len(names))
        for kind, part in (("k", by_key), ("v", by_value)):
            by_place = einsum(part, own, own, "b h q k, b x k, b y q -> b h x y")
            found = _flat(by_place[:, :, [x for x, _ in looking], [y for _, y in looking]])
            named = [(f"{at}.{kind}[head={h // group}]", f"{at}.z[head={h}]") for h in heads]
            names = [(_at(a, places[x]), _at(b, places[y])) for a, b in named for x, y in looking]
            yield [a for a, _ in names], [b for _, b in names], found, np.zeros(len(names))


def _attention(edges: Edges, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Inside of attention: of the base, of the counterfactual, and scores of the base with all queries, or all keys, of the counterfactual.

    The last by one forward each: the pattern is put back after the scores were read, so that the next layer finds what it finds in the base.
    """
    layers = range(edges.sizes.n_layers)

    def seen(side: object, names: str, edits: Sequence[Intervention] = ()) -> dict[str, Tensor]:
        points = [f"layers[{i}].attn.{name}" for i in layers for name in names.split()]
        run = edges.lm.run(side, edits=edits, read=points)
        return {point: run[point] for point in points}

    base, there = seen(batch.base, "v scores pattern"), seen(batch.counterfactual, "q k v")
    crossed = {}
    for name in "qk":
        edits: list[Intervention] = []
        for i in layers:
            at = f"layers[{i}].attn"
            edits += [(f"{at}.{name}", swap(there[f"{at}.{name}"])), (f"{at}.pattern", swap(base[f"{at}.pattern"]))]
        crossed[name] = seen(batch.base, "scores", edits)
    return base, there, crossed


def _at(name: str, place: str) -> str:
    return name if name == LOGITS else str(Address.parse(name).at(pos=place))


def _flat(values: Tensor) -> np.ndarray:
    found: np.ndarray = values.flatten(1).double().cpu().numpy()
    return found


def _graph(sources: list[str], targets: list[str], values: np.ndarray, variance: np.ndarray, seed: int) -> dict[str, Any]:
    """Control, nodes and edges, as fields of a Graph; edges that lead nowhere, such as to what no later token reads, are left out."""
    best = int(np.where(variance > 0, np.abs(values.mean(0)), -1).argmax())
    control = against_directions(f"{sources[best]} -> {targets[best]}", values[:, best], float(variance[best]), _UNIT, seed)
    wired = {(name, name.replace(".mlp.input", ".mlp.output")) for name in targets if ".mlp.input" in name}
    ends = [*zip(sources, targets, strict=True), *sorted(wired)]
    scores = np.concatenate([values.mean(0).astype(float), np.full(len(wired), np.nan)])
    use, count = np.ones(len(ends), bool), -1
    while count != use.sum():
        count = int(use.sum())
        read = {LOGITS, *(source for (source, _), used in zip(ends, use, strict=True) if used)}
        use &= [target in read for _, target in ends]
    left = [end for end, used in zip(ends, use, strict=True) if used]
    nodes = tuple(dict.fromkeys(name for end in left for name in end))
    numbers = {name: i for i, name in enumerate(nodes)}
    joined = np.array([(numbers[a], numbers[b]) for a, b in left])
    kept = np.ones(len(left), bool)
    return {"controls": (control,), "nodes": nodes, "sources": joined[:, 0], "targets": joined[:, 1], "scores": scores[use], "kept": kept}
