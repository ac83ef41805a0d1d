"""Every program against the same written in plain Python, and its circuit against exact edge patching."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch

import cutaway as cut
from cutaway import registry
from cutaway.zoo.base import Transformer

NAMES = tuple(name for name in registry.names("zoo") if name.startswith("compiled."))
Words = list[str]


def _listed(words: Words) -> tuple[Words, int]:
    """The words before "=", and how many come after it."""
    end = words.index("=")
    return words[:end], len(words) - end - 1


def _reverse(words: Words) -> str:
    letters, said = _listed(words)
    return letters[::-1][said]


def _sort(words: Words) -> str:
    letters, said = _listed(words)
    return sorted(letters)[said]


def _two_hop(words: Words) -> str:
    facts = dict(fact.split() for fact in " ".join(words[:-1]).split(",") if fact.strip())
    return facts[facts[words[-1]]]


def _brackets(words: Words) -> str:
    depths = [words[: i + 1].count("(") - words[: i + 1].count(")") for i in range(len(words))]
    return "broken" if min(depths) < 0 else "open" if depths[-1] else "closed"


def _most_frequent(words: Words) -> str | None:
    (word, most), *others = Counter(words).most_common()
    return None if most in dict(others).values() else word


def _caesar(words: Words) -> str:
    (key,) = (word for word in words if word.isdigit())
    return "abcdefgh"[("abcdefgh".index(words[-1]) + int(key)) % 8]


def _majority(words: Words) -> str:
    lead = words.count("x") - words.count("y")
    return "x" if lead > 0 else "y" if lead else "tie"


REFERENCES: dict[str, Callable[[Words], str | None]] = {
    "brackets": _brackets,
    "caesar": _caesar,
    "duplicates": lambda words: "seen" if words[-1] in words[:-1] else "new",
    "fraction_of_previous": lambda words: str(Fraction(words.count("x"), len(words))),
    "histogram": lambda words: str(words.count(words[-1])),
    "majority": _majority,
    "most_frequent": _most_frequent,
    "parity": lambda words: ("even", "odd")[words.count("x") % 2],
    "reverse": _reverse,
    "shift": lambda words: words[-3],
    "sort": _sort,
    "two_hop": _two_hop,
}
"""What is said after all the words; None where the program leaves it open."""

SLOW = ("brackets", "sort")
"""Programs of many layers, whose edges take long to patch."""


def _model(name: str) -> Transformer:
    model = registry.load("zoo", name)()
    assert isinstance(model, Transformer)
    return model


def _texts(model: Transformer, n: int) -> list[tuple[Words, str]]:
    assert model.circuit is not None
    pairs = model.circuit.pairs(n, 7)
    return [(text.split(), answer) for p in pairs for text, answer in ((p.base, p.answer), (p.counterfactual, p.foil))]


@pytest.mark.parametrize("name", NAMES)
def test_model_and_program_say_what_plain_python_says(name: str) -> None:
    model, reference = _model(name), REFERENCES[name.removeprefix("compiled.")]
    for words, answer in _texts(model, 12):
        expected = reference(words)
        assert answer == expected
        with torch.no_grad():
            logits = model(torch.tensor([[model.vocab.index(word) for word in ("<bos>", *words)]]))[0, -1]
        wanted = torch.zeros(len(model.vocab))
        wanted[model.vocab.index(answer)] = 10.0
        torch.testing.assert_close(logits, wanted, atol=0.05, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_idle_parts_are_there_and_do_nothing(name: str) -> None:
    make = registry.load("zoo", name)
    model, other = make(seed=0), make(seed=1)
    ids = torch.tensor([[model.vocab.index(word) for word in ("<bos>", *_texts(model, 1)[0][0])]])
    with torch.no_grad():
        assert torch.equal(model(ids), other(ids))
    last = len(model.blocks) - 1
    busy = {part for part in model.circuit.components if f"layers[{last}].attn" in part}
    assert len(busy) < model.config.n_heads
    assert not torch.equal(model.blocks[last].attn.v_proj.weight, other.blocks[last].attn.v_proj.weight)
    assert not torch.equal(model.blocks[last].mlp.up.weight, other.blocks[last].mlp.up.weight)


def _ranked_right(name: str, n: int) -> float:
    """AUROC of the sizes of all edges' effects, against the circuit; edges that no swap can show are left out."""
    lm = cut.open(name)
    circuit = lm.module.circuit
    scores = cut.circuits.edge_patching(lm, f"known_circuit:n={n}")
    size = dict(zip(scores.rows, np.abs(scores.values[:, 0]), strict=True))
    assert set(circuit.edges) < set(size)
    true = np.array([size[edge] for edge in circuit.shown])
    rest = np.array([size[edge] for edge in size.keys() - circuit.edges.keys()])
    assert rest.max() < 1e-3 and max((size[edge] for edge in circuit.fixed), default=0.0) < 1e-3
    return float(((true[:, None] > rest) + 0.5 * (true[:, None] == rest)).mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith(SLOW)])
def test_edge_patching_finds_the_circuit_and_nothing_else(name: str) -> None:
    assert _ranked_right(name, 8) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(SLOW)])
def test_edge_patching_finds_the_circuits_of_many_layers(name: str) -> None:
    assert _ranked_right(name, 40) == 1.0


@pytest.mark.parametrize("name", ["reverse", "two_hop", "shift"])
def test_fixed_edges_matter(name: str) -> None:
    """An edge that carries what is the same in all texts does not show when texts are swapped; without it, answers change."""
    model = _model(f"compiled.{name}")
    assert model.circuit is not None and model.circuit.fixed
    texts = [words for words, _ in _texts(model, 12)]
    needed = [edge for edge, carried in model.circuit.edges.items() if edge in model.circuit.fixed and carried != ("<bos>",)]
    for edge in needed:
        assert any(not torch.allclose(_logits(model, words), _without(model, edge, words), atol=0.1) for words in texts), edge


def _logits(model: Transformer, words: Words) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([[model.vocab.index(word) for word in ("<bos>", *words)]]))[0]
        return found


def _without(model: Transformer, edge: str, words: Words) -> torch.Tensor:
    """Logits when the receiver of an edge from the embeddings reads the residual stream less what is embedded."""
    sender, _, receiver = edge.partition(" -> ")
    assert sender == "embed"
    address = cut.Address.parse(receiver)
    block = model.blocks[int(receiver[len("layers[") :].partition("]")[0])]
    project, rows = block.mlp.up, slice(None)
    if address.head is not None:
        project = getattr(block.attn, f"{receiver.partition('.attn.')[2][0]}_proj")
        rows = slice(address.head * block.attn.d_head, (address.head + 1) * block.attn.d_head)
    embedded = (
        model.embed(torch.tensor([[model.vocab.index(word) for word in ("<bos>", *words)]])) + model.position.weight[: len(words) + 1]
    )

    def less(_: object, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[..., rows] -= (embedded @ project.weight.T)[..., rows]
        return output

    hook = project.register_forward_hook(less)
    try:
        return _logits(model, words)
    finally:
        hook.remove()


def test_lists_are_drawn_with_the_seed() -> None:
    circuit = _model("compiled.reverse").circuit
    assert circuit is not None
    assert circuit.pairs(3, 1) == circuit.pairs(3, 1) != circuit.pairs(3, 2)
