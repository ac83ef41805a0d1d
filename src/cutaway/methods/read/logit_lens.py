"""What would the model say if it stopped after this layer?

Every state of the residual stream is put through the final norm and the unembedding as if it were the last.

Mediator:
    state; of the residual stream, at every token.

Search:
    reading; nothing is changed.

Measure:
    probability of a token.

Controls:
    random states.

Method:
    p[l,t] = softmax(unembed(norm(h[l,t]))), h[l,t] the state after block l at token t (column "in": before the first block).

Source:
    nostalgebraist 2020, Interpreting GPT: the logit lens.

Returns:
    Grid. For one pair: panel "likeliest word" (its probability, the word in the cell) and panel "answer" (the answer's probability), rows: tokens.
    For several pairs: panel "answer" alone, averaged, rows: positions around the role, intervals over pairs. Columns: layers.

Does not show:
    What the layers after use: a state can hold a word that the lens does not show, and the lens can show one that is not used.

Example:
    >>> import cutaway as cut
    >>> lm = cut.open("induction_lm")
    >>> cut.read.logit_lens(lm, "induction:n=1,length=6").columns
    ('in', '0', '1')
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cutaway.methods.base import Example, Started, averaged, bounds_over_present, examples, labels
from cutaway.metrics.bootstrap import bootstrap, spread
from cutaway.models.language import LanguageModel
from cutaway.progress import progress
from cutaway.results.base import Control
from cutaway.results.grid import Grid
from cutaway.tasks.base import Task, find_task

_DRAWS = 20


def logit_lens(lm: LanguageModel, task: Task | str, *, role: str | None = None, seed: int = 0) -> Grid:
    """Likeliest word and probability of the answer after every layer; see the module.

    role: the part of the prompt that names the rows of an average; without it the task's own. seed: of the control and
    the intervals. Raises PromptError.
    """
    task = find_task(task, lm)
    role = role or task.role
    started = Started(lm, "read.logit_lens", task, seed, {"role": role})
    every = examples(lm, task, "probability")
    rows, row_of = labels(lm, every, role)
    generator = torch.Generator().manual_seed(seed)
    with progress("logit lens", len(every)) as done:
        read = []
        for example in every:
            read.append(_read(lm, example, generator))
            done(1)
    one = len(every) == 1
    answers = [r[1][None] for r in read]
    values, low, high = bounds_over_present(answers[0][None] if one else averaged(answers, row_of, len(rows)), seed)
    top, cells = read[0][0], read[0][3]
    shares = tuple(tuple(f"{p:.0%}" if p >= 0.005 else "" for p in row) for row in read[0][1])
    peak = np.array([r[1][-1].max() for r in read])
    control = Control(
        name="random states",
        says="The answer's highest probability at the last token, against the lens on random vectors as long as the states (range of draws).",
        unit="probability",
        found=bootstrap(peak, seed=seed),
        trivial=spread(np.concatenate([r[2] for r in read])),
    )
    return Grid(
        title="Logit lens",
        question="What would the model answer if it stopped after this layer?",
        limits="It does not show what later layers use: a word seen here may go unused, and a state may hold what the lens cannot show.",
        provenance=started.provenance(),
        controls=(control,),
        row_axis="token" if one else "position",
        column_axis="layer",
        rows=rows,
        columns=("in", *(str(i) for i in range(lm.sizes.n_layers))),
        panels=("likeliest word", "answer") if one else ("answer",),
        values=np.concatenate([top[None], values]) if one else values,
        low=None if one else low,
        high=None if one else high,
        cells=(cells, shares) if one else None,
        unit="probability",
    )


def _read(
    lm: LanguageModel, example: Example, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[tuple[str, ...], ...]]:
    """Probability of the likeliest word and of the answer (token, layer), the answer's on random states (draw,), and the likeliest words."""
    points = ["layers[0].input", *(f"layers[{i}].output" for i in range(lm.sizes.n_layers))]
    states = lm.run(example.base, read=points)
    answer = int(example.target.answer[0])
    top, of_answer, words, chance = [], [], [], []
    for point in points:
        state: Tensor = states[point][0]
        p = lm.unembed(state).softmax(-1)
        best = p.max(-1)
        top.append(best.values)
        of_answer.append(p[:, answer])
        words.append([lm.token_text(int(i)) for i in best.indices])
    drawn = torch.randn(_DRAWS, state.shape[-1], generator=generator)
    for point in points[1:]:
        length = states[point][0, -1].norm()
        chance.append(lm.unembed(drawn / drawn.norm(dim=-1, keepdim=True) * length).softmax(-1)[:, answer])
    cells = tuple(zip(*words, strict=True))
    return (
        torch.stack(top, 1).double().numpy(),
        torch.stack(of_answer, 1).double().numpy(),
        torch.cat(chance).double().numpy(),
        cells,
    )
