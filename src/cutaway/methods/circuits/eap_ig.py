"""Through which connections does the difference between the two prompts flow, where the gradient at the base alone would not tell?

Edge attribution patching with integrated gradients: the gradient is averaged on the way from the counterfactual's side to the base's.

Mediator:
    edge; what a sender writes, as one receiver reads it, all tokens together.

Search:
    gradient; averaged on the way between the sides.

Measure:
    change of the metric, first order.

Controls:
    random direction.

Method:
    effect[s -> R] ~ sum over tokens of (s' - s) . 1/steps sum_k dm/d(stream as R reads it) at step k = 0 ... steps - 1.
    along="inputs": at step k the model runs on embeddings e' + k/steps (e - e'); one forward and backward a step, for all edges.
    along="activations": the model runs on the base, and what the senders of one layer write (its heads together, or its MLP) is s' + k/steps (s -
    s'); its own forwards and backwards give the edges from these senders. More costly by twice the number of layers.

Source:
    Hanna, Pezzelle and Belinkov 2024, arXiv 2403.17806; Marks et al. 2024, arXiv 2403.19647; both ways and the steps as in MIB, Mueller et al.
    2025, arXiv 2504.13151.

Returns:
    Graph of all edges, tokens not told apart; score: estimated change of the metric, mean over pairs. `.top(n)` and `.greedy(n)` make circuits of
    it.

Does not show:
    Edges whose effects at different tokens cancel; effects that appear only in states between the sides that neither prompt brings about.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> graph = cut.circuits.eap_ig(lm, "induction:n=4,length=8", steps=3)
    >>> len(graph.top(10).circuit()) <= 10
    True
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from torch import Tensor

from cutaway.errors import InputError
from cutaway.mediators.swap import swap
from cutaway.methods.base import Started, examples
from cutaway.methods.circuits.base import Batch, Estimate, batches, parts_of_graph, slopes
from cutaway.models.edges import Edges, Reading
from cutaway.models.language import LanguageModel
from cutaway.progress import progress
from cutaway.results.graph import Graph
from cutaway.tasks.base import Task, find_task

_UNIT = "estimated change of the metric"


def eap_ig(
    lm: LanguageModel,
    task: Task | str,
    *,
    steps: int = 5,
    along: Literal["inputs", "activations"] = "inputs",
    metric: str = "logit_difference",
    seed: int = 0,
) -> Graph:
    """Estimate of each edge's patching effect from gradients between the sides; see the module.

    steps: of the way. along: what is moved, the embeddings or each sender's own output. metric: what is measured, a name from cutaway.metrics.
    seed: of the interval. Raises InputError for no steps, PromptError, LayoutError for a model without heads.
    """
    if steps < 1:
        raise InputError(f"steps={steps}.", works="steps=1 or more")
    task = find_task(task, lm)
    started = Started(lm, "circuits.eap_ig", task, seed, {"steps": steps, "along": along, "metric": metric})
    edges, every = Edges(lm), examples(lm, task, metric)
    estimate = Estimate(edges, len(every))
    way = _along_inputs if along == "inputs" else _along_activations
    with progress("edge attribution", len(every)) as done:
        for batch in batches(edges, every):
            way(edges, batch, steps, estimate)
            done(len(batch.numbers))
    return Graph(
        title=f"Edge attribution with integrated gradients ({along})",
        question="Through which connections does the difference between the two prompts reach the answer?",
        limits="It is an estimate from gradients between the sides, and does not see edges whose effects at different tokens cancel.",
        provenance=started.provenance(),
        controls=(estimate.control(_UNIT, seed),),
        unit=_UNIT,
        **parts_of_graph(edges, estimate.values.mean(0)),
    )


def _along_inputs(edges: Edges, batch: Batch, steps: int, estimate: Estimate) -> None:
    base = edges.record(batch.base)
    start, change = base.streams[0], edges.record(batch.counterfactual).senders
    change -= base.senders
    del base  # as large as the change, and nothing more is asked of it
    between = [start + (1 - k / steps) * change[:, 0] for k in range(steps)]
    estimate.add(batch, change, _mean_slopes(edges, batch, "layers[0].input", between))


def _along_activations(edges: Edges, batch: Batch, steps: int, estimate: Estimate) -> None:
    change = edges.record(batch.counterfactual).senders - edges.record(batch.base).senders
    for point, (first, stop) in edges.groups().items():
        here, there = (edges.lm.run(side, read=[point])[point] for side in (batch.base, batch.counterfactual))
        between = [there + k / steps * (here - there) for k in range(steps)]
        estimate.add(batch, change[:, first:stop], _mean_slopes(edges, batch, point, between, after=first), first=first)


def _mean_slopes(
    edges: Edges, batch: Batch, point: str, between: Sequence[Tensor], after: int = 0
) -> Iterator[tuple[int, Reading, Tensor]]:
    """`slopes` averaged over runs with each of these values at a point: the change is the same in all, and need be multiplied once."""
    total: dict[int, tuple[Reading, Tensor]] = {}
    for value in between:
        for number, at, slope in slopes(edges, batch, [(point, swap(value))], after):
            total[number] = (at, total[number][1].add_(slope) if number in total else slope.clone())
    for number, (at, slope) in total.items():
        yield number, at, slope.div_(len(between))
