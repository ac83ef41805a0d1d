from __future__ import annotations

from cutaway.models.language import LanguageModel
from cutaway.tasks.subject_verb_agreement import behaviour, subject_verb_agreement


def test_the_verb_agrees_with_the_subject_and_not_with_the_noun_between(spoken: LanguageModel) -> None:
    pairs = subject_verb_agreement(spoken, n=40, known=False).pairs
    between = set()
    for pair in pairs:
        for prompt, verb in ((pair.base, pair.answer), (pair.counterfactual, pair.foil)):
            subject, attractor = (prompt.text[slice(*prompt.spans[role])] for role in ("subject", "attractor"))
            assert verb == (" were" if subject.endswith("s") else " was")
            between.add((verb, attractor.endswith("s")))
    assert len(between) == 4, "the noun between is singular and plural after either"


def test_the_number_of_another_sentence_decides() -> None:
    model = behaviour().model
    base = {"template": "{subject} {attractor}", "noun": "key", "plural": False, "attractor": "door", "attractor_plural": True}
    assert model.run(base)["answer"] == "was"
    assert model.interchange(base, {"number": base | {"noun": "book", "plural": True}})["answer"] == "were"
