"""What a connection to any server of ours may cost: bytes and time of a head, silence, numbers."""

from __future__ import annotations

import socket

HEAD_BYTES_MAX = 32 << 10
"""Request line and headers together."""
HEAD_S_MAX = 20.0
"""Time for a head to arrive, from its first byte or from the connection."""
CONNECTIONS_MAX = 4096
"""One more takes the place of one on which nobody asks anything."""
SEND_BUFFER_BYTES = 256 << 10
"""What the kernel keeps for a client that does not read; by itself it would grow to megabytes."""
UNREAD_S_MAX = 30.0
"""So long a client may leave everything unread, before the kernel ends the connection."""
SWALLOW_BYTES_MAX = 1 << 20
SWALLOW_S = 1.0
"""After a refusal so much of the body is still read: an early close would lose our answer."""

TOO_LARGE = b'{"error":{"code":"http.head-too-large","message":"Send fewer headers."}}'
TOO_SLOW = b'{"error":{"code":"http.head-too-slow","message":"The head did not arrive in time."}}'
TOO_MANY = b'{"error":{"code":"http.too-many-connections","message":"Ask again in a moment."}}'
NO_MEMORY = b'{"error":{"code":"http.no-memory","message":"Ask again in a moment."}}'
NO_HTTP = b'{"error":{"code":"http.not-http","message":"This is no HTTP/1.1 request."}}'
"""What is said to a connection before there is a request: nobody's language is known yet."""


def bound(connection: socket.socket) -> None:
    """Have the kernel keep little for a client, not for long, and send at once what it is given."""
    hurry(connection)
    if connection.family in {socket.AF_INET, socket.AF_INET6}:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        unread_ms = round(UNREAD_S_MAX * 1000)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread_ms)


def hurry(connection: socket.socket) -> None:
    """Have the kernel send a small piece at once: kept back, each costs a stream some 40 ms."""
    if connection.family in {socket.AF_INET, socket.AF_INET6}:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def parting(status: int, body: bytes) -> bytes:
    """Write the answer to a connection that has no request, and ends."""
    head = b"HTTP/1.1 %d \r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
    return head % (status, len(body)) + b"connection: close\r\n\r\n" + body
