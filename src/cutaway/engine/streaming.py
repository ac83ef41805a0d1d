"""A body here, its forward elsewhere.

    with model.stream(inputs, to=transport) as run:     # model may be without weights
        h = model.layers[3].output
        if h.norm() > 10:                               # the pending operations go over, the forward there runs up to here, one value comes back
            model.layers[5].output *= 0
        run.save(logits=model.logits[0, -1])

The body is ordinary Python. Its operations are noted as in a recording and sent when a value is needed, or at the end; on the other side an
`Executor` computes them in a live trace, whose forward stays parked between messages. A message is JSON and safetensors: no code, no pickle.
What comes back is bit-identical to a live run on the machine that holds the weights.
"""

from __future__ import annotations

import contextvars
import copy
import queue
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cutaway.engine import wire
from cutaway.engine.fake import mapped, size
from cutaway.engine.interleave import Trace
from cutaway.engine.interpreter import Interpreter, said
from cutaway.engine.node import Limits, Node, check_node, node_from
from cutaway.engine.operations import NAMES
from cutaway.engine.recording import Recorded, Recorder
from cutaway.engine.replaying import answer, guarded
from cutaway.errors import CutawayError, EngineError, GraphError, OutOfOrderError, StreamError

if TYPE_CHECKING:
    from cutaway.engine.model import Model

PARK = 60.0
"""Seconds a forward may stay parked between two messages, unless told otherwise."""
_ANSWERS: dict[str, type[CutawayError]] = {c.__name__: c for c in (GraphError, OutOfOrderError, StreamError, EngineError)}


class Transport(Protocol):
    """Carries messages to an executor. In one process it is `Hosted`; the service's goes over HTTP."""

    def send(self, message: bytes) -> bytes:
        """One message there, its answer back. Raises StreamError if there is none."""

    def close(self) -> None:
        """No more messages: the forward there is let go."""


class Driver(Protocol):
    """Drives a forward, and tells in plain values how, so that it can be made again where the weights are (`Model.driver`)."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Take the forward's arguments and call the model, once or several times."""

    def data(self) -> dict[str, Any]:
        """Its name and settings."""


@final
class Executor:
    """Holds the weights and one parked forward. All calls come from one thread, which is the forward's.

    limits: what one stream may send and make; a stream is untrusted. `send` answers every message; an error is an answer, and ends the stream.
    """

    def __init__(self, model: Model, limits: Limits | None = None) -> None:
        self._model = copy.copy(model)  # an opened model of its own: the caller may have a trace open on the other
        self._limits = limits or Limits()
        self._context = contextvars.copy_context()
        self._run: Trace | None = None
        self._interpreter: Interpreter | None = None
        self._constants: dict[str, Tensor] = {}
        self._bytes, self._messages, self._grad = 0, 0, False

    def send(self, message: bytes) -> bytes:
        """Answer one message."""
        return self._context.run(self._answer, message)

    def close(self) -> None:
        """Let the forward go."""
        self._context.run(self._drop, EngineError("stream", "closed"))

    def _answer(self, message: bytes) -> bytes:
        try:
            return wire.packed(self._told(message))
        except CutawayError as error:
            self._drop(error)
            return wire.packed({"error": type(error).__name__, "parts": [error.asked, error.found, error.works]})

    def _told(self, message: bytes) -> dict[str, Any]:
        try:
            return self._handled(wire.unpacked(message, self._limits.constants + self._limits.text))
        except CutawayError:
            raise
        except Exception as error:  # also what the model's own forward raises: it has to be told on the other side
            raise EngineError(
                "Go on with a stream.", said(error), "messages of model.stream, and values the forward can go on with"
            ) from error

    def _handled(self, message: dict[str, Any]) -> dict[str, Any]:
        self._messages += 1
        if "open" in message:
            self._open(message["open"])
        run, interpreter = self._run, self._interpreter
        if run is None or interpreter is None or self._messages > self._limits.messages:
            found = f"more than {self._limits.messages:,} messages" if run is not None else "one that is not open"
            raise StreamError("Go on with a stream.", found, "model.stream, from the start")
        self._take(message.get("constants", {}))
        known = len(interpreter.values)
        nodes = [node_from(data, known + i) for i, data in enumerate(message.get("nodes", []))]
        if known + len(nodes) > self._limits.nodes:
            raise StreamError("Go on with a stream.", f"more than {self._limits.nodes:,} nodes", "a shorter body")
        for i, node in enumerate(nodes):
            check_node(node, known + i, self._constants, self._limits)
        with torch.set_grad_enabled(self._grad):
            answer(self._model, run, interpreter.execute(nodes), guarded)
            if message.get("end") is True:
                self._run = self._interpreter = None
                run.__exit__(None, None, None)
                return {"saved": dict(run.saved)}
        return {"value": self._wanted(interpreter, message.get("want"))}

    def _wanted(self, interpreter: Interpreter, want: Any) -> Any:
        if want is None:
            return None
        check_node(Node("save", (), {"value": {"ref": want["ref"]}}), len(interpreter.values), (), self._limits)
        value = interpreter.decoded({"ref": want["ref"]}, None)
        if want.get("shape") is True:
            return mapped_shapes(value)
        if not isinstance(value, (Tensor, bool)):
            raise StreamError("Send a value back.", f"a {type(value).__name__}", "a tensor")
        return value

    def _open(self, opened: Mapping[str, Any]) -> None:
        if self._run is not None:
            raise StreamError("Open a stream.", "one that is open", "an executor for each")
        if (nbytes := size((opened["args"], opened["kwargs"]))) > self._limits.inputs:
            raise StreamError("Open a stream.", f"inputs of {nbytes:,} bytes", f"at most {self._limits.inputs:,}")
        device, module = self._model.device, self._model.module
        args, kwargs = mapped((opened["args"], dict(opened["kwargs"])), lambda tensor: tensor.to(device))
        driver = opened.get("driver")
        self._model.refuse(args, kwargs, driver, self._limits.tokens)
        run = module if driver is None else self._model.driver(driver)
        self._interpreter = Interpreter(self._model, self._constants, self._limits)
        self._grad = bool(opened.get("grad", False))
        with torch.set_grad_enabled(self._grad):
            self._run = Trace(self._model, lambda: run(*args, **kwargs), driver is not None).__enter__()

    def _take(self, constants: Mapping[str, Any]) -> None:
        self._bytes += size(constants)
        if self._bytes > self._limits.constants:
            raise StreamError("Send constants.", f"{self._bytes:,} bytes", f"at most {self._limits.constants:,} in one stream")
        for name, tensor in constants.items():
            if not isinstance(tensor, Tensor) or name in self._constants:
                raise StreamError("Send constants.", f"a {type(tensor).__name__} named {name[:80]!r}", "tensors under new names")
            self._constants[name] = tensor

    def _drop(self, error: BaseException) -> None:
        run, self._run, self._interpreter = self._run, None, None
        if run is not None:
            run.__exit__(type(error), error, None)


@final
class Hosted:
    """An executor in a thread of its own, in this process. `park`: seconds it waits for the next message before it lets the forward go."""

    def __init__(self, model: Model, limits: Limits | None = None, park: float = PARK) -> None:
        self._asked: queue.Queue[bytes | None] = queue.Queue()
        self._answers: queue.Queue[bytes] = queue.Queue()
        self._park = park
        self._thread = threading.Thread(target=self._serve, args=(Executor(model, limits),), daemon=True)
        self._thread.start()

    @property
    def open(self) -> bool:
        """Whether the forward has not been let go."""
        return self._thread.is_alive()

    def send(self, message: bytes) -> bytes:
        if not self.open:
            raise StreamError(
                "Go on with a stream.",
                f"a forward that was let go after {self._park:g} seconds without a message",
                "a larger `park`, or a new stream",
            )
        self._asked.put(message)
        while True:
            try:
                return self._answers.get(timeout=0.1)
            except queue.Empty:
                if not self.open and self._answers.empty():
                    raise StreamError("Go on with a stream.", "a forward that was let go", "a new stream") from None

    def close(self) -> None:
        self._asked.put(None)
        self._thread.join()

    def _serve(self, executor: Executor) -> None:
        try:
            while (message := self._asked.get(timeout=self._park)) is not None:
                self._answers.put(executor.send(message))
        except queue.Empty:
            pass
        finally:
            executor.close()


@final
class StreamRecorder(Recorder):
    """A recorder that sends what it has noted whenever the body needs a value."""

    def __init__(self, module: nn.Module, name: str, within: FakeTensorMode, transport: Transport, opening: Mapping[str, Any]) -> None:
        super().__init__(module, name, within, 0)
        self._transport = transport
        self._opening: Mapping[str, Any] | None = opening
        self._steps = "driver" in opening
        self._sent, self._known = 0, 0
        self.trips = 0
        """Messages sent so far."""

    def value(self, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a function of recorded tensors returns, where the values are."""
        if function in NAMES:  # an operation whose shape depends on values: it is noted already
            return self._fakes({"ref": [len(self.nodes) - 1], "shape": True})
        real = [self.fetched(a) if isinstance(a, Recorded) else a for a in args]
        return function(*real, **{k: self.fetched(v) if isinstance(v, Recorded) else v for k, v in kwargs.items()})

    def fetched(self, tensor: Recorded) -> Tensor:
        """The values of a recorded tensor."""
        place = self.encoded(tensor)
        if "ref" not in place:
            raise StreamError("Fetch a weight.", "a body without weights", "an operation on it")
        value: Tensor = self._flush({"ref": place["ref"]})
        return value

    def begin(self, step: int) -> bool:
        """Whether there is such a step, where the forward runs."""
        super().begin(step)
        there: bool = self._flush({"ref": [len(self.nodes) - 1]})
        return there

    def output(self, value: Any) -> Any:
        """What the forward returned. Of one that steps, how long that is shows where it runs."""
        if not self._steps:
            return super().output(value)
        number = self._note("output")
        return self._bound(self._fakes({"ref": [number], "shape": True}), number)

    def _fakes(self, want: dict[str, Any]) -> Any:
        def made(shape: list[int], dtype: torch.dtype) -> Tensor:
            with self.within:
                return torch.empty(shape, dtype=dtype, device=self._device)

        return unshaped(self._flush(want), made)

    def shown(self, tensor: Tensor) -> str:
        """Its values, as torch prints them."""
        assert isinstance(tensor, Recorded)
        return repr(self.fetched(tensor))

    def finish(self) -> dict[str, Any]:
        """Send the rest and let the forward end; returns what the body saved."""
        saved: dict[str, Any] = self._exchange({"end": True})["saved"]
        return saved

    def _flush(self, want: dict[str, Any]) -> Any:
        return self._exchange({"want": want})["value"]

    def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        names = list(self.constants)[self._known :]
        message |= {"nodes": [node.data() for node in self.nodes[self._sent :]], "constants": {n: self.constants[n] for n in names}}
        if self._opening is not None:
            message["open"], self._opening = dict(self._opening), None
        self._sent, self._known = len(self.nodes), len(self.constants)
        self.trips += 1
        back = wire.unpacked(self._transport.send(wire.packed(message)), 2**40)
        if "error" in back:
            raise _ANSWERS.get(back["error"], StreamError)(*back["parts"])
        return back


@final
class Stream:
    """`with model.stream(inputs, to=transport) as run:`; `run` is a trace, and `run.saved` holds real values after the block."""

    def __init__(self, trace: Trace, recorder: StreamRecorder, transport: Transport) -> None:
        self._trace, self._recorder, self._transport = trace, recorder, transport

    def __enter__(self) -> Trace:
        return self._trace.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._trace.__exit__(kind, error, trace)
            if kind is None:
                self._trace.settle(self._recorder.finish())
        finally:
            self._transport.close()


def mapped_shapes(value: Any) -> Any:
    """Shapes and dtypes in place of tensors."""
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": value.dtype}
    return [mapped_shapes(v) for v in value]


def unshaped(value: Any, make: Callable[[list[int], torch.dtype], Tensor]) -> Any:
    """Tensors made of what `mapped_shapes` says."""
    return make(value["shape"], value["dtype"]) if isinstance(value, dict) else tuple(unshaped(v, make) for v in value)
