"""Writes a body down as an intervention graph while it runs on fake tensors.

    with model.record("The Eiffel Tower is in") as run:
        h = model.layers[3].output              # a Recorded: has a shape, a dtype and no values
        model.layers[5].output = h * 2
        run.save(top=model.logits[0, -1].topk(5).indices)
    run.graph                                   # what the body does, as data

What the body gets from the forward are `Recorded` tensors; every torch function that meets one is looked up in the reviewed table, run on fakes
for its shape, and noted with the line of the user's file. Functions of ordinary tensors run as ever; their values become constants where they meet a
recorded one. Whatever needs a value raises RecordError at its line, with the tensor operation that would work.
"""

from __future__ import annotations

import difflib
import math
import os
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensor, FakeTensorMode

from cutaway.engine.fake import Watch, mapped, quiet, shape
from cutaway.engine.graph import Graph
from cutaway.engine.node import DEVICE, Node
from cutaway.engine.operations import EQUIVALENT, IN_PLACE, INSTEAD, LOCAL, NAMES, RANDOM
from cutaway.errors import GraphError, RecordError

_NOT_THE_USERS = (
    *(os.path.dirname(os.path.dirname(os.path.abspath(path))) + os.sep for path in (torch.__file__, __file__)),
    os.path.dirname(os.path.abspath(os.__file__)) + os.sep,
)
"""Folders of installed libraries, of this package, of Python's own."""
_STORED = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16),
    *(torch.float32, torch.float64, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2),
)
"""Types that safetensors has."""


@final
class Recorded(Tensor):
    """A tensor of a body that is being recorded: its shape is known, its values are not."""

    fake: Tensor
    recorder: Recorder

    @staticmethod
    def __new__(cls, fake: Tensor, recorder: Recorder) -> Recorded:
        made: Recorded = Tensor._make_wrapper_subclass(cls, fake.shape, dtype=fake.dtype, device=fake.device)
        made.fake, made.recorder = fake, recorder
        return made

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = _first((args, kwargs))
        assert found is not None
        with torch._C.DisableTorchFunctionSubclass():
            return found.recorder.apply(function, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RecordError(f"Record {function} at {user_line()}.", "a call that goes around torch's functions", "tensor operations")


class Recorder:
    """Notes nodes. What the trace asks of it: read, write, skip, call, stop, output, save. `values` are not known here (`streaming` knows them)."""

    def __init__(self, module: nn.Module, name: str, within: FakeTensorMode, seed: int) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, Tensor] = {}
        self.within = within
        self._name, self._seed = name, seed
        self._refs: dict[int, list[Any]] = {}
        self._alive: list[Any] = []  # what ids in _refs and _constants stand for must stay alive
        self._outside: dict[tuple[int, int], str] = {}
        self._whole, self._watch = id(module), Watch()
        lasting = module.state_dict(keep_vars=True)  # other buffers are a forward's own notes
        self._parameters = {id(p): n for n, p in (*module.named_parameters(), *module.named_buffers()) if n in lasting}
        self._left = False
        self._device = next((p.device for p in module.parameters()), torch.device("cpu"))
        self._weightless = self._device.type == "meta"  # then all is on "meta", and says it is on the CPU
        self._inference = torch.is_inference_mode_enabled()

    def graph(self) -> Graph:
        """What has been noted so far."""
        return Graph(tuple(self.nodes), dict(self.constants), self._name)

    # What a trace tells

    def read(self, name: str, value: Any) -> Any:
        """A value of the forward, as the body gets it."""
        return self._bound(value, self._note("read", name))

    def write(self, name: str, value: Any) -> Any:
        """A value of the body, as the forward goes on with it."""
        self._note("write", name, self.encoded(value))
        return self._plain(value)

    def skip(self, path: str, value: Any) -> Any:
        """As `write`, of a module that does not run."""
        self._note("skip", path, self.encoded(value))
        return self._plain(value)

    def call(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of a module by the body."""
        if id(module) == self._whole:
            raise RecordError(
                f"Call the whole model at {user_line()}.", "a forward inside a forward", "a recording of its own on those inputs"
            )
        number = self._append(Node("call", (path, self.encoded(args), self.encoded(kwargs)), {}, user_line(), torch.is_grad_enabled()))
        try:
            with quiet(), self.within:
                out = module(*self._plain(args), **self._plain(kwargs))
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            works = "model.trace; or another implementation of that module"
            raise RecordError(f"Call {path} at {user_line()}.", "a forward that depends on values", works) from error
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise RecordError(f"Call {path} at {user_line()}.", str(error).partition("\n")[0], "arguments that fit") from error
        return self._bound(out, number)

    def parameter(self, value: Tensor) -> Tensor:
        """A weight of the model, which the graph names instead of holding it."""
        if id(value) not in self._parameters:
            return value
        made = Recorded(self._kept(value), self)
        self._remember(made, {"parameter": self._parameters[id(value)]})
        return made

    def begin(self, step: int) -> bool:
        """The body goes on to a later step. Whether there is one."""
        self._note("begin", step)
        return True

    def stop(self) -> None:
        """The body ends the forward."""
        self._note("stop")

    def output(self, value: Any) -> Any:
        """What the forward returned."""
        return self._bound(value, self._note("output"))

    def save(self, values: Mapping[str, Any]) -> None:
        """The body keeps values."""
        self._note("save", **{name: self.encoded(value) for name, value in values.items()})

    def close(self) -> None:
        """The block has been left: nothing more is written down."""
        self._left = True

    def value(self, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Called where the body needs a value, or a shape that depends on values. Raises RecordError."""
        shape = next((tuple(a.shape) for a in args if isinstance(a, Tensor)), ())
        raise RecordError(
            f"Record `{name.rpartition('.')[2].strip('_')}` of a tensor of shape {shape} at {user_line()}.",
            "a body on fake tensors, which have no values",
            EQUIVALENT.get(name.rpartition(".")[2], "an operation on tensors")
            + "; or model.trace, or model.stream, where values come back",
        )

    # What the body does

    def apply(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a torch function on fakes and note it."""
        if function in LOCAL:
            found = function(*self._plain(args), **self._plain(kwargs))
            return torch.device("cpu") if isinstance(found, torch.device) and self._weightless else found
        if self._left:
            raise RecordError(
                f"Go on with a recording at {user_line()}.", "its block has been left", "run.save(name=value) inside the block"
            )
        short = str(getattr(function, "__name__", function))
        if short in ("__get__", "__set__"):
            short = str(getattr(function.__self__, "__name__", short))
        name = NAMES.get(function)
        if short == "__repr__" or (short == "__format__" and args[0].ndim):
            return self.shown(args[0])
        if name is None:
            if short in EQUIVALENT:
                return self.value(short, function, args, kwargs)
            found = "an operation that is not in the reviewed table"
            raise RecordError(f"Record torch's {short} at {user_line()}.", found, INSTEAD.get(short, _near(short)))
        self._refuse_state(name)
        if kwargs.get("out") is not None:
            raise RecordError(
                f"Record {name} at {user_line()}.", "out=, a change of another tensor", "what it returns; or out.copy_(value)"
            )
        if name in IN_PLACE and not isinstance(args[0], Recorded):
            works = "the operation that is not in place, such as x = x + h or torch.stack([...])"
            raise RecordError(f"Record {name} at {user_line()}.", "a change in place of a tensor the graph does not own", works)
        seed = self._drawn() if name in RANDOM else None
        listed, named = tuple(self.encoded(a) for a in args), {k: self.encoded(v) for k, v in kwargs.items()}
        number = self._append(Node(name, listed, named, user_line(), torch.is_grad_enabled(), seed))
        try:
            plain, named_plain = self._plain(args), self._plain(kwargs)
            with quiet(), self._watch:
                out = function(*plain, **named_plain)
        except GraphError as error:
            self.nodes.pop()
            raise RecordError(f"Record {name} at {user_line()}.", error.found, error.works) from error
        except (DataDependentOutputException, DynamicOutputShapeException):
            return self._bound(self.value(name, function, args, kwargs), number)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            self.nodes.pop()
            reason = str(error).partition("\n")[0]
            raise RecordError(f"Run {name} at {user_line()}.", reason, "arguments whose shapes and types fit") from error
        if name in IN_PLACE:
            return None if out is None else args[0]
        return self._bound(out, number)

    def shown(self, tensor: Tensor) -> str:
        """What printing a recorded tensor shows."""
        dtype = str(tensor.dtype).removeprefix("torch.")
        return f"<recorded {dtype} {tuple(tensor.shape)}>"

    def encoded(self, value: Any) -> Any:
        """A value as an argument of a node. Raises RecordError for what cannot be written down."""
        known = self._refs.get(id(value))
        if known is not None and not isinstance(value, (int, float, str, bool, type(None))):
            return known if isinstance(known, dict) else {"ref": known}
        if isinstance(value, Tensor):
            return self._constant(value)
        if isinstance(value, str) and DEVICE.fullmatch(value):
            value = torch.device(value)
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, complex):
            return {"complex": [value.real, value.imag]}
        if isinstance(value, tuple):
            return {"tuple": [self.encoded(v) for v in value]}
        if isinstance(value, (list, range)):
            return [self.encoded(v) for v in value]
        if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
            return {"dict": {k: self.encoded(v) for k, v in value.items()}}
        if isinstance(value, slice):
            return {"slice": [self.encoded(v) for v in (value.start, value.stop, value.step)]}
        if value is Ellipsis:
            return {"ellipsis": True}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            if value.type not in (self._device.type, "cpu"):
                raise RecordError(
                    f"Use the device {value} at {user_line()}.", "another than the model's", "values where they are, or on the CPU"
                )
            return {"device": "model" if self._weightless or value.type == self._device.type else "cpu"}
        if hasattr(value, "item") and hasattr(value, "dtype") and not getattr(value, "shape", None):  # a numpy scalar
            return self.encoded(value.item())
        raise RecordError(
            f"Record a {type(value).__name__} at {user_line()}.", "no tensor and no plain value", "tensors, numbers, texts, slices, tuples"
        )

    def _constant(self, value: Tensor) -> dict[str, str]:
        if isinstance(value, Recorded):
            raise RecordError(
                f"Use a recorded tensor at {user_line()}.", "one of another recording", "its value: run that recording first, and save it"
            )
        if id(value) in self._parameters:
            return {"parameter": self._parameters[id(value)]}
        if isinstance(value, FakeTensor) or value.is_meta:
            works = "a tensor made from a recorded one (h.new_zeros, torch.zeros_like), or one with values"
            raise RecordError(f"Use a tensor at {user_line()}.", "one without values, made outside the recording", works)
        if value.layout != torch.strided or value.dtype not in _STORED:
            found = f"one of layout {value.layout} and type {value.dtype}"
            raise RecordError(f"Use a tensor at {user_line()}.", found, "x.to_dense(), and a type such as torch.float32")
        key = (id(value), value._version if not value.is_inference() else -len(self._alive))
        if key not in self._outside:
            self._outside[key] = str(len(self.constants))
            self.constants[self._outside[key]] = value.detach().cpu().clone()
            self._alive.append(value)
        return {"constant": self._outside[key]}

    def _note(self, op: str, *args: Any, **kwargs: Any) -> int:
        return self._append(Node(op, args, kwargs, user_line()))

    def _append(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _bound(self, value: Any, number: int) -> Any:
        return self._bind(value, [number])

    def _bind(self, value: Any, ref: list[Any]) -> Any:
        """The value with its tensors recorded, each under its place."""
        if isinstance(value, Tensor):
            value = value if isinstance(value, FakeTensor) else self._kept(value)
            made = Recorded(value.to("meta") if self._weightless and not value.is_meta else value, self)
            self._remember(made, ref)
            return made
        if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
            bound = [self._bind(v, [*ref, i]) for i, v in enumerate(value)]
            made_one = value if all(a is b for a, b in zip(bound, value, strict=True)) else _like(value, bound)
        elif isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
            fields = {k: self._bind(v, [*ref, k]) for k, v in value.items()}
            made_one = fields if type(value) is dict else type(value)(**fields)
        else:
            made_one = value
        if made_one is not None and not isinstance(made_one, (bool, int, float, str)):
            self._remember(made_one, ref)
        return made_one

    def _remember(self, value: Any, ref: Any) -> None:
        self._refs[id(value)] = ref
        self._alive.append(value)

    def _plain(self, value: Any) -> Any:
        """Fakes in place of recorded tensors, and of tensors from outside."""

        def change(tensor: Tensor) -> Tensor:
            if isinstance(tensor, Recorded):
                return tensor.fake
            if isinstance(tensor, FakeTensor):
                return tensor
            return self._kept(tensor)

        if isinstance(value, slice):
            return slice(*(self._plain(v) for v in (value.start, value.stop, value.step)))
        return mapped(value, change) if not isinstance(value, (tuple, list)) else _like(value, [self._plain(v) for v in value])

    def _kept(self, tensor: Tensor) -> Tensor:
        """A tensor that is not the body's own as a fake one, which the body may not change."""
        made = shape(tensor.to("meta") if self._weightless and not tensor.is_meta else tensor, self.within)
        self._watch.keep(made)
        return made

    def _drawn(self) -> int:
        return (self._seed * 1_000_003 + len(self.nodes)) % 2**31

    def _refuse_state(self, name: str) -> None:
        for on, what in (
            (torch.is_autocast_enabled("cpu"), "autocast"),
            (torch.is_inference_mode_enabled() != self._inference, "inference mode"),
        ):
            if on:
                works = "x.to(dtype) on the values" if what == "autocast" else "torch.no_grad()"
                raise RecordError(f"Record {name} at {user_line()}.", f"a body inside {what}, which a graph does not carry", works)


def _like(value: Any, items: list[Any]) -> Any:
    if type(value) is list:
        return items
    if type(value) is tuple or isinstance(value, torch.Size):
        return tuple(items)
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _first(value: Any) -> Recorded | None:
    """The first recorded tensor in a value."""
    if isinstance(value, Recorded):
        return value
    items: Any = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    if isinstance(value, slice):
        items = (value.start, value.stop, value.step)
    return next((found for found in map(_first, items) if found is not None), None)


def _near(short: str) -> str:
    close = difflib.get_close_matches(short, {name.rpartition(".")[2] for name in NAMES.values()}, n=3, cutoff=0.8)
    return EQUIVALENT.get(short, " or ".join(close) or "the operations in docs/usage/record.md")


def user_line() -> str:
    """The nearest line outside this package and installed libraries, as file.py:12."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        frame = frame.f_back
    return "?" if frame is None else f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
