"""The standard names: one row per point, from which the resolver, the docs page and the parity tests derive.

A family (`families/`) says where each point lies in its modules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from cutaway.engine.place import IMAGE

RESIDUAL = ("batch", "pos", "d_model")
HEADS = ("batch", "pos", "head", "d_head")
KV_HEADS = ("batch", "pos", "kv_head", "d_head")
MAP = ("batch", "head", "query", "key")
PAIR = ("batch", "pos", "pos2", "d_pair")


@final
@dataclass(frozen=True)
class Point:
    """One standard name, what it holds, and its axes."""

    name: str
    dims: tuple[str, ...]
    meaning: str
    without: tuple[str, str] | None = None
    """What is found, and what works instead, in a family that does not speak of this point; None where each has to."""


CHANNELS = ("batch", "pos", "d_inner")
_NO_EXPERTS = ("its MLPs are not mixtures of experts", "layers[i].mlp.hidden or layers[i].mlp.output")
_NO_STATE_SPACE = ("its blocks have no state space", "layers[i].attn.z or layers[i].attn.output")

POINTS = (
    Point("embed", RESIDUAL, "token embeddings, before anything is added to them"),
    Point("layers[i].input", RESIDUAL, "the residual stream as block i finds it"),
    Point("layers[i].mid", RESIDUAL, "the residual stream between attention and MLP; only where one follows the other"),
    Point("layers[i].output", RESIDUAL, "the residual stream as block i leaves it"),
    Point("layers[i].attn.q", HEADS, "queries, before the rotary embedding: the pattern is recomputed from edits"),
    Point("layers[i].attn.k", KV_HEADS, "keys, before the rotary embedding"),
    Point("layers[i].attn.v", KV_HEADS, "values"),
    Point("layers[i].attn.scores", MAP, "scaled and masked products of queries and keys, before the softmax"),
    Point("layers[i].attn.pattern", MAP, "attention weights, after the softmax"),
    Point("layers[i].attn.z", HEADS, "what each head read, before the output projection"),
    Point("layers[i].attn.output", RESIDUAL, "what attention adds to the residual stream"),
    Point("layers[i].mlp.hidden", ("batch", "pos", "d_mlp"), "the neurons: what enters the MLP's last projection"),
    Point(
        "layers[i].mlp.router",
        ("batch", "pos", "expert"),
        "logits of the experts: which run, and their weights, follow from edits",
        _NO_EXPERTS,
    ),
    Point("layers[i].mlp.output", RESIDUAL, "what the MLP adds to the residual stream"),
    Point("layers[i].ssm.gate", CHANNELS, "the gate, before its activation", _NO_STATE_SPACE),
    Point(
        "layers[i].ssm.conv", CHANNELS, "what the state space reads: channels after the convolution over earlier tokens", _NO_STATE_SPACE
    ),
    Point("layers[i].ssm.scan", CHANNELS, "what the state space gives, before the gate", _NO_STATE_SPACE),
    Point("layers[i].ssm.z", CHANNELS, "what passed the gate, before the output projection", _NO_STATE_SPACE),
    Point("layers[i].ssm.output", RESIDUAL, "what the state space adds to the residual stream", _NO_STATE_SPACE),
    Point("norm", RESIDUAL, "the residual stream after the final norm"),
    Point("logits", ("batch", "pos", "vocab"), "the model's output before the softmax over words"),
)


def _attention(at: str, read: str = "", adds: str = "attention") -> tuple[Point, ...]:
    return (
        Point(f"{at}.q", HEADS, "queries"),
        Point(f"{at}.k", HEADS, f"keys{read}"),
        Point(f"{at}.v", HEADS, f"values{read}"),
        Point(f"{at}.scores", MAP, "scaled and masked products of queries and keys, before the softmax"),
        Point(f"{at}.pattern", MAP, "attention weights, after the softmax"),
        Point(f"{at}.z", HEADS, "what each head read, before the output projection"),
        Point(f"{at}.output", RESIDUAL, f"what {adds} adds to the residual stream"),
    )


def _blocks(at: str, cross: tuple[Point, ...] = ()) -> tuple[Point, ...]:
    """Points of transformer blocks of which every one attends, then applies an MLP, in the order a forward passes them."""
    return (
        Point(f"{at}.input", RESIDUAL, "the residual stream as block i finds it"),
        *_attention(f"{at}.attn"),
        *cross,
        Point(f"{at}.mid", RESIDUAL, "the residual stream between attention and MLP; normed, where norms come after the sums"),
        Point(f"{at}.mlp.hidden", ("batch", "pos", "d_mlp"), "the neurons: what enters the MLP's last projection"),
        Point(f"{at}.mlp.output", RESIDUAL, "what the MLP adds to the residual stream"),
        Point(f"{at}.output", RESIDUAL, "the residual stream as block i leaves it"),
    )


def _stages(at: str) -> tuple[Point, ...]:
    """Points of a UNet's block: a convolutional part, and a transformer after it where there is one."""
    inside = at.count("[")
    one, two = f"[{'ijk'[inside]}]", f"[{'ijk'[inside + 1]}]" if inside < 2 else ""
    blocks = f"{at}.attentions{one}.blocks{two}"
    return (
        Point(f"{at}.resnets{one}.output", IMAGE, "features after a convolutional part"),
        Point(f"{at}.attentions{one}.input", IMAGE, "features as a transformer finds them"),
        Point(f"{blocks}.input", RESIDUAL, "the residual stream inside it: pos counts cells of the map row by row"),
        Point(f"{blocks}.attn.pattern", MAP, "weights of attention to the other cells"),
        Point(f"{blocks}.attn.output", RESIDUAL, "what attention to the other cells adds"),
        Point(f"{blocks}.cross.pattern", MAP, "weights of attention to the condition: query counts cells, key its tokens"),
        Point(f"{blocks}.cross.output", RESIDUAL, "what attention to the condition adds"),
        Point(f"{blocks}.mlp.hidden", ("batch", "pos", "d_mlp"), "the neurons: what enters the MLP's last projection"),
        Point(f"{blocks}.mlp.output", RESIDUAL, "what the MLP adds"),
        Point(f"{blocks}.output", RESIDUAL, "the residual stream as it is left"),
        Point(f"{at}.attentions{one}.output", IMAGE, "features as the transformer leaves them"),
    )


KINDS: Mapping[str, tuple[Point, ...]] = {
    "encoder": (
        Point("embed", RESIDUAL, "embeddings of tokens, positions and segments, as the first block finds them"),
        *_blocks("layers[i]"),
        Point("norm", RESIDUAL, "the residual stream after the final norm"),
        Point("logits", ("batch", "pos", "vocab"), "the output of a head that predicts masked words"),
    ),
    "encoder_decoder": (
        Point("encoder.embed", RESIDUAL, "what the first block of the encoder finds"),
        *_blocks("encoder.layers[i]"),
        Point("encoder.norm", RESIDUAL, "the encoder's output, which the decoder reads"),
        Point("decoder.embed", RESIDUAL, "what the first block of the decoder finds"),
        *_blocks(
            "decoder.layers[i]",
            _attention("decoder.layers[i].cross", " of the encoder's output: pos counts its tokens", "attention to the encoder"),
        ),
        Point("decoder.norm", RESIDUAL, "the decoder's output"),
        Point("logits", ("batch", "pos", "vocab"), "the model's output before the softmax over words"),
    ),
    "vision": (
        Point("embed", RESIDUAL, "embeddings of patches and special tokens with their positions, as the first block finds them"),
        *_blocks("layers[i]"),
        Point("norm", RESIDUAL, "the residual stream after the final norm"),
        Point("logits", ("batch", "label"), "the output of a classifier's head"),
    ),
    "dual_encoder": (
        *(
            point
            for tower, tokens in (("vision", "patches"), ("text", "words"))
            for point in (
                Point(f"{tower}.embed", RESIDUAL, f"embeddings of {tokens} with their positions, as the first block finds them"),
                *_blocks(f"{tower}.layers[i]"),
                Point(f"{tower}.norm", RESIDUAL, "the residual stream after the final norm"),
                Point(
                    f"{tower}.embedding",
                    ("batch", "d_embedding"),
                    "the tower's output in the space both share, before it is given length one",
                ),
            )
        ),
        Point("logits", ("batch", "text"), "similarity of every image (batch) to every text"),
    ),
    "audio": (
        Point("features", ("batch", "pos", "d_feature"), "what the convolutions make of the sound, a frame a position"),
        Point("embed", RESIDUAL, "the same with positions, as the first block finds them"),
        *_blocks("layers[i]"),
        Point("norm", RESIDUAL, "the residual stream after the final norm"),
        Point("logits", ("batch", "pos", "vocab"), "the output of a head that predicts symbols, frame by frame"),
    ),
    "convolutional": (
        Point("embed", IMAGE, "features as the first stage finds them"),
        Point("stages[i].layers[j].input", IMAGE, "features as layer j of stage i finds them"),
        Point("stages[i].layers[j].output", IMAGE, "features as it leaves them"),
        Point("stages[i].output", IMAGE, "features as stage i leaves them"),
        Point("pooled", ("batch", "d_model"), "features averaged over the image, as the head finds them"),
        Point("logits", ("batch", "label"), "the output of a classifier's head"),
    ),
    "unet": (
        Point("embed", IMAGE, "features of the latent, as the first block finds them"),
        *_stages("down[i]"),
        Point(
            "down[i].output",
            IMAGE,
            "features as block i hands them down, made smaller; its skip connections have their own: to reach those too, edit its parts",
        ),
        *_stages("mid"),
        Point("mid.output", IMAGE, "features as the middle block leaves them"),
        *_stages("up[i]"),
        Point("up[i].output", IMAGE, "features as block i hands them up, made larger"),
        Point("norm", IMAGE, "features after the final norm"),
    ),
    "diffusion_transformer": (
        Point("embed", RESIDUAL, "patches of the latent with their positions: pos counts them row by row"),
        Point("layers[i].input", RESIDUAL, "the residual stream as block i finds it"),
        *_attention("layers[i].attn")[:-1],
        Point(
            "layers[i].attn.output",
            RESIDUAL,
            "what attention gives; a gate that depends on time and condition scales it before it is added",
        ),
        Point("layers[i].mlp.hidden", ("batch", "pos", "d_mlp"), "the neurons: what enters the MLP's last projection"),
        Point("layers[i].mlp.output", RESIDUAL, "what the MLP gives, before its gate"),
        Point("layers[i].output", RESIDUAL, "the residual stream as block i leaves it"),
        Point("norm", RESIDUAL, "the residual stream after the final norm, before time and condition shift and scale it"),
    ),
    "vision_language": (
        Point("vision.embed", RESIDUAL, "embeddings of patches with their positions, as the first block of the vision tower finds them"),
        *_blocks("vision.layers[i]"),
        Point("vision.norm", RESIDUAL, "the vision tower's residual stream after its final norm"),
        Point(
            "projected", RESIDUAL, "what the vision tower gives the language model: one vector per image token, an image a row of the batch"
        ),
        Point("embed", RESIDUAL, "embeddings of the words, before image tokens are put in"),
        *_blocks("layers[i]"),
        Point("norm", RESIDUAL, "the residual stream after the final norm"),
        Point("logits", ("batch", "pos", "vocab"), "the model's output before the softmax over words"),
    ),
    "folding": (
        Point("blocks[i].input", RESIDUAL, "the state of every residue as block i finds it"),
        Point("blocks[i].pair_input", PAIR, "the state of every pair of residues as block i finds it"),
        Point("blocks[i].attn.bias", ("batch", "pos", "pos2", "head"), "what the pairs add to the scores: pos reads, pos2 is read"),
        Point("blocks[i].attn.q", HEADS, "queries"),
        Point("blocks[i].attn.k", HEADS, "keys"),
        Point("blocks[i].attn.v", HEADS, "values"),
        Point("blocks[i].attn.z", HEADS, "what each head read, gated, before the output projection"),
        Point("blocks[i].attn.output", RESIDUAL, "what attention adds to the residues"),
        Point("blocks[i].mid", RESIDUAL, "the residues between attention and MLP"),
        Point("blocks[i].mlp.hidden", ("batch", "pos", "d_mlp"), "the neurons of the residues' MLP"),
        Point("blocks[i].mlp.output", RESIDUAL, "what that MLP adds to the residues"),
        Point("blocks[i].to_pair", PAIR, "what the residues add to the pairs"),
        Point("blocks[i].triangle.outgoing", PAIR, "what the triangle update over outgoing edges adds to the pairs"),
        Point("blocks[i].triangle.incoming", PAIR, "the same over incoming edges"),
        Point("blocks[i].triangle.starting", PAIR, "what triangle attention around the starting node adds to the pairs"),
        Point("blocks[i].triangle.ending", PAIR, "the same around the ending node"),
        Point("blocks[i].pair_mlp.hidden", ("batch", "pos", "pos2", "d_mlp"), "the neurons of the pairs' MLP"),
        Point("blocks[i].pair_mlp.output", PAIR, "what that MLP adds to the pairs"),
        Point("blocks[i].output", RESIDUAL, "the residues as block i leaves them"),
        Point("blocks[i].pair", PAIR, "the pairs as block i leaves them"),
    ),
}
"""Tables of models that are no decoder language models: kind of a `Layout` -> its points."""


_COLUMNS = ("| name | axes | what it holds |", "|---|---|---|")


def table(points: Sequence[Point] = POINTS) -> str:
    """Points as a Markdown table."""
    return "\n".join([*_COLUMNS, *(f"| `{point.name}` | {', '.join(point.dims)} | {point.meaning} |" for point in points)])


def tables() -> str:
    """A section for every other kind of model: what `docs/points.md` holds between its markers."""
    titles = ((kind, kind.replace("_", " ").capitalize()) for kind in KINDS)
    return "\n\n".join(f"### {title}\n\n{table(KINDS[kind])}" for kind, title in titles)


BY_NAME = {point.name: point for point in POINTS}
_LAYER = re.compile(r"^layers\[(\d+)\]")


def row(name: str) -> tuple[Point, int] | None:
    """The table row of a name and its layer (0 where it has none); None for a name that is not in the table."""
    layer = _LAYER.match(name)
    point = BY_NAME.get(_LAYER.sub("layers[i]", name))
    return None if point is None else (point, int(layer[1]) if layer else 0)


_INDEX = re.compile(r"\[(\d+)\]")
_LETTERS = "ijk"


def generic(name: str) -> tuple[str, dict[str, int]]:
    """A name with letters for its indices, and what they stand for.

    >>> generic("down[1].resnets[0].output")
    ('down[i].resnets[j].output', {'i': 1, 'j': 0})
    """
    indices = [int(found) for found in _INDEX.findall(name)][: len(_LETTERS)]
    for letter in _LETTERS[: len(indices)]:
        name = _INDEX.sub(f"[{letter}]", name, count=1)
    return name, dict(zip(_LETTERS, indices, strict=False))


def standard(name: str) -> bool:
    """Whether a name, or what comes before its first index or dot, begins a standard name of any kind of model."""
    root = re.split(r"[.\[]", name, maxsplit=1)[0]
    whole, _ = generic(name)
    every = [point.name for points in (POINTS, *KINDS.values()) for point in points]
    return whole in every or (name == root and any(re.split(r"[.\[]", other, maxsplit=1)[0] == root for other in every))
