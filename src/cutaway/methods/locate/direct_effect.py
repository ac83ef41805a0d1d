"""How much does each head and MLP write, by itself, in favour of the answer?

The final residual stream is a sum of what every part added. With the denominator of the final norm held at its value in this run, the answer's
logit over the foil's is the same sum, one term a part.

Mediator:
    component; what heads and MLPs write into the last state.

Search:
    reading; nothing is changed.

Measure:
    logit of the answer over the foil's.

Controls:
    random pair of words.

Method:
    logit(answer) - logit(foil) = sum_c u . N(c) + u . b, with u the difference of the two unembedding rows, N the final norm with its denominator
    frozen (and, for a layer norm, its centring, which is linear), b the norm's and the unembedding's bias. A head's c is z W_O for its slice of
    the output projection; projection biases, taken together, are one term, and the embeddings are one. A logit cap after the unembedding is left out.

Source:
    Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; Wang et al. 2022, arXiv 2211.00593.

Returns:
    Scores, one row a component, and rows for embeddings and biases; unit: nats of logit difference; intervals over pairs. `numbers` holds the logit
    difference and the sum of the rows, which agree to 1e-3 where no cap is applied.

Does not show:
    What a part does through later parts, which read what it wrote.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> scores = cut.locate.direct_effect(lm, "induction:n=2,length=6")
    >>> abs(scores.numbers["sum"] - scores.numbers["logit difference"]) < 1e-3
    True
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cutaway.engine.passes import Readings
from cutaway.methods.base import Example, Started, components, examples
from cutaway.methods.locate._written import points, written
from cutaway.metrics.bootstrap import bootstrap, bounds, spread
from cutaway.models.freeze import frozen
from cutaway.models.language import LanguageModel
from cutaway.progress import progress
from cutaway.results.base import Control
from cutaway.results.scores import Scores
from cutaway.tasks.base import Task, find_task

_DRAWS = 100
_FIRST = "layers[0].input[pos=-1]"
_OTHER = ("embeddings", "projection biases", "final biases")


def direct_effect(lm: LanguageModel, task: Task | str, *, seed: int = 0) -> Scores:
    """Each part's own contribution to the logit difference at the last token; see the module.

    seed: of the control and the intervals. Raises PromptError.
    """
    task = find_task(task, lm)
    started = Started(lm, "locate.direct_effect", task, seed, {})
    parts = [str(part) for part in components(lm)]
    every = examples(lm, task, "logit_difference")
    effects, random = np.zeros((len(every), len(parts) + len(_OTHER))), np.zeros((len(every), len(parts), _DRAWS))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(), progress("direct effects", len(every)) as done:
        for n, example in enumerate(every):
            effects[n], random[n] = _effects(lm, example, generator)
            done(1)
    mean, low, high = bounds(effects, seed=seed)
    best = int(np.abs(mean[: len(parts)]).argmax())
    control = Control(
        name="random pair of words",
        says=f"What {parts[best]} writes along random directions as long as the difference of the two words (range of draws).",
        unit="nats",
        found=bootstrap(effects[:, best], seed=seed),
        trivial=spread(random[:, best].mean(0)),
    )
    return Scores(
        title="Direct effects",
        question="Which heads and MLPs write the answer, rather than the foil, into the last state?",
        limits="It does not show what a part does through the parts after it.",
        provenance=started.provenance(),
        controls=(control,),
        numbers={"logit difference": float(np.mean([e.at_base for e in every])), "sum": float(mean.sum())},
        rows=(*parts, *_OTHER),
        columns=("direct effect",),
        units=("nats",),
        values=mean[:, None],
        low=low[:, None],
        high=high[:, None],
    )


def _effects(lm: LanguageModel, example: Example, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Direct effects of all parts and the other terms (part,), and of the parts along random directions (part, draw)."""
    final = f"layers[{lm.sizes.n_layers - 1}].output[pos=-1]"
    seen = lm.run(example.base, read=[_FIRST, final, *_points(lm), *points(lm)])
    wrote, others = _parts(lm, seen)
    at = seen[final][0]
    linear, constant = frozen(lm.part(lm.family.final_norm), lm.family.norm, at)
    words, bias = lm.word_directions(torch.cat([example.target.answer, example.target.foil]))
    direction = words[0] - words[1]
    parts = linear(wrote)
    rest = torch.stack([*(linear(other) @ direction for other in others), constant @ direction + bias[0] - bias[1]])
    drawn = torch.randn(_DRAWS, len(direction), generator=generator).to(direction)
    drawn *= direction.norm() / drawn.norm(dim=-1, keepdim=True)
    return torch.cat([parts @ direction, rest]).double().numpy(), (parts @ drawn.T).double().numpy()


def _points(lm: LanguageModel) -> list[str]:
    """What attention and MLP add in each layer."""
    names = ("attn.output", "mlp.output") if lm.find("layers[0].mlp.output") is not None else ("attn.output",)
    return [f"layers[{i}].{name}[pos=-1]" for i in range(lm.sizes.n_layers) for name in names]


def _parts(lm: LanguageModel, seen: Readings) -> tuple[Tensor, list[Tensor]]:
    """What each component wrote to the residual stream at the last token (part, d_model); the embeddings; the projection biases."""
    parts, biases = list[Tensor](), torch.zeros_like(seen[_FIRST][0])
    for i, (heads,) in enumerate(written(lm, seen)):
        parts.append(heads)
        biases = biases + seen[f"layers[{i}].attn.output[pos=-1]"][0] - heads.sum(0)
        if (mlp := f"layers[{i}].mlp.output[pos=-1]") in _points(lm):
            parts.append(seen[mlp])
    return torch.cat(parts), [seen[_FIRST][0], biases]
