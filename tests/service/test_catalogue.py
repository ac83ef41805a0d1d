"""Models are offered by name, and known before they are open; works are admitted in bounded time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import cutaway as cut
from cutaway.engine import wire
from cutaway.engine.graph import Graph
from cutaway.engine.node import Limits, Node
from cutaway.errors import GraphError, InputError, UnknownNameError
from cutaway.remote.work import MiB, Work
from cutaway.service import catalogue
from cutaway.service.catalogue import Catalogue
from cutaway.service.runners.base import Settings
from cutaway.service.runners.inline import Inline

NAME = "induction_lm"
READ, SAVE = Node("read", ("layers[0].output",)), Node("save", (), {"x": {"ref": [0]}})


def graph(*nodes: Node, text: Any = "red blue", model: str = NAME) -> Work:
    return Work("graph", model, graph=Graph(nodes).to_bytes(), inputs=wire.packed({"args": (text,)}))


@pytest.fixture(scope="module")
def offered() -> Catalogue:
    return Catalogue([NAME], tokens=100)


def test_models_by_name(offered: Catalogue) -> None:
    lm = cut.open(NAME)
    assert list(offered) == [NAME] and NAME in offered and offered[NAME].context == lm.sizes.context
    assert offered.sizes == {NAME: sum(t.numel() * t.element_size() for t in lm.module.state_dict().values())}
    assert {weight.device.type for weight in offered[NAME].model.module.parameters()} == {"meta"}
    with pytest.raises(UnknownNameError, match="model of this server"):
        offered["other"]
    with pytest.raises(InputError, match="no names"):
        Catalogue([])


def test_works_are_measured(offered: Catalogue, work: Callable[..., Work]) -> None:
    found = offered.admit(graph(READ, SAVE, text=["red blue", "red"]))
    assert (found.rows, found.width, found.together, found.passed) == (2, 3, True, True) and found.sizes == {"x": 2 * 3 * 64 * 4}
    assert not offered.admit(work()).passed
    assert offered[NAME].known(graph(READ, SAVE, text=["red blue", "red"]).hash) == found


def test_what_is_too_much_is_refused_each_time(offered: Catalogue) -> None:
    large = graph(READ, SAVE, text=["red blue"] * 40)
    for _ in range(2):
        with pytest.raises(InputError, match="40 rows of 3 tokens"):
            offered.admit(large)


def test_nothing_is_hashed_that_is_beyond_the_limits() -> None:
    work = graph(READ, *[Node("stop")] * 20)
    with pytest.raises(GraphError, match="at most 10 nodes"):
        Catalogue([NAME], limits=Limits(nodes=10)).admit(work)
    assert "hash" not in vars(work)


def test_admission_ends(offered: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    work = graph(READ, Node("Tensor.add", ({"ref": [0]}, 7)), SAVE)
    monkeypatch.setattr(catalogue, "PATIENCE", -1.0)
    with pytest.raises(InputError, match="Admit a graph"):
        offered.admit(work)
    monkeypatch.undo()
    assert offered.admit(work).passed


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sizes_are_those_of_the_open_model(dtype: str) -> None:
    names, runner = (NAME, "compiled.reverse"), Inline(Settings(dtype=dtype))
    assert Catalogue(names, dtype=dtype).sizes == {name: runner.load(name) for name in names}
    runner.close()


def test_large_results_are_refused_by_their_names(offered: Catalogue, graphs: Any) -> None:
    def large(lm: Any, run: Any) -> None:
        h = lm.layers[0].output[0, :1]
        x, y = h.repeat(130 * MiB // (4 * h.shape[-1]), 1), h.repeat(240 * MiB // (4 * h.shape[-1]), 1)
        run.save(a=x, b=y, c=x, d=y, e=x, f=y)

    def warned(lm: Any, run: Any) -> None:
        h = lm.layers[0].output[0, :1]
        run.save(much=h.repeat(65 * MiB // (4 * h.shape[-1]), 1))

    with pytest.raises(InputError, match=r"(?s)1,110 MiB.*: b 240 MiB, d 240 MiB, f 240 MiB\n.*topk"):
        offered.admit(graphs(body=large))
    (warning,) = offered.admit(graphs(body=warned)).warnings
    assert "much 65 MiB" in warning


def test_equal_works_are_measured_once(offered: Catalogue, graphs: Any) -> None:
    """Also where a class sends them in the same moment."""
    work, offer = graphs(77), offered[NAME]
    assert offer.known(work.hash) is None
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(offered.admit(work))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(measured) for measured in found}) == 1 and offer.known(work.hash) is found[0] and len(found) == 20
    with offer._lock:
        assert offered.admit(work) is found[0], "what is known waits for nobody's admission"


def test_as_many_are_remembered_as_may_be(monkeypatch: pytest.MonkeyPatch, graphs: Any) -> None:
    monkeypatch.setattr(catalogue, "_REMEMBERED", 3)
    offered, works = Catalogue([NAME]), [graphs(number) for number in range(5)]
    for work in works:
        offered.admit(work)
    assert [offered[NAME].known(work.hash) is not None for work in works] == [False, False, True, True, True]
