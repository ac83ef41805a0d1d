"""Attention that shows its inside computes what attention computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from cutaway.engine.site import attach
from cutaway.mediators.scale import scale
from cutaway.models.attention import attend, opened
from cutaway.models.language import LanguageModel


def qkv(queries: int, keys: int, kv_heads: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(2, h, n, 8, generator=generator, dtype=torch.float64) for h, n in ((4, queries), (kv_heads, keys), (kv_heads, keys))
    )  # type: ignore[return-value]


def banded(queries: int, keys: int) -> Tensor:
    return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)


@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (2, 5), (1, 5), (1, 1)])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("mask", ["none", "boolean", "added"])
@pytest.mark.parametrize("listening", [False, True])
def test_equals_torch_s_own(queries: int, keys: int, kv_heads: int, mask: str, listening: bool) -> None:
    """With and without a mask, fused or shown, whole or for the last queries only."""
    q, k, v = qkv(queries, keys, kv_heads)
    allowed = banded(queries, keys)[None, None].repeat(2, 1, 1, 1)
    given: Tensor | None = None
    if mask != "none":
        allowed[1, :, :, 0] = keys == 1  # a row that is padded on the left
    if mask == "boolean":
        given = allowed
    if mask == "added":
        given = torch.zeros(allowed.shape, dtype=q.dtype).masked_fill(~allowed, torch.finfo(q.dtype).min)
    expected = scaled_dot_product_attention(
        q, k.repeat_interleave(4 // kv_heads, 1), v.repeat_interleave(4 // kv_heads, 1), allowed, scale=0.3
    )
    module = nn.Identity()
    seen: list[Tensor] = []
    detach = attach(module, "pattern", seen.append) if listening else lambda: None
    out, weights = attend(module, q, k, v, given, scaling=0.3)
    detach()
    some = allowed.any(-1, keepdim=True).expand(expected.shape)  # a padded query that may look nowhere has no right answer
    torch.testing.assert_close(out.transpose(1, 2)[some], expected[some], rtol=1e-9, atol=1e-9)
    assert weights is None and len(seen) == listening
    if listening:
        assert (seen[0].masked_select(~allowed & allowed.any(-1, keepdim=True)) == 0).all()


def test_soft_cap() -> None:
    q, k, v = qkv(5, 5)
    scores = torch.tanh(q @ k.transpose(2, 3) * 8**-0.5 / 2.0) * 2.0
    expected = scores.masked_fill(~banded(5, 5), -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(attend(nn.Identity(), q, k, v, None, softcap=2.0)[0].transpose(1, 2), expected, rtol=1e-9, atol=1e-9)


class Both(nn.Module):
    is_causal = False


@pytest.mark.parametrize("listening", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (2, 5), (5, 2), (1, 1)])
@pytest.mark.parametrize(("own", "given", "causal"), [(False, None, False), (True, False, False), (False, True, True), (True, None, True)])
def test_without_a_mask_only_causal_attention_looks_back(
    own: bool, given: bool | None, causal: bool, queries: int, keys: int, listening: bool
) -> None:
    """What the call says goes before what the module says."""
    if causal and queries > keys:
        return
    q, k, v = qkv(queries, keys)
    module = nn.Identity() if own else Both()
    detach = attach(module, "scores", lambda scores: None) if listening else lambda: None
    out, _ = attend(module, q, k, v, None, is_causal=given)
    detach()
    expected = scaled_dot_product_attention(q, k, v, banded(queries, keys) if causal else None)
    torch.testing.assert_close(out.transpose(1, 2), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mask", ["none", "boolean", "added"])
def test_position_bias_is_added_to_the_scores(mask: str) -> None:
    q, k, v = qkv(3, 5)
    bias = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(1), dtype=q.dtype)
    allowed = torch.ones(2, 1, 3, 5, dtype=torch.bool)
    allowed[1, ..., 3:] = False
    given = {"none": None, "boolean": allowed, "added": torch.zeros(allowed.shape, dtype=q.dtype).masked_fill(~allowed, -torch.inf)}[mask]
    out, _ = attend(Both(), q, k, v, given, position_bias=bias, scaling=1.0)
    hidden = torch.zeros(()) if given is None else torch.zeros(allowed.shape, dtype=q.dtype).masked_fill(~allowed, -torch.inf)
    expected = scaled_dot_product_attention(q, k, v, bias + hidden, scale=1.0)
    torch.testing.assert_close(out.transpose(1, 2), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("factor", [-1.0, 0.0, 10.0])
def test_edited_scores_show_nothing_hidden(tiny: Callable[..., LanguageModel], attending: str, factor: float) -> None:
    """Negated or scaled, the scores of what the mask hides stay hidden, and nothing is infinite, in padded batches too."""
    lm = tiny(attending)
    prompts = ["w1 w2 w3 w4 w5", "w6 w7"]
    read = [f"layers[1].attn.{p}" for p in ("scores", "pattern")]
    found = lm.run(prompts, edits=[("layers[1].attn.scores", scale(factor))], read=[*read, "logits"])
    plain = lm.run(prompts, read=read)
    future = ~banded(6, 6)
    assert (found[read[1]][0][:, future] == 0).all() and (found[read[1]][1][:, 3:, :3] == 0).all()
    assert found["logits"][:, -1].isfinite().all()
    shown = plain[read[1]][0] > 0
    torch.testing.assert_close(found[read[0]][0][shown], plain[read[0]][0][shown] * factor)


def test_opened_is_closed_again(tiny: Callable[..., LanguageModel]) -> None:
    lm = tiny("llama")
    before = lm.module.config._attn_implementation
    with pytest.raises(ZeroDivisionError), opened(lm.module):
        assert lm.module.config._attn_implementation == "cutaway"
        raise ZeroDivisionError
    assert lm.module.config._attn_implementation == before


def test_attention_is_opened_only_where_it_is_looked_into(tiny: Callable[..., LanguageModel]) -> None:
    """Reading a state leaves fused attention in use."""
    lm = tiny("llama")
    used: list[str] = []
    handle = lm.part("model.layers.1").register_forward_hook(lambda *_: used.append(lm.module.config._attn_implementation))
    lm.run("w1 w2", read=["logits"])
    lm.run("w1 w2", read=["layers[2].attn.z"])
    lm.run("w1 w2", read=["layers[2].attn.pattern"])
    with lm.trace("w1 w2"):
        lm.layers[0].output  # noqa: B018
        lm.layers[1].attn.pattern  # noqa: B018
    handle.remove()
    assert used == ["sdpa", "sdpa", "cutaway", "cutaway"]
