"""TransformerLens 4: the bridge, its cache limited to what is asked, and its own patching function."""

from __future__ import annotations

from typing import Any

import transformer_lens.patching as patching
from subjects import GREEDY, Subject
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

TITLE = "TransformerLens"
PACKAGE = "transformer-lens"
IMPORTS = ("import transformer_lens", "from transformer_lens.model_bridge import TransformerBridge")


def load(subject: Subject) -> Any:
    patching.tqdm = lambda rows: rows  # its progress bar writes to the terminal
    name = "gpt2" if subject.module.config.model_type == "gpt2" else "HuggingFaceTB/SmolLM2-135M"  # type: ignore[union-attr]
    return TransformerBridge.boot_transformers(name, hf_model=subject.copy(), tokenizer=subject.tokenizer, device="cpu")


def idle(opened: Any, ids: Tensor) -> Tensor:
    return opened(ids)


def read(opened: Any, ids: Tensor, n: int) -> list[Tensor]:
    names = {f"blocks.{i}.hook_resid_post" for i in range(n)}
    _, cache = opened.run_with_cache(ids, names_filter=lambda name: name in names)
    return [cache["resid_post", i] for i in range(n)]


def patch(opened: Any, ids: Tensor, layer: int, value: Tensor) -> Tensor:
    return opened.run_with_hooks(ids, fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", lambda hidden, hook: value)])


def generate(opened: Any, ids: Tensor, layer: int) -> list[Tensor]:
    found: list[Tensor] = []
    with opened.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_post", lambda hidden, hook: found.append(hidden))]):
        made = opened.generate(
            ids, max_new_tokens=GREEDY["max_new_tokens"], do_sample=False, stop_at_eos=False, return_type="tokens", verbose=False
        )
    return [made, *found]


def sweep(opened: Any, subject: Subject) -> Tensor:
    _, cache = opened.run_with_cache(subject.clean, names_filter=lambda name: name.endswith("hook_resid_pre"))
    return patching.get_act_patch_resid_pre(opened, subject.corrupted, cache, lambda logits: subject.difference(logits[0, -1]))


READ = {"": read}
PATCH = {"": patch}
SWEEP = {"one forward a patch (get_act_patch_resid_pre)": sweep}
GENERATE = {"": generate}
PACKED: dict[str, Any] = {}
