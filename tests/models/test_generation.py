"""Generation under a trace: steps, schedules, the cache, padding, sampling; each against a hook put on by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import cutaway as cut
from cutaway.engine import detour, site
from cutaway.engine.node import Limits
from cutaway.engine.streaming import Hosted
from cutaway.errors import InputError, OutOfOrderError, PromptError, TraceError
from cutaway.models.generation import Sampler
from cutaway.models.language import LanguageModel

Tiny = Callable[..., LanguageModel]
FAMILIES = ("llama", "gpt2", "gemma2")
TEXT, NEW = "w1 w2 w3 w4", 6


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert not site._TAPS and not detour._CROSSINGS


def plain(lm: LanguageModel, text: Any = TEXT, new: int = NEW) -> Any:
    """What transformers generates by itself, with the logits of each step."""
    tokens = lm.tokens(text)
    return lm.module.generate(
        tokens.ids,
        attention_mask=tokens.mask,
        max_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )


class Steering:
    """A hook that adds a vector in some of its calls."""

    def __init__(self, module: nn.Module, vector: Tensor, chosen: Callable[[int], bool]) -> None:
        self.step, self._vector, self._chosen = -1, vector, chosen
        self._handle = module.register_forward_hook(self._hook)

    def _hook(self, module: nn.Module, args: Any, out: Any) -> Any:
        self.step += 1
        if not self._chosen(self.step):
            return None
        return (out[0] + self._vector, *out[1:]) if isinstance(out, tuple) else out + self._vector

    def __enter__(self) -> Steering:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def block(lm: LanguageModel, layer: int) -> nn.Module:
    return lm.part(f"{lm.family.layers}.{layer}")


def vector(seed: int = 1) -> Tensor:
    return torch.randn(32, generator=torch.Generator().manual_seed(seed)) * 3


# Reading


@pytest.mark.parametrize("family", FAMILIES)
def test_reads_each_step(tiny: Tiny, family: str) -> None:
    lm = tiny(family)
    expected = plain(lm)
    logits, ids, hidden, patterns = [], [], [], []
    with lm.generate(TEXT, new_tokens=NEW) as run:
        for _ in run.steps:
            _, kwargs = lm.inputs
            ids.append(kwargs["input_ids"])
            patterns.append(lm.layers[1].attn.pattern.shape[2:])  # of a layer that looks at all of the text
            hidden.append(lm.layers[1].output.shape[:2])
            logits.append(lm.logits[:, -1])
    assert torch.equal(run.output, expected.sequences) and run.output.shape == (1, 5 + NEW)
    torch.testing.assert_close(torch.stack(logits), torch.stack(expected.logits))
    assert torch.equal(torch.cat(ids, 1), run.output[:, :-1])
    assert hidden == [(1, 5)] + [(1, 1)] * (NEW - 1)
    assert patterns == [(5, 5)] + [(1, 5 + i) for i in range(1, NEW)]


def test_watching_changes_nothing_to_the_bit(tiny: Tiny) -> None:
    lm = tiny("llama")
    expected = plain(lm)
    logits = []
    with lm.generate(TEXT, new_tokens=NEW) as run:
        for _ in run.steps:
            lm.layers[1].mlp.output  # noqa: B018
            logits.append(lm.logits[:, -1])
    assert torch.equal(run.output, expected.sequences) and torch.equal(torch.stack(logits), torch.stack(expected.logits))


def test_without_steps_the_prompt_is_seen(tiny: Tiny) -> None:
    lm = tiny("llama")
    with lm.generate(TEXT, new_tokens=NEW) as run:
        hidden = lm.layers[1].output
        with pytest.raises(OutOfOrderError, match=r"step ended without"):
            lm.layers[0].output  # noqa: B018
    assert torch.equal(hidden, lm.run(TEXT, read=["layers[1].output"])["layers[1].output"])
    assert torch.equal(run.output, plain(lm).sequences)


# Writing, by schedule


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("schedule", ["prompt", "new tokens", "all", "every other"])
def test_steering_equals_a_hook(tiny: Tiny, family: str, schedule: str) -> None:
    lm = tiny(family)
    which = {"prompt": slice(1), "new tokens": slice(1, None), "all": slice(None), "every other": slice(0, None, 2)}[schedule]
    with Steering(block(lm, 1), vector(), lambda step: step in range(NEW)[which]) as steering:
        expected = plain(lm)
    assert steering.step == NEW - 1
    with lm.generate(TEXT, new_tokens=NEW, output_logits=True, return_dict_in_generate=True) as run:
        for _ in run.steps[which]:
            lm.layers[1].output += vector()
    assert torch.equal(run.output.sequences, expected.sequences)
    assert torch.equal(torch.stack(run.output.logits), torch.stack(expected.logits))
    assert not torch.equal(torch.stack(run.output.logits), torch.stack(plain(lm).logits))


@pytest.mark.parametrize("name", ["k", "v"])
def test_keys_and_values_edited_at_the_prompt_stay_in_the_cache(tiny: Tiny, name: str) -> None:
    lm = tiny("llama")
    projection = lm.part(f"model.layers.1.self_attn.{name}_proj")
    with Steering(projection, torch.full((32,), 2.0), lambda step: step == 0):
        expected = plain(lm)
    logits = []
    with lm.generate(TEXT, new_tokens=NEW) as run:
        for step in run.steps:
            if step == 0:
                setattr(lm.layers[1].attn, name, getattr(lm.layers[1].attn, name) + 2.0)
            logits.append(lm.logits[:, -1])
    assert torch.equal(run.output, expected.sequences) and torch.equal(torch.stack(logits), torch.stack(expected.logits))
    assert not torch.equal(logits[-1], plain(lm).logits[-1])  # a step in which nothing was changed


def test_edited_pattern(tiny: Tiny) -> None:
    """No token but the first is looked at by head 2, in new tokens alone."""
    lm = tiny("llama")
    with lm.generate(TEXT, new_tokens=3) as run:
        for step in run.steps[1:]:
            values = lm.layers[0].attn.pattern
            assert values.shape == (1, 4, 1, 5 + step)
            lm.layers[0].attn.pattern[:, 2] = torch.eye(values.shape[-1])[0]
            z = lm.layers[0].attn.z[0, 0, 2]
    first = lm.run(TEXT, read=["layers[0].attn.v"])["layers[0].attn.v"]
    torch.testing.assert_close(z, first[0, 0, 1])  # head 2 reads key/value head 1
    assert run.output.shape == (1, 8)


def test_skip_a_layer_in_new_tokens(tiny: Tiny) -> None:
    lm = tiny("llama")
    steps = -1

    def around(module: nn.Module, args: Any, kwargs: Any, out: Any) -> Any:
        nonlocal steps
        steps += 1
        given = args[0] if args else kwargs["hidden_states"]
        return None if steps == 0 else given

    handle = block(lm, 2).register_forward_hook(around, with_kwargs=True)
    expected = plain(lm)
    handle.remove()
    logits = []
    with lm.generate(TEXT, new_tokens=NEW) as run:
        for step in run.steps:
            if step:
                lm.layers[2].skip(lm.layers[2].input)
            logits.append(lm.logits[:, -1])
    assert torch.equal(run.output, expected.sequences) and torch.equal(torch.stack(logits), torch.stack(expected.logits))


def test_source_in_steps(tiny: Tiny) -> None:
    lm = tiny("llama")
    with lm.generate(TEXT, new_tokens=3) as run:
        for step in run.steps:
            queries = lm.layers[1].attn.source.attention_interface_0.inputs[0][1]
            keys = lm.layers[1].attn.source.attention_interface_0.inputs[0][2]
            out = lm.layers[1].attn.source.attention_interface_0.output[0]
            assert queries.shape[2] == (5 if step == 0 else 1) and keys.shape[2] == 5 + step
            assert torch.equal(out.reshape(1, -1, 64), lm.layers[1].attn.z.flatten(-2))
    assert torch.equal(run.output, plain(lm, new=3).sequences)


# Loops


def test_loop_that_is_too_long(tiny: Tiny) -> None:
    lm = tiny("llama")
    seen = []
    with lm.generate(TEXT, new_tokens=3) as run:
        try:
            for step in run.steps[:10]:
                seen.append(step)
        except OutOfOrderError as error:
            assert "step 3" in str(error)
            seen.append("caught")
        text = lm.tokenizer.decode(run.output[0])
    assert seen == [0, 1, 2, "caught"] and text.startswith("<bos> w1 w2")


def test_break_and_stop(tiny: Tiny) -> None:
    lm = tiny("llama")
    with lm.generate(TEXT, new_tokens=NEW) as run:
        for step in run.steps:
            lm.layers[0].output += vector()
            if step == 1:
                break
    with Steering(block(lm, 0), vector(), lambda step: step < 2):
        assert torch.equal(run.output, plain(lm).sequences)
    calls: list[int] = []
    handle = lm.module.register_forward_pre_hook(lambda *_: calls.append(1))
    with lm.generate(TEXT, new_tokens=NEW) as run:
        steps = []
        for step in run.steps:
            steps.append(step)
            if step == 2:
                run.stop()
    handle.remove()
    assert len(calls) == 3 and steps == [0, 1, 2]
    with pytest.raises(TraceError, match="stopped"):
        run.output  # noqa: B018


def test_end_of_text_ends_the_steps(tiny: Tiny) -> None:
    lm = tiny("llama")
    third = int(plain(lm).sequences[0, 7])
    with lm.generate(TEXT, new_tokens=NEW, eos_token_id=third) as run:
        steps = list(run.steps)
    assert len(steps) == len(run.output[0]) - 5 <= 3 and run.output[0, -1] == third


# Batches


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_of_different_lengths(tiny: Tiny, family: str) -> None:
    lm = tiny(family)
    texts = ["w1 w2 w3 w4", "w9 w8", "w5 w6 w7 w1 w2 w3 w11"]
    found = []
    with lm.generate(texts, new_tokens=NEW) as run:
        for _ in run.steps[1:]:
            lm.layers[1].output += vector()
            found.append(lm.logits[:, -1])
    for row, text in enumerate(texts):
        alone = []
        with lm.generate(text, new_tokens=NEW) as solo:
            for _ in solo.steps[1:]:
                lm.layers[1].output += vector()
                alone.append(lm.logits[0, -1])
        assert torch.equal(run.output[row, -NEW:], solo.output[0, -NEW:])
        torch.testing.assert_close(torch.stack([logits[row] for logits in found]), torch.stack(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["induction_lm", "planted_circuit"])
def test_zoo(name: str) -> None:
    lm = cut.open(name)
    words = [lm.token_text(i).strip() for i in range(3, 7)]
    texts = [" ".join([*words, *words[:2]]), " ".join([*words[:3], *words[:1]])]
    steps = []
    with lm.generate(texts, new_tokens=3) as run:
        for step in run.steps:
            hidden = lm.layers[0].output
            steps.append((step, hidden.shape[1]))
            if step:
                lm.layers[0].output = hidden * 1.0
    width = lm.tokens(texts).ids.shape[1]
    assert steps == [(i, width + i) for i in range(3)] and run.output.shape == (2, width + 3)
    for row, text in enumerate(texts):
        with lm.generate(text, new_tokens=3) as solo:
            pass
        assert torch.equal(run.output[row, -3:], solo.output[0, -3:])
        assert int(solo.output[0, -3]) == int(lm.next_logits(text)[0].argmax())


def test_zoo_steering_changes_what_it_says() -> None:
    lm = cut.open("induction_lm")
    words = [lm.token_text(i) for i in (19, 44, 8, 51, 30, 5)]
    text = " ".join([*words, words[0]])
    with lm.generate(text, new_tokens=2) as run:
        pass
    assert [lm.token_text(i) for i in run.output[0, -2:].tolist()] == words[1:3]  # it goes on as before
    with lm.generate(text, new_tokens=2) as other:
        for _ in other.steps[1:]:
            lm.layers[1].attn.output *= 0
    assert other.output[0, -2] == run.output[0, -2] and other.output[0, -1] != run.output[0, -1]


# Sampling


def test_a_sample_is_of_its_seed(tiny: Tiny) -> None:
    lm = tiny("llama")
    before = torch.random.get_rng_state()

    def sample(seed: int) -> list[int]:
        with lm.generate(TEXT, new_tokens=8, temperature=1.5, seed=seed) as run:
            for _ in run.steps:
                pass
        return run.output[0].tolist()

    drawn = [sample(seed) for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1] and len({tuple(ids) for ids in drawn}) == 3
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_distribution_of_the_sampler(temperature: float) -> None:
    """Chi-square of 20,000 draws on eight words: 24.3 is passed once in a thousand times at 7 degrees of freedom."""
    scores = torch.linspace(-1, 1, 8)
    rows = scores.expand(20_000, 8)
    drawn = Sampler(temperature, seed=5)(torch.zeros(1), rows).argmax(-1)
    expected = torch.softmax(scores / temperature, -1) * len(rows)
    found = torch.bincount(drawn, minlength=8)
    assert float(((found - expected) ** 2 / expected).sum()) < 24.3


@pytest.mark.parametrize("name", ["llama", "induction_lm"])
def test_distribution_of_a_generation(tiny: Tiny, name: str) -> None:
    lm = tiny(name) if name in FAMILIES else cut.open(name)
    text = " ".join(lm.token_text(i).strip() for i in range(3, 6))
    with lm.generate([text] * 4000, new_tokens=1, temperature=3.0, seed=3) as run:
        logits = lm.logits[0, -1]
    expected = torch.softmax(logits.double() / 3.0, -1) * 4000
    found = torch.bincount(run.output[:, -1], minlength=len(logits)).double()
    often = expected > 5
    squares = ((found - expected) ** 2 / expected)[often].sum()
    freedom = int(often.sum())
    assert float(squares) < freedom + 4 * (2 * freedom) ** 0.5


def test_words_ruled_out_are_not_drawn() -> None:
    scores = torch.tensor([[0.0, -torch.inf, 0.0]]).expand(500, 3)
    assert set(Sampler(1.0, seed=0)(torch.zeros(1), scores).argmax(-1).tolist()) == {0, 2}


def test_no_gradients(tiny: Tiny) -> None:
    lm = tiny("llama")
    with lm.generate(TEXT, new_tokens=2):
        hidden = lm.layers[0].output
        assert torch.is_grad_enabled() and not hidden.requires_grad
    zoo = cut.open("induction_lm")
    with zoo.generate(zoo.token_text(3), new_tokens=2):
        assert not zoo.layers[0].output.requires_grad


# Options


def test_what_is_refused(tiny: Tiny) -> None:
    lm = tiny("llama")
    with pytest.raises(InputError, match="new_tokens=0"):
        lm.generate(TEXT, new_tokens=0)
    with pytest.raises(InputError, match="temperature=-1"):
        lm.generate(TEXT, temperature=-1.0)
    with pytest.raises(InputError, match=r"(?s)top_k.*no such options"):
        cut.open("induction_lm").generate("<bos>", top_k=5)
    for drawing in ({"do_sample": True}, {"top_p": 0.9}, {"top_k": 5}):
        with pytest.raises(InputError, match=r"(?s)temperature=1\.0, seed=0"):
            lm.generate(TEXT, **drawing)
    with pytest.raises(PromptError, match="context"):
        lm.generate(" ".join(["w1"] * 28), new_tokens=10)
    zoo = cut.open("induction_lm")
    with pytest.raises(PromptError, match="context"):
        zoo.generate(zoo.token_text(3), new_tokens=zoo.sizes.context)


def test_processors_of_the_user_come_before_the_sampler(tiny: Tiny) -> None:
    lm = tiny("llama")

    def only_seven(ids: Tensor, scores: Tensor) -> Tensor:
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([7]), 0.0)

    with lm.generate(TEXT, new_tokens=3, temperature=1.0, logits_processor=[only_seven]) as run:
        pass
    assert run.output[0, -3:].tolist() == [7, 7, 7]


# Recorded


@pytest.mark.parametrize("recorded_kind", ["llama", "gpt2", pytest.param("gemma2", marks=pytest.mark.slow), "mamba"])
def test_a_recorded_generation_replays_bit_for_bit(tiny: Tiny, recorded_kind: str) -> None:
    lm = tiny(recorded_kind)

    def body(run: Any) -> None:
        words = []
        for step in run.steps[:3]:
            lm.layers[1].output = lm.layers[1].output * (1 + step)
            words.append(lm.logits[:, -1])
        run.save(words=words, ids=run.output)

    with lm.record("w1 w2 w3", fn=lm.generation(new_tokens=3)) as recorded:
        body(recorded)
    assert [node.args[0] for node in recorded.graph.nodes if node.op == "begin"] == [1, 2]
    with lm.trace("w1 w2 w3", fn=lm.generation(new_tokens=3)) as live:
        body(live)
    for limits in (None, Limits()):
        again = lm.replay(recorded.graph, "w1 w2 w3", fn=lm.generation(new_tokens=3), limits=limits)
        assert torch.equal(again["ids"], live.saved["ids"])
        assert all(torch.equal(a, b) for a, b in zip(again["words"], live.saved["words"], strict=True))
    assert recorded.saved["ids"].shape == live.saved["ids"].shape


@pytest.mark.parametrize("ends", [False, True])
def test_a_streamed_generation_is_the_live_one(fresh: Callable[..., nn.Module], tokenizer: Callable[..., Any], ends: bool) -> None:
    """Also where an end-of-text token ends it early, which only the side with the weights can know."""
    lm = cut.open(fresh("llama"), tokenizer=tokenizer())
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(lm.module.config)
    thin = cut.open(empty, tokenizer=tokenizer(), verify=False)
    if ends:
        lm.module.generation_config.eos_token_id = int(plain(lm).sequences[0, -3])

    def body(model: Any, run: Any) -> None:
        louder, words = 0, []
        for step in run.steps:
            if step and model.layers[1].output.norm() > 3:
                model.layers[1].output = model.layers[1].output * 1.001
                louder += 1
            words.append(model.logits[0, -1])
        run.save(louder=louder, words=words, ids=run.output)

    with thin.stream(TEXT, to=Hosted(lm), fn=thin.generation(new_tokens=NEW)) as streamed:
        body(thin, streamed)
    with lm.generate(TEXT, new_tokens=NEW) as live:
        body(lm, live)
    assert len(live.saved["words"]) < NEW if ends else len(live.saved["words"]) == NEW
    assert streamed.saved["louder"] == live.saved["louder"] > 0
    assert torch.equal(streamed.saved["ids"], live.saved["ids"])
    assert all(torch.equal(a, b) for a, b in zip(streamed.saved["words"], live.saved["words"], strict=True))


@pytest.mark.parametrize(
    "told",
    [
        None,
        {},
        {"name": "system"},
        {"name": "generation", "new_tokens": 10**9, "temperature": 0.0, "seed": 0},
        {"name": "generation", "new_tokens": "1"},
    ],
)
def test_strange_drivers_are_refused(tiny: Tiny, told: Any) -> None:
    with pytest.raises(InputError, match="Drive"):
        tiny("gpt2").driver(told)


def test_a_stream_takes_no_options_of_transformers(tiny: Tiny) -> None:
    lm = tiny("gpt2")
    with pytest.raises(InputError, match="num_beams"):
        lm.stream(TEXT, to=Hosted(lm), fn=lm.generation(new_tokens=2, num_beams=2))
