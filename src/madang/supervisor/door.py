"""The socket on which orders arrive: connections, lines, and observers that wait for a change."""

from __future__ import annotations

import socket
from typing import Any

from madang.supervisor.children import Refused
from madang.supervisor.loop import Loop
from madang.supervisor.orders import Orders, read_order, wait_s
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
        self.connections: set[Connection] = set()
        self._listener = listener
        listener.setblocking(False)
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
        except OSError:  # no descriptor is left: look again after a breath
            self.loop.unwatch(self._listener.fileno())
            self.loop.alarm(self, _BREATH_S, self._open)
            return
        client.setblocking(False)
        if len(self.connections) >= CONNECTIONS_MAX:
            client.close()
        else:
            self.connections.add(Connection(self, client))


class Connection:
    """One client: orders in, answers out, at most one observer waiting."""

    def __init__(self, door: Door, client: socket.socket) -> None:
        self._door = door
        self._client = client
        self._inbox = b""
        self._outbox = b""
        self._observer: int | None = None
        self._waiting = False
        door.loop.watch(client.fileno(), self._turn)

    def answer_observer(self) -> None:
        """Answer the observe that waits, if one does."""
        if self._waiting:
            answer = {"id": self._observer, "ok": self._door.orders.observation()}
            self._waiting = False
            self._door.loop.cancel(self)
            self._send(answer)

    def _turn(self) -> None:
        try:
            self._flush()
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
        try:
            order = read_order(line)
            done = self._door.orders.carry_out(order)
            if done is not None:
                self._send({"id": _id(order), "ok": done})
            else:
                self.answer_observer()
                self._observer, self._waiting = _id(order), True
                self._door.loop.alarm(self, wait_s(order), self.answer_observer)
        except Refused as no:
            error = {"code": no.code, "subject": no.subject, "values": no.values}
            self._send({"id": _id(order), "error": error})

    def _send(self, answer: dict[str, Any]) -> None:
        if self not in self._door.connections:
            return
        self._outbox += encode(answer)
        try:
            self._flush()
        except BlockingIOError:
            if len(self._outbox) > UNREAD_BYTES_MAX:
                self._close()
        except OSError:
            self._close()

    def _flush(self) -> None:
        while self._outbox:
            self._door.loop.also_writable(self._client.fileno(), True)
            self._outbox = self._outbox[self._client.send(self._outbox) :]
        self._door.loop.also_writable(self._client.fileno(), False)

    def _close(self) -> None:
        if self in self._door.connections:
            self._door.connections.discard(self)
            self._door.loop.cancel(self)
            self._door.loop.unwatch(self._client.fileno())
            self._client.close()


def _id(order: dict[str, Any]) -> int | None:
    number = order.get("id")
    return number if type(number) is int else None
