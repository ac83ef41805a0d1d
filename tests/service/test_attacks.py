"""What strangers, users and pages in a browser may try. Each is refused, says nothing of the inside, and leaves the server as it was."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from cutaway.engine import wire
from cutaway.mediators.featurizers.neurons import Neurons
from cutaway.remote.work import MiB, Work
from cutaway.service import server as core

pytestmark = pytest.mark.usefixtures("unharmed")
NAME, TEXT = "induction_lm", "red blue gold red blue"
NOBODY, HUGE = "0" * 32, 2**40
REFUSED = range(400, 500)
WORK = {"Content-Type": "application/vnd.cutaway.work"}
BYTES = {"Content-Type": "application/octet-stream"}
READ: dict[str, Any] = {"op": "read", "args": ["layers[0].output"]}
SAVE: dict[str, Any] = {"op": "save", "args": [], "kwargs": {"x": {"ref": [1]}}}
TRAVERSALS = (
    "../../../../etc/passwd",
    "/etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "....//etc/passwd",
    "file:///etc/passwd",
    "..\\..\\windows",
    "a%00b",
    "%0d%0aSet-Cookie:%20a=b",
    "{}",
    "*",
    "' OR 1=1 --",
    "%ff%fe",
    "é" * 50,
    "x" * 5000,
)


def raw(nodes: Any = (), text: str = "", inputs: Any = None) -> bytes:
    """A work of a graph of any JSON."""
    text = text or json.dumps({"version": 1, "model": NAME, "nodes": list(nodes)})
    told = {"args": (TEXT,)} if inputs is None else inputs
    return Work("graph", NAME, graph=save({}, metadata={"graph": text}), inputs=wire.packed(told)).to_bytes()


def op(name: str, *args: Any, seed: int | None = None, **kwargs: Any) -> dict[str, Any]:
    """A node that does something with what the first one read."""
    return {"op": name, "args": [{"ref": [0]}, *args]} | ({"kwargs": kwargs} if kwargs else {}) | ({} if seed is None else {"seed": seed})


def ends_badly(door: Any, answer: Any) -> str:
    """The type of the problem by which a request was refused, or its job failed."""
    fields = answer.json()
    if answer.status_code in (200, 202):
        assert fields["state"] == "failed", fields
        fields = fields["problem"]
    else:
        assert answer.status_code in REFUSED, answer.text
    assert fields["type"] not in ("internal", "out-of-memory", "time-limit"), fields
    kind: str = fields["type"]
    return kind


def eventually(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not true() and time.monotonic() < until:
        time.sleep(0.005)


# Graphs

nested: Any = 1
for _ in range(17):
    nested = [nested]
OPERATIONS = """os.system,Tensor.__class__,torch.load,torch.save,Tensor.__reduce_ex__,builtins.eval,Tensor.set_,Tensor.as_strided,Tensor.numpy,
torch.empty_like,,torch.ops.aten.add,Tensor.share_memory_,Tensor.register_hook,torch.hub.load,Tensor.backward,torch.linalg.svd,\x00,Tensor.storage"""
POINTS = """__class__ layers[0].__class__ forward.__globals__ layers[0].output.__dict__ ../../etc/passwd layers[-1].output layers[1e9].output
layers[0]..output attn.__init__.__globals__"""
SHAPES = (
    *(
        op(name, HUGE)
        for name in ("torch.repeat_interleave", "functional.interpolate", "torch.histc", "torch.topk", "functional.unfold", "fft.fft")
    ),
    *(op(name, [HUGE]) for name in ("Tensor.new_zeros", "torch.tile")),
    op("Tensor.repeat", HUGE, 1, 1),
    op("Tensor.expand", HUGE, 1, 6, 64),
    op("Tensor.new_full", [2**20, 2**20], 1.0),
    op("Tensor.view", -1, HUGE),
    op("Tensor.unfold", 0, HUGE, 1),
    op("functional.pad", [0, HUGE]),
    op("functional.one_hot", HUGE),
    op("torch.bincount", minlength=HUGE),
    op("torch.split", 0),
)
GRAPHS: dict[str, list[Any]] = {
    "operations": [[READ, op(name)] for name in OPERATIONS.split(",")],
    "points": [[{"op": "read", "args": [name]}] for name in (*POINTS.split(), "", "\x00", "layers[0].output" * 20, 3, None)],
    "references": [
        [READ, {"op": "Tensor.add", "args": [{"ref": ref}, 1]}, SAVE]
        for ref in ([5], [-1], [0, "__class__"], [0, 0], [1], [2**70], ["0"], [], [0] * 9, 0, None, [True], {"ref": [0]})
    ],
    "shapes": [[READ, node, SAVE] for node in SHAPES],
    "many": [
        [READ, op("Tensor.new_zeros", [3000, 3000]), *[{"op": "Tensor.add", "args": [{"ref": [i]}, 1]} for i in range(1, 100)]],
        [READ, {"op": "save", "args": [], "kwargs": {f"x{i}": {"ref": [0]} for i in range(2000)}}],
        [{"op": "stop", "args": []}] * 10_001,
        [READ, op("Tensor.expand", 5000, 6, 64), {"op": "torch.unbind", "args": [{"ref": [1]}]}],
    ],
    "weights": [
        [{"op": "Tensor.mul_", "args": [{"parameter": "embed.weight"}, 0]}],
        [{"op": "Tensor.view", "args": [{"parameter": "embed.weight"}, -1]}, {"op": "Tensor.zero_", "args": [{"ref": [0]}]}],
        *(
            [{"op": "save", "args": [], "kwargs": {"x": {"parameter": name}}}]
            for name in ("__class__", "training", "forward.__globals__", "_parameters", "layers.0", "x" * 300, "../embed.weight")
        ),
    ],
    "words": [
        [READ, op("Tensor.repeat", 2, 1, 1), {"op": "write", "args": ["layers[0].output", {"ref": [1]}]}],
        [READ, {"op": "write", "args": ["layers[0].output", 3]}],
        [READ, op("Tensor.double"), {"op": "write", "args": ["layers[0].output", {"ref": [1]}]}],
        [READ, {"op": "call", "args": ["", {"tuple": [{"ref": [0]}]}, {"dict": {}}]}],
        [READ, {"op": "call", "args": ["__init__", {"tuple": []}, {"dict": {}}]}],
        [{"op": "begin", "args": [2**31]}],
        [{"op": "begin", "args": [True]}],
        [{"op": "skip", "args": ["layers[0]", {"float": "nan"}]}],
        [READ, {"op": "save", "args": [], "kwargs": {"__class__": {"ref": [0]}}}],
    ],
    "arguments": [
        *([READ, op("Tensor.add", value), SAVE] for value in (nested, 2**70, {"ref": [0], "tuple": []}, {"__class__": 1}, {"dtype": "os"})),
        *([READ, op("Tensor.to", device), SAVE] for device in ("cuda:0", "meta", {"device": "cuda"}, {"device": "meta"})),
        [READ, op("torch.add", 1, out={"ref": [0]}), SAVE],
        [READ, op("torch.multinomial", 2), SAVE],
        [READ, op("Tensor.normal_", seed=-1), SAVE],
        [READ, op("torch.quantile", {"float": "nan"}), SAVE],
        [{"op": True, "args": []}],
        [{**op("Tensor.add", "x"), "line": "\x1b[31m\r\nSet-Cookie: a=b" * 100}],
        [None],
    ],
}
TEXTS = (
    '{"version":1,"nodes":[{"op":"Tensor.add","args":[NaN,Infinity]}]}',
    '{"version":1,"version":1,"nodes":[]}',
    '{"version":99,"nodes":[]}',
    '{"version":1,"nodes":' + "[" * 100_000 + "]" * 100_000 + "}",
    '{"version":1,"nodes":[{"op":"read","args":["layers[0].output"]},{"op":"Tensor.add","args":[{"ref":[0]},1e999]}]}',
    '{"version":1,"nodes":[{"op":"begin","args":[' + "9" * 5000 + "]}]}",
    '{"version":1,"nodes":[{"op":"read","args":["\\ud800"]}]}',
    '{"version":1,"nodes":{}}',
    "null",
    " ",
)


@pytest.mark.parametrize("name", list(GRAPHS))
def test_graphs(door: Any, name: str) -> None:
    for nodes in GRAPHS[name]:
        assert ends_badly(door, door.work(raw(nodes))) in ("graph-error", "unknown-name-error", "address-error")


def test_graphs_that_are_no_json(door: Any) -> None:
    for text in TEXTS:
        assert ends_badly(door, door.work(raw(text=text))) in ("graph-error", "unknown-name-error")


@pytest.mark.slow
def test_a_million(door: Any) -> None:
    for given in ("red " * 250_000, ["red"] * 100_000, ["red " * 60] * 4_000):
        ends_badly(door, door.work(raw([READ], inputs={"args": (given,)})))
    opened = [door("POST", "/v1/sessions", json={"model": NAME}) for _ in range(1_000)]
    assert [answer.status_code for answer in opened] == [201, 201, *[429] * 998]
    for answer in opened[:2]:
        door("DELETE", f"/v1/sessions/{answer.json()['id']}")
    text = json.dumps({"version": 1, "nodes": [{"op": "stop", "args": []}] * 10**6})
    work, began = raw(text=text), time.monotonic()
    assert ends_badly(door, door.work(work)) == "graph-error" and time.monotonic() - began < 5  # it is not read to be hashed


# Inputs and works


def driven(**changed: Any) -> dict[str, Any]:
    return {"args": (TEXT,), "driver": {"name": "generation", "new_tokens": 2, "temperature": 0.0, "seed": 0} | changed}


INPUTS: tuple[dict[str, Any], ...] = (
    *({"args": ({"text": "", "ids": ids},)} for ids in ([99], [-1], [2**62], [], [1] * 65)),
    *({"args": ({"text": "red", "spans": {"a": span}},)} for span in ([0, 99], [-5, 2**62], [2, 1], [0])),
    *({"args": (text,)} for text in ("red " * 20_000, "\ud800 red", "\x00", ["red"] * 10_001, [], [[TEXT]], None, b"red", torch.zeros(3))),
    {"args": (["red " * 60] * 1000,)},
    {"args": (TEXT,), "kwargs": {"output_attentions": True}},
    {"args": (TEXT, TEXT)},
    {"args": {"a": 1}},
    {"args": (TEXT,), "more": 1},
    {"args": (TEXT,), "driver": "x"},
    driven(new_tokens=10**9),
    driven(new_tokens=-1),
    driven(new_tokens=62),
    driven(name="__import__"),
    driven(temperature=1.0, seed=2**70),
)
METHOD = {"kind": "method", "model": NAME, "method": "locate.direct_effect", "task": "induction:n=2,length=6"}
PAIR = {"base": "red blue", "counterfactual": "red gold", "answer": "red", "foil": "blue"}
WORKS: tuple[dict[str, Any], ...] = (
    *(METHOD | {name: "x"} for name in ("worker", "id", "user", "state", "lease", "until")),
    METHOD | {"seed": 2**70},
    METHOD | {"seed": True},
    METHOD | {"task": None},
    METHOD | {"task": "\ud800"},
    METHOD | {"task": {"name": "x", "pairs": [PAIR] * 10_001}},
    METHOD | {"task": {"name": "x", "pairs": [PAIR | {"base": {"text": "red", "ids": [99]}}]}},
    METHOD | {"task": "induction:n=100000000"},
    METHOD | {"task": "induction:seed=-1"},
    METHOD | {"method": "locate._alignment"},
    METHOD | {"method": "base"},
    METHOD | {"arguments": {"lm": 1}},
    METHOD | {"kind": "shell"},
    METHOD | {"method": "locate.causal_trace", "arguments": {"samples": 10**9}},
    METHOD | {"method": "locate.ablation", "arguments": {"metric": "\ud800"}},
    METHOD | {"method": "locate.ablation", "arguments": {"draws": torch.zeros(1)}},
)


def test_inputs(door: Any) -> None:
    for given in INPUTS:
        ends_badly(door, door.work(raw([READ, SAVE | {"kwargs": {"x": {"ref": [0]}}}], inputs=given)))


def test_works(door: Any) -> None:
    for fields in WORKS:
        ends_badly(door, door.work(wire.packed(fields)))


def test_a_revision_is_the_servers_to_say(door: Any) -> None:
    """Else a user could leave a result for others under weights that are not there."""
    first, forged = (door.work(wire.packed(METHOD | more | {"seed": 201})).json() for more in ({}, {"revision": "forged"}))
    assert not first["cached"] and forged["cached"] and forged["result"] == first["result"]


def test_json(door: Any) -> None:
    kind = {"Content-Type": "application/json"}
    call = json.dumps(METHOD)[1:-1]
    for text in (
        f'{{{call}, "seed": 1, "seed": 2}}',
        f'{{{call}, "arguments": {{"x": NaN}}}}',
        f'{{{call}, "arguments": {{"x": 1e999}}}}',
        f'{{{call}, "seed": {2**70}}}',
        f'{{{call}, "seed": {"9" * 5000}}}',
        f'{{{call}, "task": {"[" * 10**5}',
        "\ud800",
        "",
        "[]",
        f'{{{call}, "task": {{"name": "\\ud800", "pairs": []}}}}',
        f'{{{call}, "__proto__": {{}}}}',
    ):
        answer = door("POST", "/v1/jobs?wait=20", content=text.encode("utf-8", "surrogatepass"), headers=kind)
        ends_badly(door, answer)


def stated(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensors(*described: tuple[str, list[int], list[int]]) -> dict[str, Any]:
    listed = {str(i): {"dtype": dtype, "shape": shape, "data_offsets": span} for i, (dtype, shape, span) in enumerate(described)}
    return {**listed, "__metadata__": {"message": "{}"}}


def test_safetensors(door: Any) -> None:
    blob = wire.packed(METHOD)
    mine = {"mapping": {**METHOD, "task": {"float": "__class__"}}}
    for content in (
        b"",
        b"\x01",
        struct.pack("<Q", 0),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**6) + b"{}",
        blob[:-3],
        blob + b"x",
        stated(tensors(("F32", [2], [0, 8]), ("F32", [2], [4, 12])), b"0" * 12),
        stated(tensors(("F32", [2], [-8, 8])), b"0" * 8),
        stated(tensors(("F32", [HUGE, HUGE], [0, 8])), b"0" * 8),
        stated(tensors(("XX", [2], [0, 8])), b"0" * 8),
        stated({"__metadata__": {"message": 3}}),
        stated({"__metadata__": {"message": json.dumps(mine)}}),
        stated({"__metadata__": {"message": json.dumps({"mapping": {"tensor": {"tensor": "9"}}})}}),
        b"\x80\x04cposix\nsystem\n(S'id'\ntR.",
        b"PK\x03\x04" + b"\x00" * 100,
        gzip.compress(blob),
    ):
        answer = door.work(content)
        assert answer.status_code == 422 and ends_badly(door, answer) in ("stream-error", "graph-error", "input-error"), content[:60]


def test_nothing_is_unpacked(door: Any) -> None:
    bomb = gzip.compress(bytes(64 * MiB))
    before = resident()
    for encoding in ("gzip", "deflate", "br", "zstd", "identity, gzip", "GZIP"):
        door.refused(door.work(bomb, headers={"Content-Encoding": encoding}), 415, "input-error")
        door.refused(
            door("POST", f"/v1/sessions/{NOBODY}", content=bomb, headers=BYTES | {"Content-Encoding": encoding}), 415, "input-error"
        )
    assert resident() - before < 32 * MiB


def resident() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


# Names that lead elsewhere


@pytest.mark.parametrize("path", ["jobs/{}", "jobs/{}/result", "jobs/{}/events", "models/{}/description", "jobs?before={}", "sessions/{}"])
def test_paths(door: Any, path: str) -> None:
    for name in TRAVERSALS:
        answer = door("DELETE" if path.startswith("sessions") else "GET", "/v1/" + path.format(name), "root")
        assert answer.status_code in (404, 422), (name, answer.text)
        assert "root:" not in answer.text and "set-cookie" not in answer.headers


def test_names(door: Any, tmp_path: Path) -> None:
    target = tmp_path / "target"
    for name in (*TRAVERSALS[:2], "a\x00b", str(target), "openai-community/gpt2"):
        for fields in (
            {"model": name},
            {"method": name},
            {"task": name},
            {"method": "locate.ablation", "arguments": {"metric": name}},
            {"method": "locate.ablation", "arguments": {"ranking": [name]}},
            {"method": "locate.das", "arguments": {"to": name}},
            {"method": "locate.boundless_das", "arguments": {"to": name}},
            {"method": "locate.dbm", "arguments": {"basis": name}},
            {"method": "locate.dbm", "arguments": {"to": name}},
            {"method": "locate.cross_model", "arguments": {"donor": name}},
            {"method": "circuits.faithfulness", "arguments": {"by": name}},
            {"method": "circuits.faithfulness", "arguments": {"by": f"locate.dbm:basis={name}"}},
            {"method": "circuits.faithfulness", "arguments": {"by": f"locate.das:to={name}"}},
            {"method": "locate.filter_heads", "arguments": {"transfer": name}},
        ):
            ends_badly(door, door("POST", "/v1/jobs?wait=20", json=METHOD | fields))
        door.refused(door("POST", "/v1/sessions", json={"model": name}), 404, "unknown-name-error")
    assert not target.exists() and list(tmp_path.iterdir()) == []


REACHING = """
import inspect, sys, typing
import cutaway as cut
from cutaway import registry
from cutaway.engine import confining

target, seen, tried, lm = sys.argv[1], [], 0, cut.open("induction_lm")
sys.addaudithook(lambda event, args: seen.append((event, args)) if any(target in str(a) for a in args if isinstance(a, (str, bytes))) else None)
for name in registry.names("methods"):
    function = registry.load("methods", name)
    hints = typing.get_type_hints(function)
    for option in inspect.signature(function).parameters.values():
        if option.kind is option.KEYWORD_ONLY and "str" in str(hints[option.name]):
            tried += 1
            for text in (target, "locate.dbm:basis=" + target, "locate.das:steps=1,to=" + target):
                with confining.confined():
                    try:
                        function(lm, "induction:n=2,length=6", **{option.name: (text,) if "tuple" in str(hints[option.name]) else text})
                    except Exception:
                        pass
    assert not seen, (name, seen)
print(tried)
"""


@pytest.mark.slow
def test_no_text_that_a_method_takes_leads_to_a_file(tmp_path: Path) -> None:
    """What the interpreter tells of every file it opens: none is the one that each option names in turn."""
    target = str(tmp_path / "kept")
    Neurons(size=64, which=torch.arange(64)).save(target)
    done = subprocess.run([sys.executable, "-c", REACHING, target], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 20 and sorted(path.name for path in tmp_path.iterdir()) == ["kept.json", "kept.safetensors"]


# Other users


def test_another_users_session(door: Any) -> None:
    id = door("POST", "/v1/sessions", json={"model": NAME}).json()["id"]
    for who in ("bob", "root"):
        theirs = door("POST", f"/v1/sessions/{id}", who, content=wire.packed({"nodes": []}), headers=BYTES)
        none = door("POST", f"/v1/sessions/{NOBODY}", who, content=wire.packed({"nodes": []}), headers=BYTES)
        assert theirs.status_code == 404 and theirs.text.replace(id, NOBODY) == none.text
        assert door("DELETE", f"/v1/sessions/{id}", who).status_code == 404
    assert door("DELETE", f"/v1/sessions/{id}").status_code == 204


def test_many_sessions(door: Any) -> None:
    opened = [door("POST", "/v1/sessions", json={"model": NAME}) for _ in range(12)]
    assert [answer.status_code for answer in opened] == [201, 201, *[429] * 10]
    for answer in opened[:2]:
        door("DELETE", f"/v1/sessions/{answer.json()['id']}")


def lm_inputs(**changed: Any) -> dict[str, Any]:
    return {"open": {"args": [], "kwargs": {"input_ids": torch.tensor([[1, 2, 3]])} | changed}}


MESSAGES: tuple[bytes | dict[str, Any], ...] = (
    b"",
    b"x" * 100,
    b"\x80\x04cposix\nsystem\n(S'id'\ntR.",
    {},
    {"nodes": []},
    {"open": 3},
    {"open": {"args": [], "kwargs": {}}},
    lm_inputs(input_ids=torch.tensor([[64]])),
    lm_inputs(input_ids=torch.tensor([[-1]])),
    lm_inputs(input_ids=torch.zeros(1, 65, dtype=torch.long)),
    lm_inputs(input_ids=torch.zeros(1_000, 64, dtype=torch.long)),
    lm_inputs(input_ids=torch.zeros(3)),
    lm_inputs(position_ids=torch.tensor([[2**40]])),
    lm_inputs(past_key_values=[1]),
    lm_inputs(output_hidden_states=True),
    {"open": {"args": [torch.zeros(1, 3, dtype=torch.long)], "kwargs": {}}},
    lm_inputs() | {"nodes": [op("os.system")]},
    lm_inputs() | {"nodes": [READ, op("Tensor.repeat", HUGE, 1, 1)]},
    lm_inputs() | {"nodes": [READ], "want": {"ref": [5]}},
    lm_inputs() | {"nodes": [READ], "want": {"ref": ["__class__"]}},
    lm_inputs() | {"constants": {"a": "text"}},
    {"open": lm_inputs()["open"] | {"driver": {"name": "generation", "new_tokens": 63, "temperature": 0.0, "seed": 0}}},
    {"open": lm_inputs()["open"] | {"driver": {"name": "generation", "new_tokens": "9", "temperature": 0.0, "seed": 0}}},
)


def test_messages(door: Any) -> None:
    for message in MESSAGES:
        id = door("POST", "/v1/sessions", json={"model": NAME}).json()["id"]
        content = message if isinstance(message, bytes) else wire.packed(message)
        answer = door("POST", f"/v1/sessions/{id}", content=content, headers=BYTES)
        told = wire.unpacked(answer.content, MiB)
        assert answer.status_code == 200 and told.get("error") in ("StreamError", "GraphError", "EngineError", "InputError"), (
            message,
            told,
        )
        door.watch(str(told))
        door("DELETE", f"/v1/sessions/{id}")


def test_one_message_at_a_time(door: Any) -> None:
    """Else a user could hold a thread with each message to a forward that is busy."""
    id = door("POST", "/v1/sessions", json={"model": NAME}).json()["id"]
    path = f"/v1/sessions/{id}"
    h, slow = {"ref": [1]}, [op("Tensor.new_ones", [1500, 1500])]
    slow += [{"op": "torch.mm", "args": [h, h]}] * 20
    content = wire.packed(lm_inputs() | {"nodes": [READ, *slow]})
    with ThreadPoolExecutor() as pool:
        first = pool.submit(door, "POST", path, content=content, headers=BYTES)
        eventually(lambda: door.server.sessions._open[id].busy)
        door.refused(door("POST", path, content=b"x", headers=BYTES), 429, "busy-error")
        door("DELETE", path)
        assert first.result(10).status_code in (200, 404)


def test_many_who_wait(idle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "LISTENERS", 3)
    id = idle.method(wait=0).json()["id"]
    theirs = idle.method(wait=0, who="bob").json()["id"]
    with ThreadPoolExecutor() as pool:
        held = [pool.submit(idle, "GET", f"/v1/jobs/{id}/events") for _ in range(3)]
        eventually(lambda: idle.server._waited["ann"] == 3)
        for path in (f"/v1/jobs/{id}/events", f"/v1/jobs/{id}?wait=9"):
            idle.refused(idle("GET", path), 429, "busy-error")
        idle.refused(idle.method(seed=2, wait=9), 429, "busy-error")
        assert idle("GET", f"/v1/jobs/{id}").status_code == 200 and idle("GET", f"/v1/jobs/{theirs}?wait=0.1", "bob").status_code == 200
        idle("DELETE", f"/v1/jobs/{id}")
        assert all("cancelled" in one.result(5).text for one in held)
    assert idle("GET", f"/v1/jobs/{id}/events").status_code == 200
