"""The socket on which orders arrive: connections, lines, and observers that wait for a change."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from madang.supervisor.loop import Loop
from madang.supervisor.orders import Orders, answered, read_order, seconds
from madang.supervisor.protocol import LINE_BYTES_MAX, encode

CONNECTIONS_MAX = 64
UNREAD_BYTES_MAX = 4 * LINE_BYTES_MAX
"""A client that leaves more answers than this unread is let go."""
_BREATH_S = 0.2


class Door:
    """Lets clients in, and tells them all when something has changed."""

    def __init__(self, loop: Loop, orders: Orders, listener: socket.socket) -> None:
        self.loop = loop
        self.orders = orders
        self.connections: dict[Connection, None] = {}  # in the order in which they came
        self._listener = listener
        self._open()

    def tell(self) -> None:
        """Answer everybody who waits for a change."""
        for connection in list(self.connections):
            connection.answer_observer()

    def _open(self) -> None:
        self.loop.watch(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except (OSError, MemoryError):  # no descriptor is left: look again after a breath
            self.loop.unwatch(self._listener.fileno())
            self.loop.alarm(self, _BREATH_S, self._open)
            return
        if len(self.connections) < CONNECTIONS_MAX:
            self.connections[Connection(self, client)] = None
        else:
            client.close()


class Connection:
    """One client: orders in, answers out, at most one observer waiting."""

    def __init__(self, door: Door, client: socket.socket) -> None:
        self._door = door
        self._client = client
        self._inbox = self._outbox = b""
        self._observer: dict[str, Any] | None = None
        client.setblocking(False)
        door.loop.watch(client.fileno(), self._turn)

    def answer_observer(self) -> None:
        """Answer the observe that waits, if one does."""
        if order := self._observer:
            self._observer = None
            self._door.loop.cancel(self)
            self._answer(order, self._door.orders.observation)

    def _turn(self) -> None:
        try:
            self._listen()
        except MemoryError:  # an order may be half done: whoever gives it again is told how it is
            self._close()

    def _listen(self) -> None:
        try:
            self._flush()
            if self._outbox:
                return  # whoever does not read is not listened to
            chunk = self._client.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        *lines, self._inbox = (self._inbox + chunk).split(b"\n")
        for line in lines:
            self._take(line)
        if not chunk or len(self._inbox) > LINE_BYTES_MAX:
            self._close()

    def _take(self, line: bytes) -> None:
        order: dict[str, Any] = {}

        def work() -> dict[str, Any] | None:
            order.update(read_order(line))
            return self._door.orders.carry_out(order)

        if not self._answer(order, work):
            self.answer_observer()
            self._observer = order
            self._door.loop.alarm(self, seconds(order["wait_s"]), self.answer_observer)

    def _answer(self, order: dict[str, Any], work: Callable[[], dict[str, Any] | None]) -> bool:
        """Send what comes of an order; False when nothing did: it waits for a change."""
        answer = answered(order, work)
        if answer is not None:
            self._send(answer)
        return answer is not None

    def _send(self, answer: dict[str, Any]) -> None:
        if self in self._door.connections:
            self._outbox += encode(answer)
            try:
                self._flush()
            except OSError:
                self._close()
            if len(self._outbox) > UNREAD_BYTES_MAX:
                self._close()

    def _flush(self) -> None:
        with suppress(BlockingIOError):
            while self._outbox:
                self._outbox = self._outbox[self._client.send(self._outbox) :]
        self._door.loop.watch(self._client.fileno(), self._turn, bool(self._outbox))

    def _close(self) -> None:
        if self in self._door.connections:
            del self._door.connections[self]
            self._door.loop.cancel(self)
            self._door.loop.unwatch(self._client.fileno())
            self._client.close()
