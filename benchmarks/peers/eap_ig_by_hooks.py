"""EAP-IG as its authors' package does it (Hanna, Pezzelle and Belinkov 2024, arXiv 2403.17806; github.com/hannamw/EAP-IG), on TransformerLens.

The package is on no index. This is its algorithm on the interface it uses, written anew: every head's queries, keys and values read a copy of the
stream of their own (`use_split_qkv_input`), every head's output is made apart (`use_attn_result`). A buffer (batch, pos, sender, d_model) is filled
by hooks in a run on the counterfactuals, from which a run on the bases is taken away. In each step the embeddings are put between the two, and a
backward hook at every input multiplies the buffer with the gradient there into a matrix (sender, receiver).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from einops import einsum
from subjects import Subject
from torch import Tensor

BATCH = 20
Hooks = list[tuple[str, Callable[..., Any]]]


def load(subject: Subject) -> Any:
    """GPT-2 as TransformerLens opens it: its own implementation in versions before 4, else its bridge to that of transformers."""
    model = _own(subject) if int(version("transformer-lens").split(".")[0]) < 4 else _bridge(subject)
    model.set_use_split_qkv_input(True)
    model.set_use_attn_result(True)
    model.set_use_hook_mlp_in(True)
    return model


def _own(subject: Subject) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    c: Any = subject.module.config
    config = HookedTransformerConfig(
        n_layers=c.n_layer, d_model=c.n_embd, n_heads=c.n_head, d_head=c.n_embd // c.n_head, d_mlp=4 * c.n_embd, n_ctx=c.n_positions,
        d_vocab=c.vocab_size, eps=c.layer_norm_epsilon, act_fn="gelu_new", normalization_type="LN", device="cpu",
    )  # fmt: skip
    model = HookedTransformer(config)
    model.load_state_dict(convert_gpt2_weights(subject.module, config), strict=False)
    return model


def _bridge(subject: Subject) -> Any:
    from peers import transformer_lens_peer

    return transformer_lens_peer.load(subject)


def scores(model: Any, base: Tensor, other: Tensor, last: Tensor, answers: Tensor, steps: int) -> Tensor:
    """Estimates (sender, receiver), mean over pairs.

    base, other (pair, pos): tokens, padded on the right. last (pair,): the last token of each. answers (pair, 2). Senders: embeddings, then layer by
    layer heads and MLP; receivers: layer by layer queries, keys, values and MLP, then the logits.
    """
    size = model.cfg
    per_layer = 3 * size.n_heads + 1
    found = torch.zeros(1 + size.n_layers * (size.n_heads + 1), size.n_layers * per_layer + 1)
    for rows in torch.arange(len(base)).split(BATCH):
        width = int(last[rows].max()) + 1
        one = partial(_attribute, model, found, last=last[rows], answers=answers[rows], steps=steps)
        one(base[rows, :width], other[rows, :width])
    return found / len(base) / steps


def _attribute(model: Any, found: Tensor, base: Tensor, other: Tensor, last: Tensor, answers: Tensor, steps: int) -> None:
    buffer = torch.zeros(*base.shape, len(found), model.cfg.d_model)
    mask = (torch.arange(base.shape[1]) <= last[:, None]).long()
    with torch.inference_mode():
        with model.hooks(fwd_hooks=list(_filling(model, buffer, 1))):
            model(other, attention_mask=mask)
        there = buffer[:, :, 0].clone()
        with model.hooks(fwd_hooks=list(_filling(model, buffer, -1))):
            model(base, attention_mask=mask)
        here = there - buffer[:, :, 0]
    backward = list(_multiplying(model, buffer, found))
    for k in range(steps):

        def between(value: Tensor, hook: Any, k: int = k) -> Tensor:
            return (there + k / steps * (here - there)).requires_grad_()

        with model.hooks(fwd_hooks=[("hook_embed", between)], bwd_hooks=backward):
            logits = model(base, attention_mask=mask)[torch.arange(len(base)), last]
            chosen = logits.gather(-1, answers)
            (chosen[:, 0] - chosen[:, 1]).sum().backward()


def _filling(model: Any, buffer: Tensor, sign: int) -> Iterator[tuple[str, Callable[..., Any]]]:
    def fill(value: Tensor, hook: Any, index: int | slice) -> None:
        buffer[:, :, index] += sign * value.detach()

    yield "hook_embed", partial(fill, index=0)
    for layer, first in enumerate(_firsts(model)):
        yield f"blocks.{layer}.attn.hook_result", partial(fill, index=slice(first, first + model.cfg.n_heads))
        yield f"blocks.{layer}.hook_mlp_out", partial(fill, index=first + model.cfg.n_heads)


def _multiplying(model: Any, buffer: Tensor, found: Tensor) -> Iterator[tuple[str, Callable[..., Any]]]:
    def multiply(gradient: Tensor, hook: Any, before: int, into: slice) -> None:
        apart = gradient.detach() if gradient.ndim == 4 else gradient.detach()[:, :, None]
        found[:before, into] += einsum(buffer[:, :, :before], apart, "b t s d, b t r d -> s r")

    heads, column = model.cfg.n_heads, 0
    for layer, first in enumerate(_firsts(model)):
        for name in "qkv":
            yield f"blocks.{layer}.hook_{name}_input", partial(multiply, before=first, into=slice(column, column + heads))
            column += heads
        yield f"blocks.{layer}.hook_mlp_in", partial(multiply, before=first + heads, into=slice(column, column + 1))
        column += 1
    yield f"blocks.{model.cfg.n_layers - 1}.hook_resid_post", partial(multiply, before=len(found), into=slice(column, column + 1))


def _firsts(model: Any) -> Iterator[int]:
    """Number of each layer's first sender."""
    return iter(range(1, 1 + model.cfg.n_layers * (model.cfg.n_heads + 1), model.cfg.n_heads + 1))
