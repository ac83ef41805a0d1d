from __future__ import annotations

from cutaway.models.language import LanguageModel
from cutaway.tasks.hierarchical_equality import WORDS, behaviour, hierarchical_equality


def test_the_answer_says_whether_the_pairs_are_alike(spoken: LanguageModel) -> None:
    pairs = hierarchical_equality(spoken, n=40, known=False).pairs
    for pair in pairs:
        for prompt, answer in ((pair.base, pair.answer), (pair.counterfactual, pair.foil)):
            w, x, y, z = (prompt.text[slice(*prompt.spans[role])] for role in "wxyz")
            assert answer == (" yes" if (w == x) == (y == z) else " no")
    assert 10 <= sum(pair.answer == " yes" for pair in pairs) <= 30


def test_the_equality_of_another_pair_decides() -> None:
    model = behaviour().model
    base, source = {"first": ("a", "a"), "second": ("b", "c")}, {"first": ("d", "e"), "second": ("f", "f")}
    assert [model.run(inputs)["answer"] for inputs in (base, source)] == ["no", "no"]
    assert model.interchange(base, {"left": source})["answer"] == "yes"
    assert model.interchange(base, {"right": source})["answer"] == "yes"
    assert model.interchange(base, {"left": source, "right": source})["answer"] == "no"


def test_examples_stand_before_the_question_where_they_are_asked_for(whole_words: LanguageModel) -> None:
    assert hierarchical_equality(whole_words, examples=True, n=1, known=False).pairs[0].base.text.count("yes") == 2
    for pair in hierarchical_equality(whole_words, n=4, known=False).pairs:
        assert pair.base.text.split()[2] == "," and len(pair.base.text.split()) == 6
        assert set(pair.base.text.split()) | {pair.answer} <= set(WORDS)
