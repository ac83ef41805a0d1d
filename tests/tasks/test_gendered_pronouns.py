from __future__ import annotations

from cutaway.models.language import LanguageModel
from cutaway.tasks import gendered_pronouns as module
from cutaway.tasks.gendered_pronouns import gendered_pronouns


def test_the_pronoun_is_the_one_of_the_name(spoken: LanguageModel) -> None:
    for pair in gendered_pronouns(spoken, n=40, known=False).pairs:
        for prompt, pronoun in ((pair.base, pair.answer), (pair.counterfactual, pair.foil)):
            assert prompt.text[slice(*prompt.spans["name"])] in module._NAMES[pronoun.strip()]
        assert {pair.answer, pair.foil} == {" he", " she"}


def test_the_data_is_sound() -> None:
    names = [name for listed in module._NAMES.values() for name in listed]
    assert len(set(names)) == len(names) and min(map(len, module._NAMES.values())) >= 15
