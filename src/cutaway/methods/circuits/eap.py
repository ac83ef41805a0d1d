"""Through which connections does the difference between the two prompts flow, estimated for all of them at once?

Edge attribution patching: a first-order estimate of edge patching from two forwards and one backward, however many edges there are.

Mediator:
    edge; what a sender writes, as one receiver reads it, all tokens together.

Search:
    gradient; one backward at the base.

Measure:
    change of the metric, first order.

Controls:
    random direction.

Method:
    effect[s -> R] ~ sum over tokens of (s' - s) . dm/d(stream as R reads it), with s and s' what the sender writes on the base's and on the
    counterfactual's side, and the gradient of the metric m in the base run. The gradient arriving at a head's queries, keys or values, or at an
    MLP's input, is carried back through its own projection and norm. Exact where m is linear in what R reads.

Source:
    Syed, Rager and Conmy 2023, arXiv 2310.10348; Nanda 2023, Attribution Patching.

Returns:
    Graph of all edges, tokens not told apart; score: estimated change of the metric, mean over pairs. `.top(n)` and `.greedy(n)` make circuits of
    it.

Does not show:
    Effects past a flat gradient, such as a saturated softmax or a unit that is off; edges whose effects at different tokens cancel.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> graph = cut.circuits.eap(lm, "induction:n=4,length=8")
    >>> any(edge.endswith(" -> logits") for edge in graph.ranked()[:5])
    True
"""

from __future__ import annotations

from cutaway.methods.base import Started, examples
from cutaway.methods.circuits.base import Estimate, batches, parts_of_graph, slopes
from cutaway.models.edges import Edges
from cutaway.models.language import LanguageModel
from cutaway.progress import progress
from cutaway.results.graph import Graph
from cutaway.tasks.base import Task, find_task

_UNIT = "estimated change of the metric"


def eap(lm: LanguageModel, task: Task | str, *, metric: str = "logit_difference", seed: int = 0) -> Graph:
    """First-order estimate of each edge's patching effect; see the module.

    metric: what is measured, a name from cutaway.metrics. seed: of the interval. Raises PromptError, LayoutError for a model without heads.
    """
    task = find_task(task, lm)
    started = Started(lm, "circuits.eap", task, seed, {"metric": metric})
    edges, every = Edges(lm), examples(lm, task, metric)
    estimate = Estimate(edges, len(every))
    with progress("edge attribution", len(every)) as done:
        for batch in batches(edges, every):
            change = edges.record(batch.counterfactual).senders - edges.record(batch.base).senders
            estimate.add(batch, change, slopes(edges, batch))
            done(len(batch.numbers))
    return Graph(
        title="Edge attribution patching",
        question="Through which connections does the difference between the two prompts reach the answer, by a first-order estimate?",
        limits="It does not see effects past a flat gradient, nor edges whose effects at different tokens cancel.",
        provenance=started.provenance(),
        controls=(estimate.control(_UNIT, seed),),
        unit=_UNIT,
        **parts_of_graph(edges, estimate.values.mean(0)),
    )
