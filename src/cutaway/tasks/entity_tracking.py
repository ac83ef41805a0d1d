"""Entity tracking: things are put into boxes, and one box is asked for ("The cup is in box F, the hat is in box Q. Box F holds the" -> " cup").

Causal model: the label that is asked for is found among the boxes, which gives a `position`; the object that stands there is the
answer. The position of one prompt leads to another object in another prompt, and to the same object where only labels were changed. The
counterfactual asks for another box. Roles: `object_1`, `box_1`, `object_2`, ... in the order of the text, and `asked`.
The kind of prompt follows Kim and Schuster 2023, arXiv 2305.02363, and Prakash et al. 2024, arXiv 2402.14811.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task, count_at_least
from cutaway.tasks.behaviour import Behaviour, causal_task, one_token, vocabulary
from cutaway.tasks.causal_model import CausalModel, Settings, caused, one_of, some_of

_OBJECTS = (
    *("cup", "hat", "book", "coin", "ring", "map", "key", "ball", "watch", "stone", "apple", "shirt", "plate", "bread", "flower"),
    *("lamp", "knife", "bell", "letter", "boot", "radio", "camera", "glass", "guitar"),
)
_LABELS = tuple("BCDFGHJKLMNPQRSTVWXZ")
_PLACED = "he {object} is in box {box}"
_ASKED = ". Box {asked} holds the"
WORDS = vocabulary(f"T{_PLACED}, t{_PLACED}{_ASKED}", *_OBJECTS, *_LABELS)
"""All that stands in a prompt, and the answers, where punctuation stands apart."""


def behaviour(boxes: int = 5, objects: Sequence[str] = _OBJECTS, labels: Sequence[str] = _LABELS) -> Behaviour:
    """The behaviour with a number of boxes, on some objects and labels."""
    model = CausalModel(
        {
            "objects": some_of(objects, boxes),
            "boxes": some_of(labels, boxes),
            "asked": one_of(range(boxes)),
            "label": caused(lambda boxes, asked: boxes[asked]),
            "position": caused(lambda boxes, label: boxes.index(label) if label in boxes else None),
            "answer": caused(lambda objects, position: None if position is None else objects[position]),
        }
    )
    return Behaviour(model, _wording, ("asked",), valid=lambda s: s["answer"] is not None)


def entity_tracking(lm: LanguageModel, *, boxes: int = 5, n: int = 50, seed: int = 0, known: bool = True) -> Task:
    """At most n pairs of prompts with 2 to 20 boxes; only objects and labels of one token are used.

    known: keep only pairs that the model gets right (likeliest next token), on both sides. Raises InputError, PromptError if no pair is left.
    """
    count_at_least("boxes", boxes, 2)
    objects, labels = (one_token(words, lm, least=boxes) for words in (_OBJECTS, _LABELS))
    arguments = {"boxes": boxes, "n": n, "seed": seed, "known": known}
    return causal_task("entity_tracking", behaviour(boxes, objects, labels), lm, role="asked", arguments=arguments)


def _wording(s: Settings) -> tuple[str, Mapping[str, str]]:
    roles = {"asked": s["label"]}
    for i, (thing, box) in enumerate(zip(s["objects"], s["boxes"], strict=True), 1):
        roles |= {f"object_{i}": thing, f"box_{i}": box}
    placed = (_PLACED.format(object=f"{{object_{i}}}", box=f"{{box_{i}}}") for i in range(1, len(s["objects"]) + 1))
    return "T" + ", t".join(placed) + _ASKED, roles
