"""Messages are what was sent, or a StreamError."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from cutaway.engine.wire import packed, unpacked
from cutaway.errors import CutawayError, StreamError


def test_every_form_travels() -> None:
    message = {"t": torch.arange(6).view(2, 3).T, "l": [1, 0.5, None, True, "x"], "p": (1, (2,)), "m": {"a": {}}, "d": torch.bfloat16}
    message |= {"b": b"\x00\xff", "none": b"", "inf": float("-inf"), "c": torch.tensor([1j]).conj()}
    back = unpacked(packed(message), 2**20)
    for name in ("t", "c"):
        assert torch.equal(back.pop(name), message.pop(name).resolve_conj())
    assert back == message


def test_what_torch_returns_by_name_comes_back_by_name() -> None:
    top = unpacked(packed({"top": torch.arange(5).topk(2)}), 2**20)["top"]
    assert isinstance(top, torch.return_types.topk) and top.indices.tolist() == [4, 3]


def test_what_is_no_value_is_not_sent() -> None:
    for wrong in (object(), {1: 2}, print, {b"x"}):
        with pytest.raises(StreamError):
            packed({"a": wrong})


def said(text: str) -> bytes:
    return save({}, metadata={"message": text})


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\xff" * 64,
        save({}),
        said("[]"),
        said("["),
        said('{"mapping": 3}'),
        said('{"mapping": {"a": {"tensor": "0"}}}'),
        said('{"mapping": {"a": {"dtype": "load"}}}'),
        said('{"mapping": {"a": {"float": "x"}}}'),
        said('{"mapping": {"a": {"code": "x"}}}'),
        said('{"mapping": {"a": {"returned": ["topk", [1]]}}}'),
        said('{"mapping": {"a": {"returned": ["__loader__", []]}}}'),
        said('{"mapping": {"a": {"returned": ["inspect", []]}}}'),
        said('{"mapping": {"a": {"returned": 3}}}'),
        said('{"mapping": {"a": NaN}}'),
        said('{"mapping": {"a": {"tuple": 3}}}'),
        said('{"a": 1, "b": 2}'),
        said("[" * 10**5 + "]" * 10**5),
        said('{"tuple":[' * 5000 + "]}" * 5000),
    ],
)
def test_what_is_no_message_is_refused(blob: bytes) -> None:
    with pytest.raises(CutawayError):
        unpacked(blob, 2**20)


def test_too_large() -> None:
    with pytest.raises(StreamError, match="at most"):
        unpacked(packed({"a": torch.zeros(1000)}), 1000)


TREE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["tensor", "tuple", "mapping", "float", "dtype"]), inner, max_size=2)
    ),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(TREE)
def test_any_tree_is_a_message_or_refused(tree: Any) -> None:
    try:
        unpacked(said(json.dumps(tree)), 2**20)
    except CutawayError:
        pass
