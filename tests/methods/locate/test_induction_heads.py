"""Both routes, planted in one model and apart in it; the heads that training made; and a real model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cutaway as cut
from cutaway.errors import InputError, PromptError
from cutaway.models.language import LanguageModel
from cutaway.results.scores import Scores
from cutaway.tasks.base import Pair, Task
from cutaway.zoo.base import Attention, Transformer, TransformerConfig

LENGTH = 5
ORDINARY = tuple(f"{a}{b}" for a in "abcd" for b in "klmn")
PIECES = ("Ki", "~wi", "Co", "~la", "Tu", "~ba", "Pa", "~pa")
WORDS = ("Ki~wi", "Co~la", "Tu~ba", "Pa~pa")
VOCAB = ("<bos>", *ORDINARY, *PIECES)
V, P = len(VOCAB), 12
TOKEN, PLACE, PREVIOUS, TWO_BACK, AHEAD, SAID, IDLE = (
    slice(i, i + n) for i, n in ((0, V), (V, P), (37, V), (62, V), (87, V), (112, V), (137, 8))
)
SHARP = 60.0
TOKENS, CONCEPTS = "layers[1].attn.z[head=0]", "layers[1].attn.z[head=1]"


def _wire(attn: Attention, head: int, queries: torch.Tensor, keys: torch.Tensor, reads: slice, writes: slice) -> None:
    """queries, keys (d_head, d_model). Values are tokens, the one that opens a text left out."""
    rows = slice(head * attn.d_head, (head + 1) * attn.d_head)
    attn.q_proj.weight[rows], attn.k_proj.weight[rows] = SHARP * attn.d_head**0.5 * queries, keys
    width = reads.stop - reads.start
    values = torch.eye(width)
    values[0] = 0
    attn.v_proj.weight[rows][:width, reads] = values
    attn.o_proj.weight[writes, rows.start : rows.start + width] = torch.eye(width)


@pytest.fixture(scope="module")
def two_routes() -> LanguageModel:
    """Layer 0 knows the last two tokens. Layer 1, head 0: says what followed the present token; head 1: notes the token two after it, the end of the
    word that comes next. Layer 2, head 0: says what the token before noted, but only within a word. The third heads are random and unheard.
    """
    config = TransformerConfig(VOCAB, n_layers=3, n_heads=3, d_model=IDLE.stop, d_head=V + 2, max_length=P, norm=False, biases=False)
    model, generator = Transformer(config), torch.Generator().manual_seed(0)
    back = [torch.zeros(V + 2, IDLE.stop) for _ in range(2)]
    places, same, first, second = (torch.zeros(V + 2, IDLE.stop) for _ in range(4))
    for place in range(P):
        places[place, PLACE.start + place] = 1
        for steps in (1, 2):
            back[steps - 1][max(place - steps, 0), PLACE.start + place] = 1
    same[:V, TOKEN] = torch.eye(V)
    for keys, seen in ((first, PREVIOUS), (second, TWO_BACK)):
        keys[:V, seen] = torch.eye(V)
        keys[1:V, 0] = 0.5  # where nothing matches, the token that opens the text
    inside, opening = back[0].clone(), places.clone()
    inside[V, 1 : 1 + len(ORDINARY)], opening[V, 0] = 1, 2
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.embed.weight[:, TOKEN], model.position.weight[:, PLACE] = torch.eye(V), torch.eye(P)
        for block in model.blocks:
            rows = slice(2 * (V + 2), None)
            for weight in (
                block.attn.q_proj.weight[rows, TOKEN],
                block.attn.v_proj.weight[rows, TOKEN],
                block.attn.o_proj.weight[IDLE, rows],
            ):
                weight.copy_(torch.randn(weight.shape, generator=generator))
        one, two, three = (block.attn for block in model.blocks)
        _wire(one, 0, back[0], places, TOKEN, PREVIOUS)
        _wire(one, 1, back[1], places, TOKEN, TWO_BACK)
        _wire(two, 0, same, first, TOKEN, SAID)
        _wire(two, 1, same, second, TOKEN, AHEAD)
        _wire(three, 0, inside, opening, AHEAD, SAID)
        model.unembed.weight[:, SAID] = 10 * torch.eye(V)
    return cut.open(model.eval(), tokenizer=_tokenizer())


def _tokenizer() -> object:
    """Words between spaces; one with a ~ in it is two tokens."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCAB)}))
    apart = pre_tokenizers.Split(Regex("~"), "merged_with_next")
    words.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), apart])
    words.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<bos>")


@pytest.fixture(scope="module")
def task() -> Task:
    """A task that only lends its name: words are given."""
    return Task("lists", (Pair(cut.Prompt("ak bl"), cut.Prompt("ak cm"), "ak", "bl"),))


@pytest.fixture(scope="module")
def scores(two_routes: LanguageModel, task: Task) -> Scores:
    return cut.locate.induction_heads(two_routes, task, words=WORDS, length=LENGTH, samples=12)


def _column(scores: Scores, name: str) -> dict[str, float]:
    return dict(zip(scores.rows, scores.values[:, scores.columns.index(name)].tolist(), strict=True))


def test_each_route_is_exactly_the_head_that_was_planted_for_it(scores: Scores) -> None:
    for name, head in (("token copying", TOKENS), ("concept copying", CONCEPTS)):
        changed = _column(scores, name)
        assert changed[head] > 0.9
        assert max(abs(value) for row, value in changed.items() if row != head) < 1e-4
        assert scores.numbers[f"{name}: probability, clean"] > 0.9 > 0.1 > scores.numbers[f"{name}: probability, corrupt"]


def test_each_looks_where_the_other_does_not(scores: Scores) -> None:
    matching, ends = _column(scores, "prefix matching"), _column(scores, "attention to the word's end")
    assert matching[TOKENS] == pytest.approx(1, abs=1e-3) and matching[CONCEPTS] < 1e-3
    assert ends[CONCEPTS] == pytest.approx(1, abs=1e-3) and ends[TOKENS] < 1e-3


def test_what_the_head_does_elsewhere_and_what_other_heads_do_is_nothing(scores: Scores) -> None:
    assert len(scores.controls) == 4
    for control in scores.controls:
        assert control.found.low > 0.9 and abs(control.trivial.value) < 0.05


def test_words_are_taken_from_the_task_and_need_several_tokens(two_routes: LanguageModel, task: Task) -> None:
    named = cut.Prompt.mark("ak Ki~wi bl", subject="Ki~wi"), cut.Prompt.mark("ak Co~la bl", subject="Co~la")
    found = cut.locate.induction_heads(two_routes, Task("named", (Pair(*named, "ak", "bl"),)), length=LENGTH, samples=4)
    assert found.numbers["words of several tokens"] == 2 and _column(found, "concept copying")[CONCEPTS] > 0.9
    without = cut.locate.induction_heads(two_routes, task, length=LENGTH, samples=4)
    assert without.columns == ("token copying", "prefix matching")
    with pytest.raises(PromptError, match="1 tokens"):
        cut.locate.induction_heads(two_routes, task, words=("ak",), length=LENGTH)


def test_what_cannot_be_made_is_refused(two_routes: LanguageModel, task: Task) -> None:
    with pytest.raises(PromptError, match="length=8 or less"):
        cut.locate.induction_heads(two_routes, task, length=9)
    with pytest.raises(InputError, match="samples=2"):
        cut.locate.induction_heads(two_routes, task, samples=1)


def test_the_heads_that_learned_to_copy_come_first(induction: tuple[LanguageModel, Task]) -> None:
    """Heads 4, 5 and 7 of layer 1, as the model's own file says; prefix matching agrees."""
    found = cut.locate.induction_heads(*induction, samples=16)
    copying = {f"layers[1].attn.z[head={head}]" for head in (4, 5, 7)}
    assert set(found.ranked(0)[:3]) == set(found.ranked(1)[:3]) == copying
    assert all(control.found.low > control.trivial.value for control in found.controls)
    assert np.isfinite(found.values).all()


@pytest.mark.slow
def test_heads_that_copy_and_heads_that_match_prefixes_in_a_real_model(smollm: LanguageModel) -> None:
    """As found: they overlap far beyond chance (8 of 270 twice: 0.2), and are not the same; a late one that only copies is among the first."""
    found = cut.locate.induction_heads(smollm, "induction:n=4,length=8", samples=6, metric="logit_difference")
    copying, matching = (found.ranked(column)[:8] for column in (0, 1))
    assert len(set(copying) & set(matching)) >= 3
    assert "layers[29].attn.z[head=1]" in copying[:3] and "layers[29].attn.z[head=1]" not in matching
    assert matching[0] == "layers[18].attn.z[head=6]" and _column(found, "prefix matching")[matching[0]] > 0.8
    other = next(control for control in found.controls if control.name.endswith("another list"))
    assert other.found.low > 0.5 > other.trivial.value
