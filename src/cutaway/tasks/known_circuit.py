"""Known circuit: texts on which a model whose circuit is known, such as `compiled.reverse`, shows all of it.

Both sides are drawn apart and have the same number of words; their answers differ. `changed` are the words from the first to the last at
which they differ.
"""

from __future__ import annotations

from collections.abc import Iterator

from cutaway import registry
from cutaway.errors import InputError
from cutaway.models.language import LanguageModel
from cutaway.models.prompt import Prompt
from cutaway.tasks.base import Pair, Task, count_at_least, take
from cutaway.zoo.base import KnownCircuit, TextPair


def known_circuit(lm: LanguageModel, *, n: int = 50, seed: int = 0) -> Task:
    """n pairs. Raises InputError for n < 1 and for a model of which no circuit is known."""
    count_at_least("n", n, 1)
    circuit = getattr(lm.module, "circuit", None)
    if not isinstance(circuit, KnownCircuit):
        known = [name for name in registry.names("zoo") if name.startswith("compiled.")]
        raise InputError(f"Texts that show the circuit of {lm.name}.", "a model of which no circuit is known", ", ".join(known))
    return Task("known_circuit", take(_pairs(circuit.pairs(n, seed)), lm, known=False), {"n": n, "seed": seed}, role="changed")


def _pairs(texts: list[TextPair]) -> Iterator[Pair]:
    for text in texts:
        base, other = text.base.split(), text.counterfactual.split()
        places = [i for i in range(len(base)) if base[i] != other[i]]
        here, there = (_prompt(words, places[0], places[-1] + 1) for words in (base, other))
        yield Pair(here, there, text.answer, text.foil)


def _prompt(words: list[str], start: int, end: int) -> Prompt:
    before, changed = (" ".join(part) for part in (words[:start], words[start:end]))
    first = len(before) + (start > 0)
    return Prompt(" ".join(words), {"changed": (first, first + len(changed))})
