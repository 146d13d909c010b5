"""Wires between control and the nodes: lines that get lost, late, doubled, or out of order.

On one wire lines keep their order, as on a UNIX socket. A line that is doubled or late comes by
itself, over a wire of its own, as a carrier may send it; also after whoever sent it has ended.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

Fate = Literal["", "lost", "doubled", "late", "cut"]
Node = Any
"""`node.Node`, which stands on this module."""


class Far:
    """The node's end of a wire: what its door takes for a socket."""

    def __init__(self, node: Node, answer: Callable[[bytes], None]) -> None:
        self.number: int = node.machine.next_number()
        self.is_closed = False
        self._node = node
        self._answer = answer
        self._data = b""
        self._ended = False
        self._broken = False

    def fileno(self) -> int:
        """Return its number."""
        return self.number

    def setblocking(self, flag: bool) -> None:
        """Never block."""

    @property
    def is_ready(self) -> bool:
        """Whether a read would find something."""
        return bool(self._data) or self._ended or self._broken

    def recv(self, count: int) -> bytes:
        """Return what has arrived."""
        if self._broken:
            raise ConnectionResetError
        if not self._data and not self._ended:
            raise BlockingIOError
        data, self._data = self._data[:count], self._data[count:]
        return data

    def send(self, data: bytes) -> int:
        """Send lines back."""
        if self._broken:
            raise BrokenPipeError
        self._answer(data)
        return len(data)

    def close(self) -> None:
        """Let go."""
        self.is_closed = True

    def arrive(self, data: bytes = b"", *, ended: bool = False, broken: bool = False) -> None:
        """Take what comes over the wire."""
        self._data += data
        self._ended |= ended
        self._broken |= broken
        self._node.poke(self.number)


class Near(asyncio.Transport):
    """Control's end of a wire."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire

    def is_closing(self) -> bool:
        """Tell whether it was closed."""
        return self._wire.is_over

    def write(self, data: Any) -> None:
        """Send lines."""
        for line in bytes(data).splitlines(keepends=True):
            self._wire.send(line)

    def close(self) -> None:
        """Hang up; what was sent is still on its way."""
        self._wire.hang_up()

    abort = close

    def pause_reading(self) -> None:
        """Go on: what comes is little."""

    def resume_reading(self) -> None:
        """Go on."""


class Wire:
    """One connection from control to one life of a node's supervisor."""

    def __init__(self, node: Node, protocol: asyncio.BaseProtocol) -> None:
        self.is_over = False
        self.near = Near(self)
        self._node = node
        self._supervisor = node.supervisor
        self._protocol: Any = protocol
        self._far = Far(node, self._answer)
        self._free_at = [0.0, 0.0]
        node.let_in(self._far)

    def send(self, line: bytes) -> None:
        """Carry an order, or whatever becomes of it; nothing comes from whoever has ended."""
        if self.is_over:
            return
        fate = self._node.network_fate()
        said = _said(line)
        if fate:
            self._node.tell(f"wire-{fate}", said)
        if fate in {"doubled", "late"}:
            self._node.after(self._node.long_s(), lambda: self._alone(line, said))
        if fate in {"", "doubled", "cut"}:
            self._in_order(0, lambda: self._arrive(line, said))
        if fate == "cut":
            self._in_order(0, self.cut)

    def _arrive(self, line: bytes, said: str) -> None:
        if not self._node.carries(self._supervisor, lambda: self._arrive(line, said)):
            return
        if not self._far.is_closed:
            self._node.tell("order", said)
            self._far.arrive(line)

    def _alone(self, line: bytes, said: str) -> None:
        """Let a line arrive that nobody waits for any more."""
        if self._node.carries(self._supervisor, lambda: self._alone(line, said)):
            self._node.tell("late-order", said)
            stray = Far(self._node, lambda _: None)
            self._node.let_in(stray)
            stray.arrive(line, ended=True)

    def _answer(self, data: bytes) -> None:
        for line in data.splitlines(keepends=True):
            fate = self._node.network_fate()
            if fate:
                self._node.tell(f"answer-{fate}")
            if fate in {"", "doubled", "late"}:
                for _ in range(2 if fate == "doubled" else 1):
                    self._in_order(1, partial(self._hear, line), late=fate == "late")
            if fate == "cut":
                self._in_order(1, self.cut)

    def _hear(self, line: bytes) -> None:
        if self._node.carries(self._supervisor, lambda: self._hear(line)) and not self.is_over:
            self._protocol.data_received(line)

    def _in_order(self, way: int, work: Callable[[], None], *, late: bool = False) -> None:
        delay_s = self._node.long_s() if late else self._node.short_s()
        now_s = self._node.loop.time()
        self._free_at[way] = max(self._free_at[way], now_s + delay_s) + 1e-6
        self._node.after(self._free_at[way] - now_s, work)

    def hang_up(self) -> None:
        """Close control's end."""
        if not self.is_over:
            self.is_over = True
            self._in_order(0, lambda: self._far.arrive(ended=True))
            self._node.loop.call_soon(self._protocol.connection_lost, None)

    def cut(self) -> None:
        """Break it, as seen from both ends."""
        if not self._far.is_closed:
            self._far.arrive(broken=True)
        if not self.is_over:
            self.is_over = True
            self._protocol.connection_lost(ConnectionResetError())


def _said(line: bytes) -> str:
    """Write an order in short."""
    order = json.loads(line)
    plan = order.get("plan", order)
    what = f"{order['verb']} term={order['term']}"
    return f"{what} {plan['uid']}/{plan['epoch']}" if "epoch" in plan else what
