"""Patterns of diffusers' attention: seen, changed, and nothing left behind."""

from __future__ import annotations

import diffusers
import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from cutaway.engine.site import attach
from cutaway.models.diffusion_attention import Shown, opened


@pytest.fixture
def attention() -> Attention:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Attention(query_dim=12, cross_attention_dim=6, heads=3, dim_head=4).eval()


CELLS = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
WORDS = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(1))


def seen(attention: nn.Module, edit: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The pattern, and the output with another in its place."""
    found: list[Tensor] = []
    with opened(attention):
        undo = attach(attention, "pattern", lambda pattern: found.append(pattern.clone()) or edit)
        out = attention(CELLS, encoder_hidden_states=WORDS)
        undo()
    return found[0], out


def test_pattern_is_what_is_computed(attention: Attention) -> None:
    plain = attention(CELLS, encoder_hidden_states=WORDS)
    pattern, out = seen(attention)
    torch.testing.assert_close(out, plain, rtol=0, atol=1e-5)
    q, k, v = (p(x).unflatten(-1, (3, 4)) for p, x in ((attention.to_q, CELLS), (attention.to_k, WORDS), (attention.to_v, WORDS)))
    by_hand = (torch.einsum("bqhd,bkhd->bhqk", q, k) / 2).softmax(-1)
    torch.testing.assert_close(pattern, by_hand)
    other = torch.zeros_like(pattern)
    other[..., 3] = 1
    looked = v[:, 3].flatten(1)[:, None].expand(2, 5, 12)
    torch.testing.assert_close(seen(attention, other)[1], attention.to_out[0](looked))


def test_stays_fused_while_nobody_listens_and_is_put_back(attention: Attention) -> None:
    before = attention.processor
    plain = attention(CELLS, encoder_hidden_states=WORDS)
    with opened(attention):
        with opened(attention):
            assert isinstance(attention.processor, Shown)
            assert torch.equal(attention(CELLS, encoder_hidden_states=WORDS), plain)
        assert isinstance(attention.processor, Shown)
    assert attention.processor is before and "get_attention_scores" not in vars(attention)


def test_a_processor_of_another_kind_is_left_alone(attention: Attention) -> None:
    attention.processor = diffusers.models.attention_processor.SlicedAttnProcessor(1)
    with opened(attention):
        assert not isinstance(attention.processor, Shown)
