"""What an opened module takes, and how its tokens are chosen. What its names mean is tested in test_layouts.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import cutaway as cut
from cutaway.errors import AddressError, PromptError, UnknownNameError
from cutaway.models.named_module import NamedModule

Words = Callable[..., Any]
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 40}
IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


@cache
def bert(dtype: torch.dtype = torch.float32) -> transformers.PreTrainedModel:
    torch_state = torch.random.get_rng_state()
    try:
        torch.manual_seed(0)
        return transformers.BertForMaskedLM(transformers.BertConfig(**SIZES, initializer_range=0.3)).eval().to(dtype)
    finally:
        torch.random.set_rng_state(torch_state)


@cache
def t5() -> transformers.PreTrainedModel:
    config = transformers.T5Config(vocab_size=40, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=3)
    return transformers.T5ForConditionalGeneration(config).eval()


def plain(**inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return bert()(**inputs).logits


def test_inputs_by_position_keyword_and_mapping() -> None:
    model = cut.open(bert())
    expected = plain(input_ids=IDS, attention_mask=MASK)
    batch = transformers.BatchEncoding({"input_ids": IDS, "attention_mask": MASK})
    for found in (
        model.run(IDS, MASK, read=["logits"]),
        model.run(input_ids=IDS, attention_mask=MASK, read=["logits"]),
        model.run({"input_ids": IDS, "attention_mask": MASK}, read=["logits"]),
        model.run({"input_ids": IDS}, attention_mask=MASK, read=["logits"]),
        model.run(batch, read=["logits"]),
    ):
        assert torch.equal(found["logits"], expected)
    with torch.no_grad(), model.trace({"input_ids": IDS}, attention_mask=MASK):
        assert torch.equal(model.logits, expected)


def test_texts(tokenizer: Words) -> None:
    words = tokenizer()
    words.pad_token = "<bos>"
    model = cut.open(bert(), tokenizer=words)
    assert torch.equal(model.run("w1 w2", read=["logits"])["logits"], plain(input_ids=torch.tensor([[0, 1, 2]])))
    both = model.run(["w1 w2", "w3"], read=["logits", "layers[0].attn.pattern"])
    torch.testing.assert_close(both["logits"][1, :2], plain(input_ids=torch.tensor([[0, 3]]))[0])
    assert (both["layers[0].attn.pattern"][1, ..., 2] == 0).all()


def test_text_without_a_tokenizer() -> None:
    with pytest.raises(PromptError, match="without a tokenizer"):
        cut.open(bert()).run("w1")


def test_text_starts_a_decoder(tokenizer: Words) -> None:
    model = cut.open(t5(), tokenizer=tokenizer())
    ours = model.run("w1 w2", read=["logits"])["logits"]
    with torch.no_grad():
        theirs = t5()(input_ids=torch.tensor([[0, 1, 2]]), decoder_input_ids=torch.tensor([[3]])).logits
    assert torch.equal(ours, theirs)
    longer = model.run("w1 w2", decoder_input_ids=torch.tensor([[3, 4, 5]]), read=["logits", "decoder.layers[0].cross.pattern"])
    assert longer["logits"].shape == (1, 3, 40) and longer["decoder.layers[0].cross.pattern"].shape == (1, 4, 3, 3)
    assert torch.equal(model.last(model.run("w1 w2").output), theirs[:, -1])


def test_padding_is_hidden_from_opened_attention() -> None:
    """In the encoder by its mask, in the decoder's attention to it likewise, with relative positions added to the scores."""
    model = cut.open(t5())
    inputs = {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": IDS[:, :3]}
    names = ["encoder.layers[1].attn.pattern", "decoder.layers[1].cross.pattern"]
    seen = model.run(inputs, read=[*names, "logits"])
    assert all((seen[name][1, ..., 2:] == 0).all() and (seen[name][0] > 0).all() for name in names)
    torch.testing.assert_close(seen["logits"], model.run(inputs, read=["logits"])["logits"], rtol=0, atol=1e-4)


def test_positions() -> None:
    model = cut.open(bert())
    whole = model.run(IDS, read=["layers[0].output", "layers[1].attn.pattern"])
    for pos in (0, 2, -1):
        part = model.run(IDS, read=[f"layers[0].output[pos={pos}]", f"layers[1].attn.pattern[pos={pos}]"])
        assert torch.equal(part[f"layers[0].output[pos={pos}]"], whole["layers[0].output"][:, pos])
        assert torch.equal(part[f"layers[1].attn.pattern[pos={pos}]"], whole["layers[1].attn.pattern"][:, :, pos])
    with pytest.raises(AddressError, match="no roles"):
        model.run(IDS, read=["layers[0].output[pos=subject]"])
    with pytest.raises(AddressError, match="4 positions"):
        model.run(IDS, read=["layers[0].output[pos=4]"])
    with pytest.raises(AddressError, match="padded at their ends"):
        model.run({"input_ids": IDS, "attention_mask": MASK}, read=["layers[0].output[pos=-1]"])


def test_names_that_are_not_there() -> None:
    model = cut.open(bert())
    with pytest.raises(UnknownNameError, match=r"layers\[0\]\.attn\.z|layers\[0\]\.attn\.q"):
        model.run(IDS, read=["layers[0].attn.zz"])
    with pytest.raises(AttributeError, match="logits"):
        model.logitz  # noqa: B018
    assert model.layers[1].attn.self.query.weight.shape == (32, 32) and len(model.layers) == 2
    assert {"embed", "layers", "logits"} <= set(dir(model)) and {"q", "pattern", "output"} <= set(dir(model.layers[0].attn))
    native = model.run(IDS, read=["layers[1].attn.self.value.output", "layers[1].attn.v"])
    assert torch.equal(native["layers[1].attn.self.value.output"], native["layers[1].attn.v"].flatten(-2))


def test_what_a_metric_sees() -> None:
    model = cut.open(bert())
    assert torch.equal(model.last(model.run(IDS).output), plain(input_ids=IDS))
    bare = cut.open(bert().bert)
    assert torch.equal(bare.last(bare.run(IDS).output), bare.run(IDS, read=["layers[1].output"])["layers[1].output"])
    assert bare.stack is None


@pytest.mark.parametrize(
    "name", ["embed", "layers[0].attn.q", "layers[1].attn.scores", "layers[1].attn.z", "layers[0].mid", "layers[1].mlp.hidden"]
)
def test_gradients_are_slopes(name: str) -> None:
    model: NamedModule = cut.open(bert().__class__(bert().config).eval().double())
    model.module.load_state_dict(bert().state_dict())
    weights = torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values, slopes = model.gradients(IDS, of=lambda out: out.logits[:, 0] @ weights, at=[name])
    direction = torch.randn(values[name].shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    step = 1e-5
    up, down = (
        model.run(IDS, edits=[(name, lambda x, sign=sign: x + sign * step * direction)]).output.logits[:, 0] @ weights for sign in (1, -1)
    )
    assert float((up - down).sum()) / (2 * step) == pytest.approx(float((slopes[name] * direction).sum()), rel=1e-4)
