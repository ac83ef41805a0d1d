"""Edges at places: they add up to those without; what cancels is found; edges inside heads against heads computed by hand."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch

import cutaway as cut
from cutaway.address import Address
from cutaway.errors import PromptError
from cutaway.methods.base import examples
from cutaway.models.language import LanguageModel
from cutaway.tasks.base import Pair, Task
from cutaway.zoo.base import Transformer, TransformerConfig

Known = tuple[LanguageModel, Task]


def test_an_edge_that_cancels_is_found_at_both_places(cancelling: Known) -> None:
    summed = cut.circuits.eap(*cancelling)
    assert not summed.scores[summed.scored].any()
    graph = cut.circuits.peap(*cancelling)
    assert graph.places == ("before", "first", "second", "last")
    sign = {"first": 1.0, "second": -1.0}
    for place, value in sign.items():
        assert graph.score(f"embed[pos={place}] -> layers[0].attn.v[head=0, pos={place}]") == pytest.approx(value)
        inside = f"layers[0].attn.v[head=0, pos={place}] -> layers[0].attn.z[head=0, pos=last]"
        assert graph.score(inside) == pytest.approx(value)
    large = {edge for edge in graph.ranked() if abs(graph.score(edge)) > 1e-6}
    assert len(large) == 4, "what the head writes at the end is the same on both sides"


def test_places_add_up_to_the_edges_without(few_planted: Known) -> None:
    graph, whole = cut.circuits.peap(*few_planted), cut.circuits.eap(*few_planted)
    sums: dict[str, float] = defaultdict(float)
    for i in graph.scored:
        ends = (str(Address.parse(graph.nodes[n]).at(pos=None)) for n in (graph.sources[i], graph.targets[i]))
        sums[" -> ".join(ends)] += graph.scores[i]
    assert max(abs(sums[whole.edge(i)] - whole.scores[i]) for i in whole.scored) < 1e-4


@pytest.mark.slow
def test_the_planted_route_from_place_to_place(few_planted: Known) -> None:
    """Subject, to the relation's token, where the fact is looked up, to the last."""
    graph = cut.circuits.peap(*few_planted)
    assert {edge for edge in graph.ranked() if abs(graph.score(edge)) > 1e-3} == {
        *(f"embed[pos=subject] -> layers[0].attn.v[head={h}, pos=subject]" for h in (1, 3)),
        *(f"layers[0].attn.v[head={h}, pos=subject] -> layers[0].attn.z[head={h}, pos=relation]" for h in (1, 3)),
        *(f"layers[0].attn.z[head={h}, pos=relation] -> layers[1].mlp.input[pos=relation]" for h in (1, 3)),
        "layers[1].mlp.output[pos=relation] -> layers[2].attn.v[head=2, pos=relation]",
        "layers[2].attn.v[head=2, pos=relation] -> layers[2].attn.z[head=2, pos=last]",
        "layers[2].attn.z[head=2, pos=last] -> logits",
    }
    assert set(graph.top(9).circuit()) == set(graph.ranked()[:9])


@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_edges_inside_heads_equal_heads_computed_by_hand(kind: str) -> None:
    vocab = ("<bos>", *(f"w{i}" for i in range(1, 12)))
    config = TransformerConfig(vocab, n_layers=2, n_heads=2, d_model=12, d_head=5, d_mlp=7)
    lm = cut.open(Transformer(config, seed=3).double().eval())
    one = Task("mine", (Pair(cut.Prompt("w1 w2 w3 w4"), cut.Prompt("w5 w2 w6 w7"), "w8", "w9"),))
    graph = cut.circuits.peap(lm, one)
    (example,) = examples(lm, one, "logit_difference")
    points = [f"layers[1].attn.{name}" for name in ("q", "k", "v", "z")]
    here, there = (lm.run(side, read=points) for side in (example.base, example.counterfactual))
    _, slope = lm.gradients(example.base, of=lambda out: example.score(lm.last(out)), at=points[3:])
    head, t = 1, example.n_tokens - 1
    q, k, v = (here[p][0, :, head] for p in points[:3])
    g, sizes = slope[points[3]][0, t, head], []
    for place in [t] if kind == "q" else range(t + 1):
        new = {"q": q.clone(), "k": k.clone(), "v": v.clone()}
        new[kind][place] = there[f"layers[1].attn.{kind}"][0, place, head]
        z = [torch.softmax(b @ a[t] / a.shape[-1] ** 0.5, 0) @ c for a, b, c in ((q, k, v), (new["q"], new["k"], new["v"]))]
        edge = f"layers[1].attn.{kind}[head={head}, pos=t{place}] -> layers[1].attn.z[head={head}, pos=t{t}]"
        assert graph.score(edge) == pytest.approx(float((z[1] - z[0]) @ g), abs=1e-6)
        sizes.append(abs(graph.score(edge)))
    assert max(sizes) > 1e-3


def test_schemas_that_do_not_fit_are_refused(planted: Known) -> None:
    lm, task = planted
    with pytest.raises(PromptError, match="subject, relation"):
        cut.circuits.peap(lm, task, schema=("object",))
    assert cut.circuits.peap(lm, task, schema=("relation",)).places == ("before", "relation", "last")
    bare = [Pair(cut.Prompt(p.base.text), cut.Prompt(p.counterfactual.text), p.answer, p.foil) for p in task.pairs]
    with pytest.raises(PromptError, match="different lengths"):
        cut.circuits.peap(lm, task.with_pairs(bare))
