from __future__ import annotations

from cutaway.models.language import LanguageModel
from cutaway.tasks.copying import copying


def test_the_answer_is_the_word_itself(spoken: LanguageModel) -> None:
    for pair in copying(spoken, examples=3, n=20, known=False).pairs:
        for prompt, answer in ((pair.base, pair.answer), (pair.counterfactual, pair.foil)):
            assert answer == f" {prompt.text[slice(*prompt.spans['word'])]}"
            assert prompt.text.count("Word:") == prompt.text.count("Copy:") == 4
            assert answer not in prompt.text.replace(f"Word:{answer}\nCopy:", ""), "the word is shown where it is asked for alone"
