from __future__ import annotations

import pytest

from cutaway.errors import UnknownNameError
from cutaway.models.language import LanguageModel
from cutaway.tasks.translation import LANGUAGES, LEXICON, translation


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_answer_begins_the_word_in_the_language(spoken: LanguageModel, language: str) -> None:
    for pair in translation(spoken, language=language, examples=2, n=10, known=False).pairs:
        for prompt, answer in ((pair.base, pair.answer), (pair.counterfactual, pair.foil)):
            word = prompt.text[slice(*prompt.spans["word"])]
            assert f" {LEXICON[word][language]}".startswith(answer) and answer.strip()
            shown = [prompt.text[slice(*prompt.spans[f"shown_{i}"])] for i in (1, 2)]
            assert word not in shown and all(f"English: {w}\n{language}: {LEXICON[w][language]}\n" in prompt.text for w in shown)


def test_the_data_is_sound() -> None:
    assert len(LEXICON) >= 40
    for language in LANGUAGES:
        assert len({row[language] for row in LEXICON.values()}) == len(LEXICON)
    assert LEXICON["tree"] == {"French": "arbre", "German": "Baum", "Spanish": "árbol"}
    assert LEXICON["blue"]["Spanish"] == "azul"


def test_a_language_that_is_not_there_is_refused(spoken: LanguageModel) -> None:
    with pytest.raises(UnknownNameError, match="French"):
        translation(spoken, language="Frensh")
