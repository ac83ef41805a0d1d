"""Circuits of a graph that can be checked by eye: a -> b -> out, a -> c -> out, where b and c read through one input each."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from cutaway.errors import InputError
from cutaway.results.base import Provenance, load
from cutaway.results.graph import Graph

NODES = ("embed", "layers[0].attn.z[head=0]", "layers[0].attn.z[head=1]", "layers[0].attn.q[head=0]", "layers[0].attn.q[head=1]", "logits")
JOINED = ((0, 3, -5.0), (0, 4, 1.0), (3, 1, np.nan), (4, 2, np.nan), (1, 5, 0.5), (2, 5, -4.0), (0, 5, 2.0))


def make(joined: Any = JOINED, nodes: tuple[str, ...] = NODES, **changes: Any) -> Graph:
    sources, targets, scores = (np.array(column) for column in zip(*joined, strict=True))
    fields: dict[str, Any] = {"kept": np.ones(len(joined), bool), "unit": "u", "title": "t", "provenance": Provenance("m", "z")}
    return Graph(nodes=nodes, sources=sources, targets=targets, scores=scores.astype(float), **(fields | changes))


def test_ranked_by_size_or_by_what_its_loss_costs() -> None:
    assert [make().score(edge) for edge in make().ranked()] == [-5, -4, 2, 1, 0.5]
    assert [make().score(edge) for edge in make().ranked(signed=True)] == [-5, -4, 0.5, 1, 2]
    with pytest.raises(InputError, match="no such edge"):
        make().score("embed -> nowhere")
    with pytest.raises(InputError, match="without a sign"):
        make(((0, 5, 1.0), (1, 5, 2.0))).ranked(signed=True)


def test_the_top_edges_are_kept_where_a_path_passes_them() -> None:
    """-5 leads to a head that nothing kept reads; -4 comes from one that reads nothing kept."""
    assert make().top(2).circuit() == ()
    assert make().top(3).circuit() == ("embed -> logits",)
    assert len(make().top(4).circuit()) == 3 and len(make().top(5).circuit()) == 5
    assert not make().top(3).kept[[2, 3]].any(), "what is inside a head that is not in the circuit is not either"


def test_greedily_a_circuit_grows_from_the_outputs() -> None:
    """-4 comes first, because -5 leads to nothing that is held; then 2, then 1 into the head that -4 brought in; 0.5 brings in -5."""
    assert make().greedy(1).circuit() == ()
    assert make().greedy(2).circuit() == ("embed -> logits",)
    assert set(make().greedy(3).circuit()) == {"embed -> logits", "layers[0].attn.z[head=1] -> logits", "embed -> layers[0].attn.q[head=1]"}
    assert len(make().greedy(5).circuit()) == len(make().greedy(99).circuit()) == 5


def test_everything_and_nothing() -> None:
    assert len(make().circuit()) == 5 and make().top(0).circuit() == () == make().greedy(0).circuit()


@pytest.mark.parametrize(
    ("true", "area"),
    [({"embed -> layers[0].attn.q[head=0]"}, 1.0), ({"layers[0].attn.z[head=0] -> logits"}, 0.0), ({"embed -> logits"}, 0.5)],
)
def test_area_under_the_curve_is_the_share_of_pairs_in_order(true: set[str], area: float) -> None:
    assert make().auroc(true) == area


def test_ties_count_half() -> None:
    flat = make().with_(scores=np.where(np.isnan(make().scores), np.nan, 0.0))
    assert flat.auroc({"embed -> logits"}) == 0.5
    with pytest.raises(InputError, match="no edge"):
        make().auroc({"a -> b"})
    with pytest.raises(InputError, match="0 true"):
        make().auroc(())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="one length"):
        make(kept=np.ones(3, bool))
    with pytest.raises(InputError, match="nodes 0 to 1"):
        make(nodes=NODES[:2])


def test_survives_storage(tmp_path: Any) -> None:
    again = load(make().top(4).save(tmp_path / "g"))
    assert isinstance(again, Graph) and again.circuit() == make().top(4).circuit() and again.kept.dtype == bool


def test_a_document_for_other_viewers() -> None:
    """What circuit-tracer's own reader asks of a graph: these fields, of these types, links between nodes that are there."""
    document = json.loads(json.dumps(make().top(4).to_circuit_tracer("mine"), allow_nan=False))
    assert document["metadata"]["slug"] == "mine" and {"scan", "prompt_tokens", "prompt"} <= document["metadata"].keys()
    assert {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"} == document["qParams"].keys()
    nodes = {node["node_id"]: node for node in document["nodes"]}
    assert len(nodes) == 3 and {node["feature_type"] for node in nodes.values()} == {"embedding", "logit", "cross layer transcoder"}
    for node in nodes.values():
        assert isinstance(node["layer"], str) and 0 <= node["ctx_idx"] < len(document["metadata"]["prompt_tokens"])
        assert node["clerp"] and isinstance(node["feature"], int) and node["jsNodeId"]
    assert {(nodes[e["source"]]["clerp"], nodes[e["target"]]["clerp"], e["weight"]) for e in document["links"]} == {
        ("embed", "logits", 2.0),
        ("embed", "layers[0].attn.z[head=1]", 1.0),
        ("layers[0].attn.z[head=1]", "logits", -4.0),
    }


def test_a_shared_key_is_split_between_its_heads() -> None:
    shared = make(((0, 3, 6.0), (3, 1, np.nan), (3, 2, np.nan), (1, 5, 1.0), (2, 5, 2.0)))
    assert shared.links(10) == {(0, 1): 3.0, (0, 2): 3.0, (1, 5): 1.0, (2, 5): 2.0}
