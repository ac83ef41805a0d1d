"""Models with adapters of peft (LoRA and its kin), and weights that are not there as such: adapted, quantized, or offloaded."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.errors import LayoutError


def bare(module: nn.Module) -> nn.Module:
    """The model that adapters were put into, with them, without what peft wraps around it for training.

    Raises LayoutError for adapters that put tokens before every text, which no position of the text names.
    """
    peft: Any = sys.modules.get("peft")
    if peft is None or not isinstance(module, (peft.PeftModel, peft.PeftMixedModel)):
        return module
    if getattr(module.active_peft_config, "is_prompt_learning", False):
        kind = type(module.active_peft_config).__name__
        raise LayoutError(
            f"Open a {type(module).__name__} with standard names.",
            f"{kind}, which puts tokens of its own before every text",
            "adapters inside modules, such as LoRA; or model.get_base_model(), without the prompts",
        )
    found = module.base_model.model
    assert isinstance(found, nn.Module)
    return found


def matrix(projection: nn.Module, d_in: int) -> Tensor:
    """(d_in, d_out): what a linear module multiplies its input by, with its adapters, its bias apart.

    Read off the weights where they are plain numbers, else off what the module makes of the unit vectors.
    """
    weight = getattr(projection, "weight", None)
    if isinstance(weight, Tensor) and weight.is_floating_point() and not weight.is_meta and not hasattr(projection, "base_layer"):
        return weight.detach() if type(projection).__name__ == "Conv1D" else weight.detach().T  # GPT-2 stores it transposed
    numbers = [p for p in projection.parameters() if p.is_floating_point()]
    dtype = numbers[0].dtype if numbers else torch.get_default_dtype()
    device = next((p.device for p in projection.parameters() if not p.is_meta), torch.device("cpu"))
    with torch.no_grad():
        none = torch.zeros(1, d_in, dtype=dtype, device=device)
        made = projection(torch.eye(d_in, dtype=dtype, device=device)) - projection(none)
    assert isinstance(made, Tensor)
    return made
