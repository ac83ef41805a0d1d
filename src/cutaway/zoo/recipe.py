"""How the small models that answer questions are trained: texts with answers in them, and next-word cross-entropy.

AdamW, or Muon for the matrices of the layers, with gradients clipped to length 1; the learning rate rises over the first WARM_UP steps and
falls to a fiftieth of its height. The loss is the mean over the answers, plus ELSEWHERE times the mean over all other words. With the same
seed, machine and number of threads the weights come out the same; they are kept in half precision.

Where an answer needs one word to be found by another at some distance, random weights take very long to get there. Such models start out
nearer (`Recipe.back`): heads of the first layer look so many places back, whatever stands there; all others like tokens that resemble the
one they look from, and pass on much of what they see as it is (after Trockman and Kolter 2023, mimetic initialisation, arXiv:2305.09828);
words weigh as much in the residual stream as what a layer adds. What becomes of a head is left to training.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

import torch
from torch import Tensor
from torch.nn import functional as F

from cutaway.zoo.base import ROTARY_BASE, Transformer, TransformerConfig

WARM_UP = 50
ELSEWHERE = 0.1
LENGTH = 6.0
"""Of queries and keys, in each plane that rotary positions turn, where a head looks so many places back."""
_NOWHERE = -100
"""What cross-entropy takes for no target."""

Text = tuple[list[str], list[int]]
"""Words, the first of them after <bos>, and the places of the answers among them."""


@final
@dataclass(frozen=True)
class Recipe:
    """draw: a random text. batch: texts a step. learning_rate: at its height.

    matrices: learning rate of Muon, for the matrices of the layers; AdamW for all, where it is 0.
    back: how many places back each head of the first layer looks before it is trained; the model needs rotary positions and biases.
    further: what else is minimised at every step, such as what interchanges should lead to.
    """

    config: TransformerConfig
    draw: Callable[[random.Random], Text]
    steps: int
    batch: int = 48
    learning_rate: float = 2e-3
    back: tuple[int, ...] = ()
    matrices: float = 0.0
    further: Callable[[Transformer, random.Random], Tensor] | None = None


class Train(Protocol):
    """What a model's file calls `train`."""

    def __call__(self, *, seed: int = 0, steps: int | None = None, progress: Callable[[int, float], None] | None = None) -> Transformer:
        """The trained model. `progress` is told the step and its loss on answers (nats)."""


def follow(
    recipe: Recipe,
    *,
    seed: int = 0,
    steps: int | None = None,
    start: Transformer | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Transformer:
    """Train a model, or `start` further, which is changed. steps: other than the recipe's.

    `progress` is told the step and its loss on answers (nats).
    """
    model, rng, steps = start or begun(recipe, seed), random.Random(seed), recipe.steps if steps is None else steps
    optimizers = _optimizers(model, recipe)
    model.train()
    for step in range(steps):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * min(1, (step + 1) / WARM_UP) * max(0.02, 1 - step / steps)
            optimizer.zero_grad()
        ids, answers = encoded([recipe.draw(rng) for _ in range(recipe.batch)], recipe.config.vocab)
        targets = ids[:, 1:].clone()
        losses = F.cross_entropy(model(ids)[:, :-1].transpose(1, 2), targets.masked_fill(targets == 0, _NOWHERE), reduction="none")
        asked, other = answers[:, 1:], (targets > 0) & ~answers[:, 1:]
        loss = losses[asked].mean()
        further = recipe.further(model, rng) if recipe.further else 0.0
        (loss + ELSEWHERE * losses[other].mean() + further).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if progress is not None:
            progress(step, loss.item())
    return model.eval()


@torch.no_grad()
def begun(recipe: Recipe, seed: int = 0) -> Transformer:
    """The model before it is trained."""
    model = Transformer(recipe.config, seed=seed)
    if recipe.back:
        model.embed.weight.mul_(recipe.config.d_model**0.5)
        for block in model.blocks:
            block.attn.k_proj.weight.copy_(block.attn.q_proj.weight)
            block.attn.o_proj.weight.copy_(block.attn.v_proj.weight.T)
    attn = model.blocks[0].attn
    for head, back in enumerate(recipe.back):
        rows, half = slice(head * attn.d_head, (head + 1) * attn.d_head), attn.d_head // 2
        angles = back * ROTARY_BASE ** (-torch.arange(half) / half)
        attn.q_proj.weight[rows] = attn.k_proj.weight[rows] = 0.0
        attn.k_proj.bias[rows] = LENGTH * torch.cat((torch.ones(half), torch.zeros(half)))
        attn.q_proj.bias[rows] = LENGTH * torch.cat((angles.cos(), -angles.sin()))  # turned back, so that they meet so many places later
    return model


def _optimizers(model: Transformer, recipe: Recipe) -> list[torch.optim.Optimizer]:
    matrices = [weight for weight in model.layers.parameters() if weight.ndim == 2 and recipe.matrices]
    taken = {id(weight) for weight in matrices}
    rest = [weight for weight in model.parameters() if id(weight) not in taken]
    adam = torch.optim.AdamW(rest, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    return [adam, torch.optim.Muon(matrices, lr=recipe.matrices, weight_decay=0.01)] if matrices else [adam]


def encoded(texts: list[Text], vocab: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Ids (text, token), <bos> first and at the padding on the right, and whether each is an answer."""
    places = {word: i for i, word in enumerate(vocab)}
    width = 1 + max(len(words) for words, _ in texts)
    ids, answers = torch.zeros(len(texts), width, dtype=torch.long), torch.zeros(len(texts), width, dtype=torch.bool)
    for row, (words, asked) in enumerate(texts):
        ids[row, 1 : len(words) + 1] = torch.tensor([places[word] for word in words])
        answers[row, [place + 1 for place in asked]] = True
    return ids, answers


@torch.no_grad()
def accuracy(model: Transformer, texts: list[Text]) -> float:
    """Share of the answers that are the best guess before they come."""
    ids, answers = encoded(texts, model.vocab)
    right = model(ids)[:, :-1].argmax(-1) == ids[:, 1:]
    return right[answers[:, 1:]].float().mean().item()


def main(name: str, train: Train, steps: int) -> None:
    """The command line of a model's file: train it, and write its weights."""
    parser = argparse.ArgumentParser(prog=f"python -m cutaway.zoo.{name}", description="Train the model and write its weights.")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    def report(step: int, loss: float) -> None:
        if step % 100 == 0 or step == options.steps - 1:
            print(f"step {step:5d}  loss {loss:.3f}", flush=True)

    train(seed=options.seed, steps=options.steps, progress=report).half().save(options.out)
