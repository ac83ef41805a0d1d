"""Copying: an invented list of words beside their copies, and the last one is still to be copied ("Word: stone\nCopy:" -> " stone").

Causal model: the `word` that is asked for is the answer. The counterfactual asks for another word after the same examples. What copies single
tokens and what copies the meaning of a word do it alike; `translation` has the same form, and there only the second will do. Roles:
`word`, what is asked for; `shown_1`, ..., the examples. The two routes: Feucht et al. 2025, arXiv 2504.03022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task, count_at_least
from cutaway.tasks.behaviour import Behaviour, causal_task, one_token
from cutaway.tasks.causal_model import CausalModel, Settings, caused, one_of, some_of
from cutaway.tasks.translation import LEXICON


def behaviour(examples: int = 4, words: Sequence[str] = tuple(LEXICON)) -> Behaviour:
    """The behaviour on some words, after a number of examples."""
    model = CausalModel({"shown": some_of(words, examples), "word": one_of(words), "answer": caused(lambda word: word)})
    return Behaviour(model, _wording, ("word",), ("shown",), lambda s: s["word"] not in s["shown"])


def copying(lm: LanguageModel, *, examples: int = 4, n: int = 50, seed: int = 0, known: bool = True) -> Task:
    """At most n pairs; only words of one token are used.

    known: keep only pairs that the model gets right (likeliest next token), on both sides. Raises InputError, PromptError if no pair is left.
    """
    count_at_least("examples", examples, 1)
    words = one_token(tuple(LEXICON), lm, least=examples + 2)
    arguments = {"examples": examples, "n": n, "seed": seed, "known": known}
    return causal_task("copying", behaviour(examples, words), lm, role="word", arguments=arguments)


def _wording(s: Settings) -> tuple[str, Mapping[str, str]]:
    shown = "".join(f"Word: {{shown_{i}}}\nCopy: {word}\n\n" for i, word in enumerate(s["shown"], 1))
    return shown + "Word: {word}\nCopy:", {"word": s["word"]} | {f"shown_{i}": word for i, word in enumerate(s["shown"], 1)}
