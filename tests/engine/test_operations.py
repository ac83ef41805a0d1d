"""The reviewed table: what may be in a graph, and what may never be."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cutaway.engine.operations import DYNAMIC, IN_PLACE, LOCAL, MANY, NAMES, RANDOM, TABLE, page

NEVER = """
load save set_ resize_ as_strided as_strided_ data_ptr storage untyped_storage numpy tolist item backward register_hook map_ apply_ share_memory_
pin_memory empty empty_like new_empty new_tensor from_file frombuffer cuda is_set_to resize_as_ __reduce_ex__ __setstate__ __class__ __dict__ compile
jit vmap func library ops _C record_stream put_ random_ exponential_ grad data __array__ __dlpack__ to_dlpack from_dlpack
"""


def test_dangerous_names_are_not_there() -> None:
    shorts = {name.rpartition(".")[2] for name in TABLE if name != "torch.autograd.grad"}
    assert not shorts & set(NEVER.split())


def test_every_name_is_what_it_calls() -> None:
    for name, function in TABLE.items():
        home, _, short = name.rpartition(".")
        where = {"torch": torch, "Tensor": Tensor, "functional": torch.nn.functional, "linalg": torch.linalg, "fft": torch.fft}
        where["torch.autograd"] = torch.autograd  # type: ignore[assignment]
        found = getattr(where[home], short)
        assert callable(function) and (function is found or function == getattr(found, "__get__", None)), name


def test_sets_are_of_the_table() -> None:
    assert TABLE.keys() >= RANDOM & TABLE.keys() and IN_PLACE <= TABLE.keys()
    for names in (MANY, DYNAMIC):
        assert names & TABLE.keys()
    assert not set(TABLE.values()) & LOCAL and set(NAMES.values()) <= TABLE.keys()
    assert all(name.endswith("_") for name in IN_PLACE)


def test_in_place_is_known_of_all_that_are() -> None:
    """Names that end in one underscore, and Python's in-place operators."""
    named = {name for name in TABLE if name.startswith("Tensor.") and (name.endswith("_") and not name.endswith("__"))}
    operators = {name for name in TABLE if name.startswith("Tensor.__i") and name != "Tensor.__invert__"}
    assert named <= IN_PLACE and operators <= IN_PLACE


def test_all_that_draw_are_known() -> None:
    drawing = {
        name
        for name in TABLE
        if name.rpartition(".")[2] in ("rand_like", "randn_like", "randint_like", "multinomial", "normal_", "uniform_")
    }
    assert drawing | {name for name in TABLE if "bernoulli" in name} == RANDOM & TABLE.keys()


def test_the_page_lists_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "usage" / "record.md").read_text("utf-8")
    assert text.partition("<!-- operations -->\n")[2].partition("<!-- end of operations -->")[0] == page()
