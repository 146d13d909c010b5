"""The entrance: whoever comes is taken in and, where there is TLS, agreed with first.

The loop's own server is not used: where memory runs out between a connection that libuv has taken
in and the protocol that was to be made for it, it takes in nobody any more, and tells nobody.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from madang import bounds
from madang.errors import is_our_lack
from madang.gateway.tls import Shown
from madang.threads import Lacks

if TYPE_CHECKING:
    from madang.ports import Clock

UNDER_WAY_MAX = 512
"""Of more that have not ended the oldest is hung up on: it has had its time, or says nothing."""
HANDSHAKE_S = 10.0
ACCEPTED_MAX = 64
"""Taken in at a time, before those who are being served have their turn again."""
PAUSE_S = 0.25
"""Until somebody is taken in again after files or memory were lacking."""


class Entrance:
    """Makes a connection of whoever comes; with `shown`, of whoever agrees with it by TLS."""

    def __init__(
        self, connect: Callable[[], asyncio.Protocol], lacks: Lacks, shown: Shown | None = None
    ) -> None:
        self._connect = connect
        self._lacks = lacks
        self._shown = shown
        self._loop = asyncio.get_running_loop()
        self._listener: socket.socket | None = None
        self._paused = False
        self._under_way: dict[asyncio.Task[None], None] = {}
        """The oldest first."""

    def listen(self, listener: socket.socket) -> None:
        """Take in whoever comes."""
        listener.setblocking(False)
        self._listener = listener
        self._loop.add_reader(listener.fileno(), self._accept)

    async def tend(self, clock: Clock) -> None:
        """Go on taking people in some time after a lack, for ever."""
        while True:
            await clock.sleep(PAUSE_S)
            if self._paused and self._listener is not None:
                self._loop.add_reader(self._listener.fileno(), self._accept)
                self._paused = False

    def close(self) -> None:
        """Take nobody in any more, and hang up on whoever is not through."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(listener.fileno())
            listener.close()
        for task in tuple(self._under_way):
            task.cancel()

    def _accept(self) -> None:
        for _ in range(ACCEPTED_MAX):
            if self._listener is None:
                return
            try:
                connection, name = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except (OSError, MemoryError) as error:
                if is_our_lack(error):
                    self._pause(error)
                    return
                continue  # of that connection: it is gone already
            if self._shown and self._shown.guests is not None:
                self._shown.guests.add(name)
            self._begin(connection)

    def _pause(self, error: BaseException) -> None:
        self._lacks.note(error)
        if self._listener is not None:
            self._loop.remove_reader(self._listener.fileno())
            self._paused = True

    def _begin(self, connection: socket.socket) -> None:
        if len(self._under_way) >= UNDER_WAY_MAX:
            oldest = next(iter(self._under_way))
            del self._under_way[oldest]
            oldest.cancel()
        task = self._loop.create_task(self._greet(connection))
        self._under_way[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task, None)

    async def _greet(self, connection: socket.socket) -> None:
        try:
            connection.setblocking(False)
            if not self._shown:
                await self._loop.connect_accepted_socket(self._connect, connection)
                return
            bounds.hurry(connection)
            await self._loop.connect_accepted_socket(
                self._connect,
                connection,
                ssl=self._shown.context,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=bounds.UNREAD_S_MAX,
            )
        except (OSError, ssl.CertificateError):
            connection.close()  # what it sent was no handshake, or too late: nobody to answer
        except MemoryError as error:
            connection.close()
            self._lacks.note(error)
        except asyncio.CancelledError:
            connection.close()
            raise
