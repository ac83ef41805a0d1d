"""Which few connections are enough for the model's answer, found by cutting all the others at once?

A gate on every edge is trained: the model must say the same with what is left, and every open gate costs.

Mediator:
    edge; what a sender writes, as one receiver reads it, all tokens together.

Search:
    gates; one on each edge, trained together.

Measure:
    divergence of what is left from the model; faithfulness.

Controls:
    random circuits.

Method:
    Each receiver reads s' + g (s - s') of each sender, s what the sender writes in this very run, s' on the counterfactual's side, g the edge's
    gate. Minimised over the gates: KL(model || gated model) at the last token, mean over pairs, + penalty x number of gates not at 0. Adam; one
    batch a step. The circuit is the edges whose gate ends above 1/2, pruned; the score of an edge is the gate's worth, sigmoid of its parameter
    (clamp: the gate).

Source:
    Edges as gates: Bhaskar et al. 2024, arXiv 2406.16778; Li and Janson 2024 (optimal ablation, uniform gradient sampling), arXiv 2409.09951;
    hard concrete gates: Louizos et al. 2018, arXiv 1712.01312.

Returns:
    Graph of all edges, tokens not told apart, the circuit kept; score in [0, 1].

Does not show:
    Edges that another can stand in for: one of the two is enough, and either may be kept. The circuit is held against the prompts it was trained
    on.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> graph = cut.circuits.mask(lm, "induction:n=4,length=8", steps=60)
    >>> 0 < len(graph.circuit()) < len(graph.scored)
    True
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cutaway.errors import InputError
from cutaway.mediators.gate import Clamp, Gates, HardConcrete, Sigmoid
from cutaway.methods.base import Started, examples
from cutaway.methods.circuits.base import Batch, batches, keeping, measured, parts_of_graph, shuffled
from cutaway.metrics.bootstrap import bootstrap, spread
from cutaway.models.edges import Edges, Written
from cutaway.models.language import LanguageModel
from cutaway.progress import progress
from cutaway.results.base import Control
from cutaway.results.graph import Graph
from cutaway.tasks.base import Task, find_task

_DRAWS = 10
_ROOM = 2**26
"""Bytes of what all senders of a batch write: gradients need many times as much."""
GATES: dict[str, Callable[[tuple[int, ...]], Gates]] = {"hard_concrete": HardConcrete, "sigmoid": Sigmoid, "clamp": Clamp}


def mask(
    lm: LanguageModel,
    task: Task | str,
    *,
    gates: Literal["hard_concrete", "sigmoid", "clamp"] = "hard_concrete",
    steps: int = 150,
    penalty: float = 1e-3,
    rate: float = 0.1,
    metric: str = "logit_difference",
    seed: int = 0,
) -> Graph:
    """A trained gate on each edge; see the module.

    gates: their parametrisation (`mediators/gate.py`). steps: of the optimizer. penalty: nats that an open gate costs. rate: the optimizer's.
    metric: in which the circuit is held against random ones, a name from cutaway.metrics. seed: of the gates' chance, the order of batches, the
    control. Raises InputError for no steps, PromptError, LayoutError for a model without heads.
    """
    if steps < 1:
        raise InputError(f"steps={steps}.", works="steps=1 or more")
    task = find_task(task, lm)
    arguments = {"gates": gates, "steps": steps, "penalty": penalty, "rate": rate, "metric": metric}
    started = Started(lm, "circuits.mask", task, seed, arguments)
    edges, every = Edges(lm), examples(lm, task, metric)
    learned = GATES[gates]((len(edges.pairs),))
    _train(edges, batches(edges, every, _ROOM), learned, steps, penalty, rate, seed)
    fields = parts_of_graph(edges, learned.worth().detach().numpy())
    fields["kept"][: len(edges.pairs)] = learned.rounded().numpy()
    made = Graph(
        title="Optimised mask over edges",
        question="Which few connections are enough for the model's answer?",
        limits="Of edges that can stand in for one another it keeps some; it is held against the prompts it was trained on.",
        provenance=started.provenance(),
        unit="gate",
        **fields,
    ).pruned()
    control = _control(edges, batches(edges, every), made, seed)
    return made.with_(controls=(control,), numbers={"edges kept": len(made.circuit())}, provenance=started.provenance())


def _train(edges: Edges, every: list[Batch], gates: Gates, steps: int, penalty: float, rate: float, seed: int) -> None:
    generator, optimizer = torch.Generator().manual_seed(seed), torch.optim.Adam([gates.parameters], lr=rate)
    order: list[int] = []
    with progress("mask", steps) as done:
        for _ in range(steps):
            order = order or torch.randperm(len(every), generator=generator).tolist()
            batch = every[order.pop()]
            other = edges.record(batch.counterfactual)  # anew each time: those of all batches would not fit into memory
            loss = _divergence(edges, batch, other, gates.draw(generator)) + penalty * gates.kept()
            # not backward(), which would leave gradients on the model's weights
            (gates.parameters.grad,) = torch.autograd.grad(loss, [gates.parameters])
            optimizer.step()
            gates.settle()
            done(1)


def _divergence(edges: Edges, batch: Batch, other: Written, gates: Tensor) -> Tensor:
    """KL(model || gated model), mean over pairs."""
    source, target = torch.from_numpy(edges.pairs).T
    keep = torch.zeros(len(edges.senders), len(edges.receivers)).index_put((source, target), gates)
    said = edges.run(batch.base, keep, other).log_softmax(-1)
    before = batch.target.reference.to(said.device)
    return (before.exp() * (before - said)).sum(-1).mean().to(gates)


def _control(edges: Edges, every: list[Batch], made: Graph, seed: int) -> Control:
    """Faithfulness of the circuit and of random circuits of as many edges."""
    generator, count = np.random.default_rng(seed), len(made.circuit())
    drawn = [shuffled(made, generator).top(count) for _ in range(_DRAWS)]
    whole = torch.ones(len(edges.senders), len(edges.receivers))
    empty, full, *values = measured(edges, every, [whole * 0, whole, *(keeping(edges, one) for one in (made, *drawn))], "counterfactual")
    parts = [(one - empty) / (full.mean() - empty.mean()) for one in values]
    return Control(
        name="random circuits",
        says=f"Faithfulness of circuits of {count} random edges, those on no path from the embeddings to the logits left out (range of sets).",
        unit="part of the behaviour",
        found=bootstrap(parts[0], seed=seed),
        trivial=spread(np.array([one.mean() for one in parts[1:]])),
    )
