"""Work asks before every node and block, in its own thread, and only while somebody listens."""

from __future__ import annotations

import threading

import pytest
from torch import Tensor

from cutaway.engine import stopping
from cutaway.engine.graph import Graph
from cutaway.engine.node import Node
from cutaway.errors import EngineError
from cutaway.models.any_module import AnyModule

H = {"ref": [0]}
READ = Node("read", ("0.output",))


def test_asked_at_every_node_and_block(chain: AnyModule, x: Tensor) -> None:
    asked: list[int] = []
    graph = Graph((READ, Node("Tensor.mul", (H, 2)), Node("save", (), {"h": {"ref": [1]}})))
    undo = stopping.watch(chain.module)
    with stopping.asking(lambda: asked.append(1)):
        chain.replay(graph, x)
    assert len(asked) == 3 + 1 + 6  # nodes, the model, and what stands in its two sequences
    chain.replay(graph, x)
    assert len(asked) == 10
    undo()
    with stopping.asking(lambda: asked.append(1)):
        chain.module(x)
    assert len(asked) == 10 and not any(part._forward_pre_hooks for part in chain.module.modules())


def test_what_a_check_raises_ends_the_forward(chain: AnyModule, x: Tensor) -> None:
    def no() -> None:
        raise EngineError("Go on.", "enough", "nothing")

    undo = stopping.watch(chain.module)
    with pytest.raises(EngineError, match="enough"), stopping.asking(no):
        chain.run(x, read=["3.output"])
    with chain.trace(x) as run:
        pass
    undo()
    assert run.finished


def test_other_threads_are_not_asked(chain: AnyModule, x: Tensor) -> None:
    asked: list[int] = []
    undo = stopping.watch(chain.module)
    with stopping.asking(lambda: asked.append(1)):
        other = threading.Thread(target=chain.module, args=(x,))
        other.start()
        other.join()
    undo()
    assert not asked
