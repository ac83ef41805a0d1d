"""A bank of heads of which one names the task, one writes the answer, and ten write at random; and a real model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cutaway as cut
from cutaway.errors import PromptError
from cutaway.methods.locate._written import points, written
from cutaway.models.language import LanguageModel
from cutaway.results.scores import Scores
from cutaway.tasks.base import Pair, Task
from cutaway.zoo.base import Transformer, TransformerConfig

N, N_HEADS, NAMING, ANSWERING = 10, 12, 3, 7
SUBJECTS, ANSWERS = ([f"{letter}{digit}" for digit in "abcdefghij"] for letter in "xy")
OTHERS = tuple(f"{a}{b}{c}" for a in "klmnghjq" for b in "opqrstab" for c in "uvwzcdef")
VOCAB = ("<bos>", "of", "is", "city", "capital", *SUBJECTS, *ANSWERS, *OTHERS)
HEAD = f"layers[0].attn.z[head={NAMING}]"


@pytest.fixture(scope="module")
def bank() -> LanguageModel:
    """One layer of heads that attend evenly. Head 3 writes "capital" where the text has "of", head 7 the answer to the subject, the others noise."""
    size = len(VOCAB)
    config = TransformerConfig(
        VOCAB, n_layers=1, n_heads=N_HEADS, d_model=size, d_head=N, max_length=8, positions="none", biases=False, norm=False
    )
    model, generator = Transformer(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        attn = model.blocks[0].attn
        for weight in model.parameters():
            weight.zero_()
        model.embed.weight.copy_(torch.eye(size))
        model.unembed.weight.copy_(10 * torch.eye(size))
        model.unembed.weight[:, : VOCAB.index("ya")] *= 0.1  # what the words of the text say of themselves
        for noisy in (attn.v_proj.weight, attn.o_proj.weight):
            noisy.copy_(0.02 * torch.randn(noisy.shape, generator=generator))
        naming, answering = (slice(head * N, head * N + N) for head in (NAMING, ANSWERING))
        for rows in (naming, answering):
            attn.v_proj.weight[rows] = 0
            attn.o_proj.weight[:, rows] = 0
        attn.v_proj.weight[naming.start, VOCAB.index("of")] = 1
        attn.o_proj.weight[VOCAB.index("capital"), naming.start] = 1
        for i in range(N):
            attn.v_proj.weight[answering.start + i, VOCAB.index(SUBJECTS[i])] = 1
            attn.o_proj.weight[VOCAB.index(ANSWERS[i]), answering.start + i] = 3
    return cut.open(model.eval())


def _task(template: str, wrong: int = 0) -> Task:
    """The answers are right; `wrong`: for so many subjects those of another are given out for them."""
    pairs = [
        Pair(
            cut.Prompt(template.format(SUBJECTS[i])),
            cut.Prompt(template.format(SUBJECTS[i - 1])),
            ANSWERS[i - 2 * (i < wrong)],
            ANSWERS[i - 1],
        )
        for i in range(N)
    ]
    return Task("planted", tuple(pairs))


def _task_heads(scores: Scores, threshold: float = 0.2) -> set[str]:
    return {row for row, part in zip(scores.rows, scores.values[:, 0], strict=True) if part >= threshold}


def test_it_is_exactly_the_head_that_names_the_task(bank: LanguageModel) -> None:
    scores = cut.locate.lexical_task_heads(bank, _task("of {} is"), words=("city", "Capital"), top=3)
    assert _task_heads(scores) == {HEAD} and scores.numbers["task heads"] == 1
    assert scores.numbers["prompts answered rightly"] == N and scores.numbers["tokens that name the task"] == 2
    (control,) = scores.controls
    assert control.found.value == 1 and control.trivial.value < 0.5
    assert scores.numbers["by random words"] < 0.5
    assert np.isnan(scores.values[:, 1]).all()


def test_the_answer_head_is_found_by_the_answers_alone(bank: LanguageModel) -> None:
    """Words that do not stand for the task find other heads: the answers of the prompts find the head that writes them."""
    scores = cut.locate.lexical_task_heads(bank, _task("of {} is"), words=tuple(ANSWERS), top=1)
    assert _task_heads(scores) == {f"layers[0].attn.z[head={ANSWERING}]"}


def test_heads_that_two_phrasings_share(bank: LanguageModel) -> None:
    """In the one phrasing nothing makes the head name the task."""
    told, shown = (
        _task_heads(cut.locate.lexical_task_heads(bank, _task(template), words=("capital",), top=3))
        for template in ("of {} is", "is {} is")
    )
    assert told == {HEAD} and shown == set()


def test_strength_goes_with_being_right(bank: LanguageModel) -> None:
    """Prompts without "of" are given wrong answers: there the head is silent, and the model wrong."""
    right, wrong = _task("of {} is").pairs, _task("is {} is", wrong=N).pairs
    scores = cut.locate.lexical_task_heads(bank, Task("planted", (*right, *wrong)), words=("capital",), top=3)
    row = scores.rows.index(HEAD)
    assert scores.values[row].tolist() == [1, 0]
    strength = next(control for control in scores.controls if control.name == "shuffled prompts")
    assert strength.found.value == pytest.approx(1) and abs(strength.trivial.value) < 0.2
    assert strength.trivial.high < 1


def test_without_words_the_answers_of_other_pairs_stand_for_them(bank: LanguageModel) -> None:
    scores = cut.locate.lexical_task_heads(bank, _task("of {} is"), top=1)
    assert scores.numbers["tokens that name the task"] == N - 2
    assert f"layers[0].attn.z[head={ANSWERING}]" not in _task_heads(scores), "it writes the prompt's own answer"
    with pytest.raises(PromptError, match="no others"):
        cut.locate.lexical_task_heads(bank, _task("of {} is").with_pairs(_task("of {} is").pairs[:1]))


def test_what_cannot_be_read_is_refused(bank: LanguageModel) -> None:
    with pytest.raises(PromptError, match="none that is one token"):
        cut.locate.lexical_task_heads(bank, _task("of {} is"), words=("metropolis",))
    with pytest.raises(PromptError, match="none of 10 prompts"):
        cut.locate.lexical_task_heads(bank, _task("of {} is", wrong=N), words=("capital",))


def test_what_a_head_writes_leaves_the_bias_out() -> None:
    """z W_O, against the output projection of the module itself with all other heads at zero."""
    lm = cut.open("entity_lm")
    prompts = [cut.Prompt("The cup is in box F . Box F holds the"), cut.Prompt("The hat is in box Q . Box Q holds the")]
    _, found, _ = written(lm, lm.run(prompts, read=points(lm)))
    z = lm.run(prompts, read=["layers[1].attn.z[pos=-1]"])["layers[1].attn.z[pos=-1]"]
    projection = lm.module.blocks[1].attn.o_proj
    for head in range(lm.sizes.n_heads):
        alone = torch.zeros_like(z)
        alone[:, head] = z[:, head]
        assert torch.allclose(found[:, head], projection(alone.flatten(1)) - projection.bias, atol=1e-5)
    assert projection.bias.abs().max() > 1e-3


def test_what_heads_write_adds_up_through_a_norm_after_attention() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(16)}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Gemma2ForCausalLM(Gemma2Config(**sizes, head_dim=4, vocab_size=16, pad_token_id=0)).eval()
    lm = cut.open(module, tokenizer=PreTrainedTokenizerFast(tokenizer_object=words))
    prompts = ["w1 w2 w3", "w4 w5 w6"]
    for layer, heads in enumerate(written(lm, lm.run(prompts, read=points(lm)))):
        place = f"layers[{layer}].attn.output[pos=-1]"
        assert torch.allclose(heads.sum(1), lm.run(prompts, read=[place])[place], atol=1e-5)


@pytest.mark.slow
def test_a_head_of_a_real_model_that_says_capital(smollm: LanguageModel) -> None:
    """As found: one head, and about as many by eleven random tokens, since some heads write the same words whatever they read."""
    scores = cut.locate.lexical_task_heads(
        smollm, "facts:relation=capital,template=1,n=10", words=("capital", "capitals", "city", "cities"), draws=20
    )
    assert _task_heads(scores, 0.5) == {"layers[27].attn.z[head=1]"}
    assert 0 < scores.numbers["by random words"] < 5
