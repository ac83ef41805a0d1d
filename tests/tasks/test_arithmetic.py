from __future__ import annotations

import re

from cutaway.models.language import LanguageModel
from cutaway.tasks.arithmetic import arithmetic, behaviour


def test_answers_are_the_tens_of_the_sum_or_all_of_it(spoken: LanguageModel, whole_words: LanguageModel) -> None:
    for lm, digits in ((spoken, 1), (whole_words, 2)):
        for pair in arithmetic(lm, n=20, known=False).pairs:
            for prompt, said in ((pair.base, pair.answer), (pair.counterfactual, pair.foil)):
                a, b = map(int, re.findall(r"\d+", prompt.text.splitlines()[-1])[-2:])
                assert said == str(a + b)[:digits] and a + b < 100


def test_the_space_stands_where_the_tokenizer_wants_it(spoken: LanguageModel) -> None:
    pair = arithmetic(spoken, n=1, known=False).pairs[0]
    assert pair.base.text.endswith("= ") and pair.answer == pair.answer.strip()
    text = pair.base.text + pair.answer
    assert spoken.tokens(text).ids.tolist()[0] == [*spoken.tokens(pair.base).ids.tolist()[0], spoken.token_id(pair.answer)]
    joined = behaviour(space=False)
    inputs = {"a_tens": 2, "a_units": 7, "b_tens": 4, "b_units": 5}
    assert joined.prompt(inputs).text.endswith("27 + 45 =") and joined.answer(inputs) == " 72"


def test_a_carry_from_another_sum_moves_the_tens() -> None:
    model = behaviour().model
    base, source = ({"a_tens": 2, "a_units": a, "b_tens": 4, "b_units": b} for a, b in ((1, 5), (7, 5)))
    assert (model.run(base)["answer"], model.run(source)["answer"]) == (66, 72)
    assert model.interchange(base, {"carry": source})["answer"] == 76
    assert model.interchange(base, {"units": source})["answer"] == 72
    assert model.interchange(base, {"tens": source | {"a_tens": 1}})["answer"] == 56
