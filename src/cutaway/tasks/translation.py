"""Word translation by examples: English words beside their French, German or Spanish ones ("English: tree\nFrench:" -> " arbre").

Causal model: the English word names a `concept`, and the language has a word for it. The counterfactual asks for another word after the same
examples. An answer of several tokens is represented by its first. Roles: `word`, what is asked for; `shown_1`, ..., the examples.
The two routes by which words are copied: Feucht et al. 2025, arXiv 2504.03022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cutaway.errors import UnknownNameError
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task, count_at_least
from cutaway.tasks.behaviour import Behaviour, causal_task, one_token
from cutaway.tasks.causal_model import CausalModel, Settings, caused, one_of, some_of

LANGUAGES = ("French", "German", "Spanish")
_ROWS = """
    dog chien Hund perro        cat chat Katze gato          horse cheval Pferd caballo   bird oiseau Vogel pájaro     fish poisson Fisch pez
    tree arbre Baum árbol       flower fleur Blume flor      house maison Haus casa       door porte Tür puerta        window fenêtre Fenster ventana
    table table Tisch mesa      bed lit Bett cama            book livre Buch libro        bread pain Brot pan          milk lait Milch leche
    water eau Wasser agua       wine vin Wein vino           cheese fromage Käse queso    apple pomme Apfel manzana    egg oeuf Ei huevo
    hand main Hand mano         foot pied Fuß pie            head tête Kopf cabeza        heart coeur Herz corazón     night nuit Nacht noche
    day jour Tag día            week semaine Woche semana    year an Jahr año             sun soleil Sonne sol         moon lune Mond luna
    sea mer Meer mar            river rivière Fluss río      mountain montagne Berg montaña  street rue Straße calle   city ville Stadt ciudad
    king roi König rey          queen reine Königin reina    friend ami Freund amigo      brother frère Bruder hermano sister soeur Schwester hermana
    white blanc weiß blanco     black noir schwarz negro     red rouge rot rojo           green vert grün verde        blue bleu blau azul
""".split()
LEXICON: dict[str, dict[str, str]] = {
    _ROWS[i]: dict(zip(LANGUAGES, _ROWS[i + 1 : i + 4], strict=True)) for i in range(0, len(_ROWS), 1 + len(LANGUAGES))
}
"""English word -> language -> word."""


def behaviour(language: str = "French", examples: int = 4, words: Sequence[str] = tuple(LEXICON)) -> Behaviour:
    """The behaviour in a language, on some English words, after a number of examples."""
    model = CausalModel(
        {
            "shown": some_of(words, examples),
            "word": one_of(words),
            "concept": caused(lambda word: word),
            "answer": caused(lambda concept: LEXICON[concept][language]),
        }
    )

    def wording(s: Settings) -> tuple[str, Mapping[str, str]]:
        roles = {f"shown_{i}": word for i, word in enumerate(s["shown"], 1)}
        shown = "".join(f"English: {{{role}}}\n{language}: {LEXICON[word][language]}\n\n" for role, word in roles.items())
        return f"{shown}English: {{word}}\n{language}:", roles | {"word": s["word"]}

    return Behaviour(model, wording, ("word",), ("shown",), lambda s: s["word"] not in s["shown"])


def translation(lm: LanguageModel, *, language: str = "French", examples: int = 4, n: int = 50, seed: int = 0, known: bool = True) -> Task:
    """At most n pairs of words to translate from English; only English words of one token are used. language: one of `LANGUAGES`.

    known: keep only pairs that the model gets right (likeliest next token), on both sides. Raises UnknownNameError for the language,
    InputError, PromptError if no pair is left.
    """
    if language not in LANGUAGES:
        raise UnknownNameError("language", language, LANGUAGES)
    count_at_least("examples", examples, 1)
    words = one_token(tuple(LEXICON), lm, least=examples + 2)
    arguments = {"language": language, "examples": examples, "n": n, "seed": seed, "known": known}
    return causal_task("translation", behaviour(language, examples, words), lm, role="word", arguments=arguments)
