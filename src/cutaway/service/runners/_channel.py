"""Messages between a server and its worker processes: eight bytes of length, then what `engine.wire` packs. No pickle."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any, final

from cutaway.engine import wire

_LARGEST = 2**40


@final
class Channel:
    """One end of a socket. Any thread may send or close; one thread reads, by iterating, until the other side is gone or this one is closed."""

    def __init__(self, end: socket.socket) -> None:
        self._end, self._lock = end, threading.Lock()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message. Raises OSError where the other side is gone."""
        blob = wire.packed(message)
        with self._lock:
            self._end.sendall(len(blob).to_bytes(8, "little"))
            self._end.sendall(blob)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self._end:  # given back by the thread that reads: while that waits in a call, its number must stay this socket's
            while len(head := self._read(8)) == 8:
                size = int.from_bytes(head, "little")
                if len(blob := self._read(size)) < size:
                    return
                yield wire.unpacked(blob, _LARGEST)

    def _read(self, size: int) -> bytes:
        """As many bytes, or fewer where there are no more."""
        blob = bytearray(size)
        view, filled = memoryview(blob), 0
        with contextlib.suppress(ConnectionError):
            while filled < size and (more := self._end.recv_into(view[filled:])):
                filled += more
        return bytes(view[:filled])

    def close(self) -> None:
        """End both directions: the other side finds out, and whoever reads here."""
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
