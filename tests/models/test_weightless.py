"""A described model is the model: its points, sizes and tokens, what is recorded on it; without weights. Others are refused, at little cost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import cutaway as cut
from cutaway.engine import wire
from cutaway.errors import InputError, LayoutError, UnknownNameError
from cutaway.models.language import LanguageModel
from cutaway.models.named_module import NamedModule
from cutaway.models.weightless import described, weightless

Fresh = Callable[..., nn.Module]
Words = Callable[..., Any]
TEXT = "w1 w2 w3 w4"
QUICK = ("llama", "gpt2")


def stored(folder: Path, module: Any, words: Any = None) -> str:
    module.save_pretrained(folder)
    if words is not None:
        words.save_pretrained(folder)
    return str(folder)


def sent(description: dict[str, Any]) -> dict[str, Any]:
    """As it is on the other side of a wire."""
    return wire.unpacked(wire.packed(description), 2**28)


def assert_without_weights(thin: Any) -> None:
    tensors = [*thin.module.parameters(), *thin.module.buffers()]
    assert tensors and all(tensor.is_meta for tensor in tensors)


def assert_the_same(name: str, text: str) -> None:
    shorter = text.rpartition(" ")[0]
    lm, thin = cut.open(name), weightless(sent(described(name)))
    assert isinstance(thin, LanguageModel)
    assert_without_weights(thin)
    assert (thin.name, thin.sizes, thin.family, thin.points()) == (lm.name, lm.sizes, lm.family, lm.points())
    assert torch.equal(thin.tokens([text, shorter]).ids, lm.tokens([text, shorter]).ids) and thin.bos_id == lm.bos_id
    assert {n: (p.shape, p.dtype) for n, p in thin.module.named_parameters()} == {
        n: (p.shape, p.dtype) for n, p in lm.module.named_parameters()
    }
    graphs = []
    for model in (lm, thin):
        if hasattr(model.module, "set_experts_implementation"):
            model.module.set_experts_implementation("batched_mm")
        with model.record(text) as run:
            model.layers[1].output = model.layers[1].output * 2
            run.save(logits=model.logits)
        graphs.append(run.graph)
    assert graphs[0].hash == graphs[1].hash


@pytest.mark.parametrize("name", ["induction_lm", "compiled.reverse"])
def test_a_model_of_the_zoo(name: str) -> None:
    assert_the_same(name, "red blue gold" if name == "induction_lm" else "a b c =")


@pytest.mark.parametrize("architecture", QUICK)
def test_a_folder(architecture: str, fresh: Fresh, tokenizer: Words, tmp_path: Path) -> None:
    assert_the_same(stored(tmp_path, fresh(architecture), tokenizer()), TEXT)


@pytest.mark.slow
def test_every_architecture(kind: str, fresh: Fresh, tokenizer: Words, tmp_path: Path) -> None:
    assert_the_same(stored(tmp_path, fresh(kind), tokenizer()), TEXT)


@pytest.mark.slow
def test_a_real_model() -> None:
    assert_the_same("smollm2-135m", "The Eiffel Tower is in the city of")


def test_a_model_of_another_kind(tmp_path: Path) -> None:
    import transformers

    config = transformers.BertConfig(vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    name = stored(tmp_path, transformers.BertForMaskedLM(config).eval())
    whole, thin = cut.open(name), weightless(sent(described(name)))
    assert isinstance(thin, NamedModule) and thin.points() == whole.points() and thin.name == name
    assert_without_weights(thin)
    with thin.record(input_ids=torch.tensor([[1, 2, 3]])) as run:
        run.save(z=thin.layers[1].attn.z)
    replayed = whole.replay(run.graph, input_ids=torch.tensor([[1, 2, 3]]))
    assert torch.equal(replayed.saved["z"], whole.run(input_ids=torch.tensor([[1, 2, 3]]), read=["layers[1].attn.z"])["layers[1].attn.z"])


def test_dtype_of_the_weights() -> None:
    thin = weightless(described("induction_lm", dtype="bfloat16"))
    assert {p.dtype for p in thin.module.parameters()} == {torch.bfloat16}
    with pytest.raises(InputError, match="float32"):
        weightless({**described("induction_lm"), "dtype": "int8"})


def test_revision_follows_the_weights(fresh: Fresh, tokenizer: Words, tmp_path: Path) -> None:
    name = stored(tmp_path, fresh("gpt2"), tokenizer())
    first = described(name)["revision"]
    assert described(name)["revision"] == first
    weights = tmp_path / "model.safetensors"
    os.utime(weights, ns=(0, weights.stat().st_mtime_ns + 1))
    assert described(name)["revision"] != first
    assert described("induction_lm")["revision"] != described("algebra_lm")["revision"]


def test_the_global_generator_is_left_alone(fresh: Fresh, tokenizer: Words, tmp_path: Path) -> None:
    told = described(stored(tmp_path, fresh("llama"), tokenizer()))
    before = torch.get_rng_state()
    weightless(told), weightless(described("induction_lm"))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_name_that_is_none() -> None:
    with pytest.raises(UnknownNameError, match="induction_lm"):
        described("indction_lm")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[[str], LanguageModel]) -> dict[str, Any]:
    lm = tiny("llama")
    return described(stored(tmp_path_factory.mktemp("llama"), lm.module, lm.tokenizer))


ENTRIES: dict[str, dict[str, Any]] = {
    "fewer than none": {"vocab_size": -1},
    "no activation": {"hidden_act": "os.system"},
    "no type": {"model_type": "../../etc"},
    "too deep": {"num_hidden_layers": 10**9},
    "too wide": {"hidden_size": 2**62},
    "no heads": {"num_attention_heads": 0},
}


@pytest.mark.parametrize("name", [n if n != "too deep" else pytest.param(n, marks=pytest.mark.slow) for n in ENTRIES])
def test_hostile_configs_are_refused(name: str, told: dict[str, Any]) -> None:
    started = time.monotonic()
    with pytest.raises((InputError, LayoutError)):
        weightless({**told, "config": {**told["config"], **ENTRIES[name]}})
    assert time.monotonic() - started < 15


FIELDS: dict[str, dict[str, Any]] = {
    "a path as a file": {"files": {"../../tokenizer.json": "{}"}},
    "code as a file": {"files": {"tokenization_evil.py": "import os"}},
    "bytes as a file": {"files": {"tokenizer.json": b"{}"}},
    "a broken tokenizer": {"files": {"tokenizer.json": "{", "tokenizer_config.json": "{}"}},
    "another kind": {"kind": "pickle"},
    "no class": {"class": "os"},
    "a function": {"class": "pipeline"},
    "a dunder": {"class": "__loader__"},
    "a name with a line break": {"name": "a\nb"},
    "another field": {"code": "import os"},
    "a number": {"config": 3},
}


@pytest.mark.parametrize("name", list(FIELDS))
def test_hostile_descriptions_are_refused(name: str, told: dict[str, Any]) -> None:
    with pytest.raises((InputError, LayoutError)):
        weightless({**told, **FIELDS[name]})


@pytest.mark.parametrize("entries", [{"n_layers": "2"}, {"vocab": 3}, {"code": 1}, {"n_layers": 10**9}, {"d_model": 2**62}, {"biases": 1}])
def test_hostile_zoo_configs_are_refused(entries: dict[str, Any]) -> None:
    zoo = described("induction_lm")
    with pytest.raises(InputError):
        weightless({**zoo, "config": {**zoo["config"], **entries}})


def test_code_that_comes_with_a_model_is_not_run(told: dict[str, Any], tmp_path: Path) -> None:
    """Entries that make transformers import a module of the model's own name nothing any more."""
    code = tmp_path / "evil.py"
    code.write_text("raise SystemExit('code of the model was run')")
    mapped = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": f"{tmp_path}--evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    settings = json.loads(told["files"]["tokenizer_config.json"]) | {"auto_map": mapped}
    files = {**told["files"], "tokenizer_config.json": json.dumps(settings)}
    thin = weightless({**told, "config": {**told["config"], "auto_map": mapped}, "files": files})
    assert isinstance(thin, LanguageModel) and len(thin.tokens(TEXT)) == 1
