"""From a name, a folder, a file or a module to an opened model, and an error that says what would work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import cutaway as cut
from cutaway.errors import CutawayError, InputError, LayoutError, UnknownNameError, WeightsError
from cutaway.models.any_module import AnyModule
from cutaway.models.language import LanguageModel
from cutaway.models.named_module import NamedModule

Fresh = Callable[..., nn.Module]
Words = Callable[..., Any]


def test_local_folder(fresh: Fresh, tokenizer: Words, tmp_path: Path, kind: str) -> None:
    module = fresh(kind)
    module.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    lm = cut.open(tmp_path, tokenizer=tokenizer())
    assert isinstance(lm, LanguageModel) and lm.name == str(tmp_path) and not lm.module.training
    kept = cut.open(module, tokenizer=tokenizer())
    torch.testing.assert_close(lm.next_logits("w1 w2 w3"), kept.next_logits("w1 w2 w3"))
    assert lm.sizes == kept.sizes and lm.family is kept.family


def test_tokenizer_of_the_folder(fresh: Fresh, tokenizer: Words, tmp_path: Path) -> None:
    fresh("llama").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    lm = cut.open(str(tmp_path))
    assert lm.bos_id == 0 and lm.tokens("w1 w2").ids.tolist() == [[0, 1, 2]]


def test_dtype_and_tokenizer_of_one_s_own(fresh: Fresh, tokenizer: Words, tmp_path: Path) -> None:
    fresh("llama").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    lm = cut.open(str(tmp_path), dtype="bfloat16", tokenizer=tokenizer(bos=False))
    assert lm.part("lm_head").weight.dtype == torch.bfloat16 and lm.bos_id is None


@pytest.mark.parametrize("dtype", ["int8", "float33", "tensor", ""])
def test_dtype_that_is_none(dtype: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="float32"):
        cut.open(tmp_path, dtype=dtype)


def test_folder_without_a_model(tmp_path: Path, offline: None) -> None:
    with pytest.raises(WeightsError, match="Load the weights"):
        cut.open(tmp_path)


def test_folder_whose_weights_are_cut_off(fresh: Fresh, tokenizer: Words, tmp_path: Path) -> None:
    fresh("llama").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="Load the weights"):
        cut.open(tmp_path)


@pytest.mark.parametrize(("name", "near"), [("smollm3-135m", "smollm2-135m"), ("planted", "planted_circuit"), ("a/b/c", "smollm2-135m")])
def test_unknown_name(name: str, near: str, offline: None) -> None:
    with pytest.raises(UnknownNameError, match=near) as caught:
        cut.open(name)
    assert name in str(caught.value)


# Modules


def test_module_without_standard_names(fresh: Fresh, tokenizer: Words) -> None:
    assert isinstance(cut.open(nn.Linear(2, 2)), AnyModule)
    assert isinstance(cut.open(fresh("llama")), AnyModule)  # no tokenizer
    headless = transformers.AutoModel.from_config(fresh("llama").config)
    assert isinstance(cut.open(headless, tokenizer=tokenizer()), AnyModule)


OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "model.layers": ("XGLMConfig", {"d_model": 32, "num_layers": 2, "ffn_dim": 48, "attention_heads": 4}),
    "transformer.h": ("CodeGenConfig", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": 32, "n_ctx": 32}),
}
"""Paths of the blocks -> config class of an architecture without a family, and options."""


@pytest.mark.parametrize("blocks", OTHERS)
def test_unknown_architecture(blocks: str, tokenizer: Words, tmp_path: Path) -> None:
    """As a module it has native names; by name, where standard names are what was asked for, it is refused with the list of what is known."""
    config, sizes = OTHERS[blocks]
    module = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, config)(vocab_size=40, pad_token_id=0, bos_token_id=0, eos_token_id=None, **sizes)
    ).eval()
    model = cut.open(module, tokenizer=tokenizer())
    assert isinstance(model, AnyModule)
    found = model.run(torch.tensor([[1, 2, 3]]), read=[f"{blocks}[1].input[pos=-1]"])
    assert found[f"{blocks}[1].input[pos=-1]"].shape == (1, 32)
    with pytest.raises(
        LayoutError, match=rf"(?s)layers\[1\]\.mid .*no family describes it, a model of type '{module.config.model_type}'.*native"
    ):
        model.run(torch.tensor([[1, 2, 3]]), read=["layers[1].mid"])
    module.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(LayoutError, match=r"(?s)ForCausalLM, which no family describes.*gpt_neox.*llama"):
        cut.open(tmp_path)


def test_standard_names_without_a_tokenizer(fresh: Fresh) -> None:
    """A path of attributes says it too, and native names and attributes are found as ever."""
    model = cut.open(fresh("gpt2"))
    with pytest.raises(
        AttributeError, match=r"(?s)layers in GPT2LMHeadModel.*gpt2 language model, and was given no tokenizer.*transformer"
    ):
        model.layers  # noqa: B018
    with pytest.raises(LookupError, match="transformer"):
        model.run(torch.tensor([[1]]), read=["transformers.output"])
    assert model.transformer.wte.weight.shape == (40, 32) and not hasattr(model, "norm") and model.config.n_layer == 3


BERT: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 40}


def test_folder_of_an_encoder(tokenizer: Words, tmp_path: Path) -> None:
    """The class its config names, with its head; a tokenizer if it has one."""
    module = transformers.BertForMaskedLM(transformers.BertConfig(**BERT)).eval()
    module.save_pretrained(tmp_path)
    ids = torch.tensor([[1, 2, 3]])
    model = cut.open(tmp_path)
    assert isinstance(model, NamedModule) and type(model.module).__name__ == "BertForMaskedLM" and model.tokenizer is None
    with torch.no_grad():
        assert torch.equal(model.run(ids, read=["logits"])["logits"], module(ids).logits)
    tokenizer().save_pretrained(tmp_path)
    named = cut.open(tmp_path, dtype="bfloat16")
    assert named.run("w1 w2", read=["embed"])["embed"].shape == (1, 3, 32) and named.module.dtype == torch.bfloat16


@pytest.mark.parametrize("what", [None, 3, ["gpt2"]])
def test_what_is_nothing_that_can_be_opened(what: Any) -> None:
    with pytest.raises((CutawayError, TypeError)):
        cut.open(what)


def test_zoo_model() -> None:
    lm = cut.open("planted_circuit")
    assert isinstance(lm, LanguageModel) and lm.family.name == "zoo" and lm.bos_id is not None
    assert lm.sizes.vocab == len(lm.module.vocab) and lm.token_text(lm.token_id(lm.module.vocab[5])) == lm.module.vocab[5]
    words = lm.module.vocab
    assert torch.equal(lm.tokens(f"{words[3]} {words[4]}").ids, torch.tensor([[words.index("<bos>"), 3, 4]]))


def test_a_module_that_is_split_over_processes_is_refused() -> None:
    import torch.distributed as dist
    from torch.distributed.tensor import Shard, distribute_tensor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        module = torch.nn.Linear(4, 4)
        mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
        module.weight = torch.nn.Parameter(distribute_tensor(module.weight.detach(), mesh, [Shard(0)]))
        with pytest.raises(LayoutError, match="tensor parallelism"):
            cut.open(module)
    finally:
        dist.destroy_process_group()
