"""From which earlier parts is what each part reads mostly made up?

Information flow routes: edges by how near what the sender wrote is to the whole that the receiver reads. No counterfactual, no gradient, one
forward.

Mediator:
    edge; what a sender writes, as one receiver reads it, all tokens together.

Search:
    reading; nothing is changed.

Measure:
    share of what a receiver reads, not of the answer.

Controls:
    random direction.

Method:
    With x the residual stream as a receiver reads it and s what a sender wrote into it, proximity = max(|x|_1 - |x - s|_1, 0), and the importance
    of the edge is its proximity over the sum of those of all senders; the mean over tokens, for the logits at the last token. Receivers that read
    the stream at one place (queries, keys and values of all heads of a layer) have the same scores.

Source:
    Ferrando and Voita 2024, arXiv 2403.00824; as edges of heads and MLPs in MIB, Mueller et al. 2025, arXiv 2504.13151.

Returns:
    Graph of all edges, tokens not told apart; score in [0, 1]: share of what the receiver reads, mean over pairs (their bases alone).

Does not show:
    What a connection does for the answer: a part may read much of what it does not use.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> graph = cut.circuits.flow_routes(lm, "induction:n=4,length=8")
    >>> graph.score("embed -> layers[0].attn.q[head=0]") > 0.99
    True
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cutaway.methods.base import Started, examples, same_length_noise
from cutaway.methods.circuits.base import Batch, batches, parts_of_graph
from cutaway.metrics.bootstrap import bootstrap, spread
from cutaway.models.edges import Edges, Reading
from cutaway.models.language import LanguageModel
from cutaway.progress import progress
from cutaway.results.base import Control
from cutaway.results.graph import Graph
from cutaway.tasks.base import Task, find_task

_DRAWS = 20
_UNIT = "share of what the receiver reads"


def flow_routes(lm: LanguageModel, task: Task | str, *, metric: str = "logit_difference", seed: int = 0) -> Graph:
    """Share that each sender has in what each receiver reads; see the module.

    metric: of the pairs that are run; it does not change the scores. seed: of the control and the interval. Raises PromptError, LayoutError for a
    model without heads.
    """
    task = find_task(task, lm)
    started = Started(lm, "circuits.flow_routes", task, seed, {"metric": metric})
    edges, every = Edges(lm), examples(lm, task, metric)
    together = batches(edges, every)
    values = np.zeros((len(every), len(edges.pairs)), dtype=np.float32)
    with progress("flow routes", len(every)) as done:
        for batch in together:
            written = edges.record(batch.base)
            shares = [_shares(at, x, written.senders[:, : at.before], edges) for at, x in zip(edges.readings, written.streams, strict=True)]
            values[list(batch.numbers)] = torch.cat(
                [s.repeat(1, len(at.receivers)) for at, s in zip(edges.readings, shares, strict=True)], 1
            ).cpu()
            done(len(batch.numbers))
    return Graph(
        title="Information flow routes",
        question="From which earlier parts is what each part reads mostly made up?",
        limits="It does not show what a connection does for the answer: a part may read much of what it does not use.",
        provenance=started.provenance(),
        controls=(_control(edges, together, values, seed),),
        unit=_UNIT,
        **parts_of_graph(edges, values.mean(0)),
    )


def _proximity(stream: Tensor, written: Tensor) -> Tensor:
    """(batch, pos, d_model) and (batch, sender, pos, d_model) -> (batch, sender, pos)."""
    whole = stream[:, None]
    return (whole.abs().sum(-1) - (whole - written).abs().sum(-1)).clamp(min=0)


def _shares(at: Reading, stream: Tensor, written: Tensor, edges: Edges) -> Tensor:
    """Importance of the senders before a reading, (batch, sender)."""
    last = slice(-1, None) if at.layer == edges.sizes.n_layers else slice(None)
    near = _proximity(stream[:, last], written[:, :, last])
    return (near / near.sum(1, keepdim=True).clamp(min=torch.finfo(near.dtype).tiny)).mean(-1)


def _control(edges: Edges, together: list[Batch], values: np.ndarray, seed: int) -> Control:
    """The largest share among edges with a choice of senders, against writing as much in random directions."""
    generator = torch.Generator().manual_seed(seed)
    choice = edges.pairs[:, 1] >= next(at.first for at in edges.readings if at.before > 1)
    best = int(np.where(choice, values.mean(0), -1).argmax())
    sender, receiver = (int(i) for i in edges.pairs[best])
    number, at = next((i, at) for i, at in enumerate(edges.readings) if at.first <= receiver < at.stop)
    drawn = np.zeros(_DRAWS)
    for batch in together:
        written = edges.record(batch.base)
        for draw in range(_DRAWS):
            there = written.senders[:, : at.before].clone()
            there[:, sender] = same_length_noise(there[:, sender], generator)
            drawn[draw] += float(_shares(at, written.streams[number], there, edges)[:, sender].sum()) / len(values)
    return Control(
        name="random direction",
        says=f"The share of {edges.senders[sender]} in what {edges.receivers[receiver]} reads, had it written as much in random directions "
        "(range of draws).",
        unit=_UNIT,
        found=bootstrap(values[:, best].astype(float), seed=seed),
        trivial=spread(np.nan_to_num(drawn)),
    )
