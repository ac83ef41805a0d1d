from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

import cutaway as cut
from cutaway.errors import InputError
from cutaway.zoo.base import Transformer
from cutaway.zoo.compiled.base import EVERYTHING, UNCLEAR, Indices, Map, Mean, Number, Pick, Program, Select, Tokens, Variable, count
from cutaway.zoo.compiled.compiler import compiled
from cutaway.zoo.compiled.majority import majority

WORDS = ("a", "b", "c", "d")
LENGTHS = (2, 3, 4, 5, 6, 7)


def _draw(rng: random.Random, length: int) -> list[str]:
    return rng.choices(WORDS, k=length)


def _program(output: Variable) -> Program:
    return Program(output, _draw, LENGTHS)


def _said(model: Transformer, words: Sequence[str]) -> list[str | None]:
    with torch.no_grad():
        best = model(torch.tensor([[model.vocab.index(word) for word in ("<bos>", *words)]]))[0, 1:].max(-1)
    return [model.vocab[i] if value > 5 else None for value, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]


def _random_program(rng: random.Random) -> Program:
    """Words made from words in three random steps: looked up, counted, or mapped alone or in twos."""
    tokens, indices = Tokens("tokens", WORDS), Indices("indices", LENGTHS[-1])
    found: list[Variable] = [tokens]
    for step in range(3):
        found.append(_random_step(rng, f"step {step}", (rng.choice(found), rng.choice(found)), indices))
    return _program(Map("answer", lambda word: word, (found[-1],)))


def _random_step(rng: random.Random, name: str, of: tuple[Variable, Variable], indices: Indices) -> Variable:
    wants = {(key, query): rng.choice((0, 0, 1, 2)) for key in (*WORDS, *indices.domain) for query in WORDS}
    table = {(left, right): rng.choice((*WORDS, None)) for left in WORDS for right in WORDS}
    keys = rng.choice((of[0], indices))
    kind = rng.randrange(4)
    if kind == 0:
        return Pick(name, Select(lambda key, query: wants[key, query], keys, of[1]), of[0])
    if kind == 1:
        return Map(name, lambda word: table[word, "a"], of[:1])
    if kind == 2:
        return Map(name, lambda left, right: table[left, right], of)
    times = count(f"n {name}", Select(lambda key, query: wants[key, query] > 0, keys, of[1]), LENGTHS[-1])
    return Map(name, lambda n: WORDS[n % len(WORDS)], (times,))


@pytest.mark.parametrize("seed", range(12))
def test_random_programs_are_compiled_right(seed: int) -> None:
    rng = random.Random(seed)
    program = _random_program(rng)
    if not program.output.domain:
        return
    model = compiled(program)
    for _ in range(20):
        words = _draw(rng, rng.choice(LENGTHS))
        for said, answer in zip(_said(model, words), program.answers(words), strict=True):
            assert answer in (said, UNCLEAR)


def test_edges_are_those_of_the_variables() -> None:
    tokens, indices = Tokens("tokens", WORDS), Indices("indices", LENGTHS[-1])
    before = Pick("before", Select(lambda key, query: key == query - 1, indices, indices), tokens)
    both = Map("both", lambda one, other: one + other, (before, tokens))
    model = compiled(_program(Pick("answer", Select(lambda key, query: key[0] == query, both, tokens), tokens)))
    assert model.circuit is not None
    assert model.circuit.edges == {
        "embed -> layers[0].attn.q[head=0]": ("indices",),
        "embed -> layers[0].attn.k[head=0]": ("indices", "<bos>"),
        "embed -> layers[0].attn.v[head=0]": ("tokens",),
        "layers[0].attn.z[head=0] -> layers[0].mlp.input": ("before",),
        "embed -> layers[0].mlp.input": ("tokens",),
        "embed -> layers[1].attn.q[head=0]": ("tokens",),
        "layers[0].mlp.output -> layers[1].attn.k[head=0]": ("both",),
        "embed -> layers[1].attn.k[head=0]": ("<bos>",),
        "embed -> layers[1].attn.v[head=0]": ("tokens",),
        "layers[1].attn.z[head=0] -> logits": ("answer",),
    }
    assert model.circuit.fixed == {
        "embed -> layers[0].attn.q[head=0]",
        "embed -> layers[0].attn.k[head=0]",
        "embed -> layers[1].attn.k[head=0]",
    }
    assert model.circuit.components == ("layers[0].attn.z[head=0]", "layers[0].mlp.output", "layers[1].attn.z[head=0]")


def test_parts_are_shared_and_numbers_take_one_direction() -> None:
    tokens = Tokens("tokens", WORDS)
    share = Mean("share", EVERYTHING, Number("is a", lambda word: int(word == "a"), (tokens,)), most=LENGTHS[-1])
    most, some = (Map(name, lambda part, least=least: part > least, (share,)) for name, least in (("most", 0.5), ("some", 0)))
    model = compiled(_program(Map("answer", lambda most, some: f"{most} {some}", (most, some))))
    heads = [part for part in model.circuit.components if "attn" in part]  # type: ignore[union-attr]
    assert len(heads) == 1  # one head for the share that both maps read
    assert _said(model, "aab") == ["True True", "True True", "True True"]
    assert _said(model, "bab") == ["False False", "False True", "False True"]


def test_a_model_answers_by_name_with_padding_and_word_by_word() -> None:
    lm = cut.open("compiled.reverse")
    texts = ["a b =", "c a d = d a"]
    assert [lm.token_text(int(i)) for i in lm.next_logits(texts).argmax(-1)] == ["b", "c"]


def test_far_from_where_a_function_changes_its_gradient_is_zero_and_along_a_path_it_is_not() -> None:
    model = majority()
    here, there = (model.embed(torch.tensor([[model.vocab.index(word) for word in ("<bos>", *4 * [other])]])).detach() for other in "xy")
    slopes = []
    for part in (i / 25 for i in range(25)):
        embedded = (here + part * (there - here)).requires_grad_()
        hook = model.embed.register_forward_hook(lambda _, args, output, embedded=embedded: embedded)
        logits = model(torch.zeros(1, 5, dtype=torch.long))[0, -1]
        hook.remove()
        (logits[model.vocab.index("x")] - logits[model.vocab.index("y")]).backward()
        slopes.append(float((embedded.grad * (there - here)).sum()))
    assert slopes[0] == 0.0 and min(slopes) < -1.0


def test_what_no_mlp_computes_is_refused() -> None:
    tokens = Tokens("tokens", WORDS)
    share = Mean("share", EVERYTHING, Number("one", lambda word: 1, (tokens,)), most=7)
    with pytest.raises(InputError, match=r"share \(a number\)"):
        compiled(_program(Map("answer", lambda part, word: word, (share, tokens))))
    with pytest.raises(InputError, match="one or two"):
        compiled(_program(Map("answer", lambda *words: words[0], (tokens, tokens, tokens))))
