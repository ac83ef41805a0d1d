"""Are the embeddings of a task's tokens longer than those of other words?

Mediator: state; the embedding of every token.
Search: reading; nothing is changed.
Measure: mean Euclidean norm.
Controls: random words.
Method: the Euclidean norm of the vector at `embed`, averaged over the tokens of each base prompt.
Source: a made-up question, 2026; what matters is that it is asked from outside the package it extends.
Returns: scores, one row a prompt; the unit is that of the embeddings.
Does not show: whether length means anything to the layers that follow.
Example:
    >>> import cutaway as cut
    >>> result = embedding_norms(cut.open("induction_lm"), "induction:n=4,length=6")
    >>> result.values.shape
    (4, 1)
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import torch

from cutaway.models.language import LanguageModel
from cutaway.models.prompt import Prompt
from cutaway.results.base import Control, Interval, Provenance
from cutaway.results.scores import Scores
from cutaway.tasks.base import Task, find_task


def embedding_norms(lm: LanguageModel, task: Task | str, *, samples: int = 4, seed: int = 0) -> Scores:
    """Mean norm of the embeddings of each base prompt; the control is `samples` prompts of random words for each. See the module."""
    task = find_task(task, lm)
    before = lm.forwards
    prompts = [pair.base for pair in task.pairs]
    words = lm.ordinary_tokens()
    generator = torch.Generator().manual_seed(seed)
    drawn = words[torch.randint(len(words), (samples * len(prompts), 8), generator=generator)]
    found = _norms(lm, prompts)
    trivial = _norms(lm, [Prompt("", ids=tuple(row)) for row in drawn.tolist()])
    return Scores(
        title="Length of embeddings",
        question="Are the embeddings of a task's tokens longer than those of other words?",
        limits="Whether length means anything to the layers that follow.",
        rows=tuple(f"prompt {i}" for i in range(len(prompts))),
        columns=("mean norm",),
        units=("norm",),
        values=found[:, None],
        controls=(Control("random words", "Prompts of words drawn at random.", "norm", _interval(found), _interval(trivial)),),
        provenance=Provenance(
            method="example.embedding_norms",
            model=lm.name,
            revision=lm.revision,
            task=str(task),
            seed=seed,
            arguments={"samples": samples},
            n=len(prompts),
            forwards=lm.forwards - before,
            versions={name: version(name) for name in ("cutaway", "cutaway-example", "torch")},
        ),
    )


def _norms(lm: LanguageModel, prompts: list[Prompt]) -> np.ndarray:
    """Mean norm of the embeddings of each prompt's own tokens, padding left out."""
    tokens = lm.tokens(prompts)
    norms = lm.run(tokens, read=["embed"])["embed"].norm(dim=-1)
    return ((norms * tokens.mask).sum(1) / tokens.mask.sum(1)).numpy()


def _interval(values: np.ndarray) -> Interval:
    """The mean and 1.96 standard errors to both sides."""
    mean, error = float(values.mean()), float(1.96 * values.std(ddof=1) / len(values) ** 0.5)
    return Interval(mean, mean - error, mean + error, len(values))
