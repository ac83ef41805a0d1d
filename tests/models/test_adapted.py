"""Models that are not as they were loaded: with adapters, compiled, offloaded. The standard names go on meaning what they mean."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from torch import Tensor, nn

import cutaway as cut
from cutaway.engine import detour, site
from cutaway.errors import EngineError, LayoutError
from cutaway.mediators.scale import scale
from cutaway.models.adapted import bare, matrix
from cutaway.models.language import LanguageModel

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks transformers for it

Fresh = Callable[..., nn.Module]
TEXT = "w1 w2 w3"
IDS = torch.tensor([[0, 1, 2, 3]])
TARGETS = {"llama": ["q_proj", "v_proj", "o_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"]}


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert not site._TAPS and not detour._CROSSINGS


@pytest.fixture
def opened(tokenizer: Callable[..., Any]) -> Callable[[nn.Module], LanguageModel]:
    return lambda module: cut.open(module, tokenizer=tokenizer())


Opened = Callable[[nn.Module], LanguageModel]


def lora(module: nn.Module, kind: str, wrapped: bool, **options: Any) -> nn.Module:
    """With adapters that matter."""
    import peft

    config = peft.LoraConfig(r=4, target_modules=TARGETS[kind], fan_in_fan_out=kind == "gpt2", task_type="CAUSAL_LM", **options)
    made: nn.Module = peft.get_peft_model(module, config) if wrapped else peft.inject_adapter_in_model(config, module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return made.eval()


def logits(module: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = module(input_ids=IDS, use_cache=False).logits
    return found


# Adapters


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_lora(fresh: Fresh, opened: Opened, family: str, wrapped: bool) -> None:
    plain, module = logits(fresh(family)), lora(fresh(family), family, wrapped)
    lm = opened(module)
    assert isinstance(lm, LanguageModel) and torch.equal(lm.run(TEXT).output.logits, logits(module))
    assert not torch.allclose(logits(module), plain, atol=0.1)
    with torch.no_grad(), lm.trace(TEXT) as run:
        z, out = lm.layers[1].attn.z, lm.layers[1].attn.output
        hidden = lm.layers[2].mlp.hidden
        lm.layers[2].mlp.output *= 0
    assert hidden.shape[-1] == lm.sizes.d_mlp and not torch.equal(run.output.logits, logits(module))
    projection = lm.part(f"{lm.family.layers}.1.{lm.family.attn}.{lm.family.projection}")
    bias = projection.base_layer.bias  # type: ignore[union-attr]
    made = torch.einsum("bphd,hdm->bpm", z, lm.head_writes(1)) + (0 if bias is None else bias)
    torch.testing.assert_close(made, out, rtol=1e-4, atol=1e-4)
    found = lm.run(TEXT, read=["norm", "logits"])
    words, biases = lm.word_directions(torch.tensor([3, 7]))
    torch.testing.assert_close(found["norm"] @ words.T + biases, found["logits"][..., [3, 7]])


def test_points_below_an_adapter(fresh: Fresh, opened: Opened) -> None:
    """What the adapter adds has a path of its own."""
    lm = opened(lora(fresh("llama"), "llama", wrapped=True))
    with torch.no_grad(), lm.trace(TEXT) as run:
        plain = lm.layers[0].attn.q_proj.base_layer.output
        added = lm["layers[0].attn.q_proj.lora_B.default"].output
        q = lm.layers[0].attn.q
    torch.testing.assert_close(q.flatten(-2), plain + 2.0 * added)  # lora_alpha / r
    assert run.finished


def test_sweeps_and_gradients_with_adapters(fresh: Fresh, opened: Opened) -> None:
    lm = opened(lora(fresh("llama"), "llama", wrapped=True))
    edits = [[("layers[1].mlp.output", scale(0.0))], [("layers[0].attn.z[head=2]", scale(2.0))]]
    swept = lm.sweep(TEXT, edits=edits, metric=lambda out: out)
    for row, edit in zip(swept, edits, strict=True):
        torch.testing.assert_close(row, lm.run(TEXT, edits=edit).output.logits[:, -1], rtol=1e-4, atol=1e-4)
    _, slopes = lm.gradients(TEXT, of=lambda out: out.logits[0, -1, 3], at=["layers[1].attn.z"])
    assert slopes["layers[1].attn.z"].abs().sum() > 0


def test_adapters_switched_off_and_merged(fresh: Fresh, opened: Opened) -> None:
    module = lora(fresh("llama"), "llama", wrapped=True)
    lm, plain, adapted = opened(module), logits(fresh("llama")), logits(module)
    with module.disable_adapter():
        torch.testing.assert_close(lm.run(TEXT).output.logits, plain)
        torch.testing.assert_close(lm.head_writes(0), opened(fresh("llama")).head_writes(0), rtol=1e-4, atol=1e-4)
    writes = lm.head_writes(0)
    module.merge_adapter()
    torch.testing.assert_close(lm.run(TEXT).output.logits, adapted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lm.head_writes(0), writes, rtol=1e-4, atol=1e-4)
    module.unmerge_adapter()


def test_prompts_that_are_learned_are_refused(fresh: Fresh, opened: Opened) -> None:
    import peft

    made = peft.get_peft_model(fresh("llama"), peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"))
    with pytest.raises(LayoutError, match=r"(?s)PromptTuningConfig.*tokens of its own.*get_base_model"):
        opened(made)
    assert torch.equal(opened(made.get_base_model().eval()).run(TEXT).output.logits, logits(fresh("llama")))


def test_what_has_no_adapters_is_left_alone(fresh: Fresh) -> None:
    module = fresh("llama")
    assert bare(module) is module


def test_matrix() -> None:
    from transformers.pytorch_utils import Conv1D

    linear, conv = nn.Linear(6, 4), Conv1D(4, 6)
    assert torch.equal(matrix(linear, 6), linear.weight.T) and torch.equal(matrix(conv, 6), conv.weight)
    torch.testing.assert_close(matrix(_Quantized(linear), 6), linear.weight.T, rtol=0, atol=0.01)


class _Quantized(nn.Module):
    """Weights in eight bits, as some libraries keep them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.step = nn.Parameter(linear.weight.detach().abs().max() / 127)
        self.register_buffer("weight", (linear.weight.detach() / self.step).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight.to(x.dtype) * self.step).T + self.bias


# Compiled


@pytest.mark.parametrize(
    "how", ["blocks", *(pytest.param(how, marks=pytest.mark.slow) for how in ("blocks, aot", "wrapped", "in place", "forward"))]
)
def test_compiled(fresh: Fresh, opened: Opened, how: str) -> None:
    module = fresh("llama")
    compiled = module
    if how.startswith("blocks"):
        for block in module.model.layers[1:2] if how == "blocks" else module.model.layers:
            block.compile(backend="aot_eager" if "aot" in how else "eager")
    elif how == "wrapped":
        compiled = torch.compile(module, backend="eager")
    elif how == "in place":
        module.compile(backend="eager")
    else:
        module.forward = torch.compile(module.forward, backend="eager")
    before = logits(compiled)
    lm, plain = opened(compiled), opened(fresh("llama"))
    points = ["layers[1].attn.q", "layers[1].attn.pattern", "layers[1].mlp.hidden", "layers[1].output", "logits"]
    edits = [("layers[1].mlp.output", scale(0.5))]
    found, expected = (one.run(TEXT, read=points, edits=edits) for one in (lm, plain))
    assert all(torch.equal(found[point], expected[point]) for point in points)
    ends = []
    for one in (lm, plain):
        with torch.no_grad(), one.trace(TEXT) as run:
            one.layers[1].attn.source.attention_interface_0.output  # noqa: B018
            one.layers[1].mlp.output *= 2
            one.layers[2].skip(one.layers[2].input)
        ends.append(run.output.logits)
    assert torch.equal(*ends)
    swept = [one.sweep(TEXT, edits=[edits], metric=lambda out: out) for one in (lm, plain)]
    torch.testing.assert_close(*swept)
    torch.testing.assert_close(logits(compiled), before)  # compiled as before
    dynamo = sys.modules["torch._dynamo"]
    assert dynamo.eval_frame._stance.stance == "default"


# Offloaded, and given hooks by accelerate


def offloaded(module: nn.Module, how: str, folder: Path) -> nn.Module:
    if how == "disk":
        accelerate.disk_offload(module, str(folder), execution_device=torch.device("cpu"))
    elif how == "memory":
        accelerate.cpu_offload(module, execution_device=torch.device("cpu"))
    else:
        accelerate.dispatch_model(module, {"": "cpu"}, main_device="cpu", force_hooks=True)
    return module


@pytest.mark.parametrize("how", ["disk", "memory", "dispatched"])
def test_weights_elsewhere(fresh: Fresh, opened: Opened, tmp_path: Path, how: str) -> None:
    module, plain = offloaded(fresh("llama"), how, tmp_path), opened(fresh("llama"))
    forwards = [part.__dict__.get("forward") for part in module.modules()]
    assert any(forwards) and next(module.parameters()).is_meta == (how != "dispatched")
    lm = opened(module)
    points = ["layers[0].attn.q", "layers[1].attn.pattern", "layers[2].output", "logits"]
    edits = [("layers[1].mlp.output", scale(0.5))]
    found, expected = (one.run(TEXT, read=points, edits=edits) for one in (lm, plain))
    assert all(torch.equal(found[point], expected[point]) for point in points)
    ends = []
    for one in (lm, plain):
        with torch.no_grad(), one.trace(TEXT) as run:
            one.layers[0].attn.skip(one.layers[0].attn.input)
            one.layers[1].mlp.output *= 2
        ends.append(run.output.logits)
        with one.generate(TEXT, new_tokens=3) as run:
            for _ in run.steps[1:]:
                one.layers[1].output += 1
        ends.append(run.output)
        ends.append(one.sweep(TEXT, edits=[edits, []], metric=lambda out: out))
        ends.append(one.head_writes(1))
        ends.append(one.word_directions(torch.tensor([3, 7]))[0])
    for ours, theirs in zip(ends[:5], ends[5:], strict=True):
        torch.testing.assert_close(ours, theirs)
    assert [part.__dict__.get("forward") for part in module.modules()] == forwards


def test_source_of_a_forward_that_accelerate_stands_around(fresh: Fresh, opened: Opened, tmp_path: Path) -> None:
    lm = opened(offloaded(fresh("llama"), "dispatched", tmp_path))
    with pytest.raises(EngineError, match=r"(?s)Linear\.forward.*a decorator"), torch.no_grad(), lm.trace(TEXT):
        lm.layers[0].attn.q_proj.source.F_linear_0.output  # noqa: B018
