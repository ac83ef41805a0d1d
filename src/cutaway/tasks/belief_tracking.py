"""Belief tracking: two people fill a vessel each, may or may not see one another, and what does one of them think is in one of the vessels?

"Anna fills the cup with tea. Ben fills the jar with milk. Anna can see Ben. Ben cannot see Anna. What does Ben think is in the cup?
Answer:" -> " unknown"; of Anna and the jar, " milk". Causal model: `character` and `vessel` say by their order in the story who and what is
asked about, together the `address`; they know it if they filled it themselves or can see who did (`knows`). Then `pointer` is the vessel's place
in the story, otherwise None, and the answer is what stands there, or "unknown". A pointer that is put into another story leads to that story's own
word: a third answer, neither the base's nor the source's. A model may point by place, as the causal model does, or by the names of person and
vessel, which mean nothing in a story of others; with `one_cast` the source of an interchange is a story of the same people and vessels in the same
order, in which the two cannot be told apart. The counterfactual asks about the other vessel. Roles: `name_1`, `vessel_1`, `state_1`, ...; `sight_1`
and `sight_2`, whether that person sees the other; `asked_name`, `asked_vessel`.
The stories and variables follow Prakash et al. 2025 (CausalToM), arXiv 2505.14685.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Task
from cutaway.tasks.behaviour import Behaviour, causal_task, one_token, vocabulary
from cutaway.tasks.causal_model import CausalModel, Settings, caused, one_of, some_of

_NAMES = ("Anna", "Ben", "Tom", "Mary", "Paul", "Lucy", "David", "Emma", "Peter", "Jane", "Simon", "Laura")
_VESSELS = ("cup", "jar", "bottle", "bowl", "glass", "pot", "bucket", "tank")
_STATES = ("tea", "milk", "water", "wine", "beer", "juice", "coffee", "soup", "oil", "honey", "sand", "rice")
_UNKNOWN = "unknown"
_STORY = (
    "{name_1} fills the {vessel_1} with {state_1}. {name_2} fills the {vessel_2} with {state_2}. "
    "{name_1} {sight_1} see {name_2}. {name_2} {sight_2} see {name_1}. "
    "What does {asked_name} think is in the {asked_vessel}? Answer:"
)
WORDS = vocabulary(_STORY, f"can cannot {_UNKNOWN}", *_NAMES, *_VESSELS, *_STATES)
"""All that stands in a prompt, and the answers, where punctuation stands apart."""


@final
@dataclass(frozen=True)
class Cast:
    """What stories are made of."""

    names: Sequence[str] = _NAMES
    vessels: Sequence[str] = _VESSELS
    states: Sequence[str] = _STATES


def behaviour(cast: Cast | None = None, *, unknown: bool = True, one_cast: bool = False) -> Behaviour:
    """The behaviour with a cast. unknown=False: only questions whose answer the person asked about knows.

    one_cast: the source of an interchange has the base's people and vessels.
    """
    cast = cast or Cast()
    model = CausalModel(
        {
            "names": some_of(cast.names, 2),
            "vessels": some_of(cast.vessels, 2),
            "states": some_of(cast.states, 2),
            "sight": one_of([(a, b) for a in (False, True) for b in (False, True)]),
            "asked_name": one_of((0, 1)),
            "asked_vessel": one_of((0, 1)),
            "character": caused(lambda asked_name: asked_name),
            "vessel": caused(lambda asked_vessel: asked_vessel),
            "address": caused(lambda character, vessel: (character, vessel)),
            "knows": caused(lambda address, sight: address[0] == address[1] or sight[address[0]]),
            "pointer": caused(lambda address, knows: address[1] if knows else None),
            "answer": caused(lambda states, pointer: _UNKNOWN if pointer is None else states[pointer]),
        }
    )
    shared = ("names", "vessels") if one_cast else ()
    return Behaviour(model, _wording, ("asked_vessel",), shared, valid=None if unknown else lambda s: s["answer"] != _UNKNOWN)


def belief_tracking(
    lm: LanguageModel, *, unknown: bool = True, one_cast: bool = False, n: int = 50, seed: int = 0, known: bool = True
) -> Task:
    """At most n pairs of questions about one story; only names, vessels and contents of one token are used.

    unknown: also ask what a person cannot know. one_cast: sources of interchanges have the base's people and vessels. known: keep only pairs that
    the model gets right (likeliest next token), on both sides.
    Raises PromptError if no pair is left.
    """
    names = one_token(one_token(_NAMES, lm), lm, before="")
    cast = Cast(names, one_token(_VESSELS, lm), one_token(_STATES, lm))
    arguments = {"unknown": unknown, "one_cast": one_cast, "n": n, "seed": seed, "known": known}
    made = behaviour(cast, unknown=unknown, one_cast=one_cast)
    return causal_task("belief_tracking", made, lm, role="asked_vessel", arguments=arguments)


def _wording(s: Settings) -> tuple[str, Mapping[str, str]]:
    roles = {"asked_name": s["names"][s["asked_name"]], "asked_vessel": s["vessels"][s["asked_vessel"]]}
    for i in (0, 1):
        roles |= {f"name_{i + 1}": s["names"][i], f"vessel_{i + 1}": s["vessels"][i], f"state_{i + 1}": s["states"][i]}
        roles[f"sight_{i + 1}"] = "can" if s["sight"][i] else "cannot"
    return _STORY, roles
