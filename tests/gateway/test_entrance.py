"""Who comes is taken in, whatever ran out a moment ago: on the loop that serves, uvloop."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import pytest
import uvloop

from madang.clocks import SystemClock
from madang.gateway.entrance import Entrance
from madang.gateway.process import lasting
from madang.threads import Lacks, ready

NO_FILES = OSError(errno.EMFILE, "Too many open files")


class Greeting(asyncio.Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.write(b"welcome")
        transport.close()


class Listener(socket.socket):
    """It lacks something as often as it is told to."""

    lacks: list[Exception]

    def accept(self) -> tuple[socket.socket, object]:
        if self.lacks:
            raise self.lacks.pop()
        return super().accept()


async def read(place: tuple[str, int]) -> bytes:
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*place)
        try:
            return await reader.read()
        finally:
            writer.close()


def told(connect: Callable[[], asyncio.Protocol], lacks: list[Exception]) -> list[str]:
    """Let three come, one after the other; return what was noted as lacking."""
    noted: list[str] = []

    async def come() -> None:
        lack = Lacks(noted.append)
        ready(1, lack)
        listener = Listener(fileno=socket.create_server(("127.0.0.1", 0)).detach())
        listener.lacks = lacks
        place = listener.getsockname()
        entrance = Entrance(connect, lack)
        entrance.listen(listener)
        tending = asyncio.create_task(entrance.tend(SystemClock()))
        said = [await read(place) for _ in range(3)]
        assert said[1:] == [b"welcome"] * 2
        assert said[0] in {b"", b"welcome"}
        tending.cancel()
        entrance.close()

    uvloop.run(come())
    return noted


@pytest.mark.parametrize("lack", [MemoryError(), NO_FILES], ids=["memory", "files"])
def test_who_could_not_be_taken_in_for_a_lack_is_once_it_is_over(lack: Exception) -> None:
    assert told(Greeting, [lack, lack]) == [str(lack) or "MemoryError"] * 2


def test_who_no_connection_could_be_made_for_is_hung_up_on_and_the_next_one_is_served() -> None:
    lacks: list[Exception] = [MemoryError()]

    def connect() -> asyncio.Protocol:
        if lacks:
            raise lacks.pop()
        return Greeting()

    assert told(connect, []) == ["MemoryError"]


async def test_what_is_done_for_ever_goes_on_after_a_lack_and_ends_when_it_is_told_to() -> None:
    begun = 0
    done = asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise MemoryError
        done.set()
        await asyncio.Event().wait()

    noted: list[str] = []
    task = asyncio.create_task(lasting(work, Lacks(noted.append)))
    async with asyncio.timeout(20):
        await done.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert noted == ["MemoryError"] * 2
