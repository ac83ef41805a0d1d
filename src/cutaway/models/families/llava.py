"""LLaVA with a CLIP tower and a Llama, Mistral or Qwen2: projected patches stand in place of the prompt's image tokens."""

from __future__ import annotations

from cutaway.models.families.base import Layout, Where, attention, heads_of, shared

_TOWER, _WORDS = "vision_tower.encoder.layers.{i}", "language_model.layers.{i}"
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_KEYS = heads_of("text_config.num_key_value_heads")

llava = Layout(
    name="llava",
    kind="vision_language",
    model_types=("llava",),
    points={
        "vision.embed": Where("vision_tower.pre_layrnorm", "output"),
        "vision.layers[i].input": Where(_TOWER, "input", shared),  # in place: of one of these states, the model keeps a reference
        **attention(
            "vision.layers[i].attn",
            f"{_TOWER}.self_attn",
            _PROJECTIONS,
            f"{_TOWER}.self_attn.out_proj",
            heads_of("vision_config.num_attention_heads"),
        ),
        "vision.layers[i].attn.output": Where(f"{_TOWER}.self_attn", "output"),
        "vision.layers[i].mid": Where(f"{_TOWER}.layer_norm2", "input", shared),
        "vision.layers[i].mlp.hidden": Where(f"{_TOWER}.mlp.fc2", "input"),
        "vision.layers[i].mlp.output": Where(f"{_TOWER}.mlp", "output"),
        "vision.layers[i].output": Where(_TOWER, "output", shared),
        "projected": Where("multi_modal_projector", "output"),
        "embed": Where("language_model.embed_tokens", "output"),
        "layers[i].input": Where(_WORDS, "input"),
        **attention(
            "layers[i].attn", f"{_WORDS}.self_attn", _PROJECTIONS, f"{_WORDS}.self_attn.o_proj", heads_of("text_config.num_attention_heads")
        ),
        "layers[i].attn.k": Where(f"{_WORDS}.self_attn.k_proj", "output", _KEYS),
        "layers[i].attn.v": Where(f"{_WORDS}.self_attn.v_proj", "output", _KEYS),
        "layers[i].attn.output": Where(f"{_WORDS}.self_attn", "output"),
        "layers[i].mid": Where(f"{_WORDS}.post_attention_layernorm", "input", shared),
        "layers[i].mlp.hidden": Where(f"{_WORDS}.mlp.down_proj", "input"),
        "layers[i].mlp.output": Where(f"{_WORDS}.mlp", "output"),
        "layers[i].output": Where(_WORDS, "output"),
        "norm": Where("language_model.norm", "output"),
        "logits": Where("lm_head", "output"),
    },
    modules={
        "vision": "vision_tower",
        "vision.layers": "vision_tower.encoder.layers",
        "vision.layers[i].attn": f"{_TOWER}.self_attn",
        "layers": "language_model.layers",
        "layers[i].attn": f"{_WORDS}.self_attn",
    },
    missing={"vision.norm": ("the language model reads what a block leaves, before the norm", "vision.layers[i].output or projected")},
)
