"""What is sent in a busy turn of the loop goes together; alone, at once; in order either way."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from madang.gateway.outbox import ALONE, LARGE_BYTES, PATIENCE, TOGETHER_MAX, Outbox
from madang.threads import Lacks


class Peer:
    """A connection that keeps what was sent on it."""

    def __init__(self) -> None:
        self.took: list[bytes] = []
        self.is_over = False
        self.upon: Callable[[], None] | None = None
        """What happens while the next is sent."""

    def is_closing(self) -> bool:
        return self.is_over

    def abort(self) -> None:
        self.is_over = True

    def write(self, data: bytes) -> None:
        assert not self.is_over
        self.took.append(data)
        upon, self.upon = self.upon, None
        if upon:
            upon()


def outbox(noted: list[str] | None = None) -> Any:
    """One whose next send waits for others."""
    made: Any = Outbox(Lacks((noted if noted is not None else []).append))
    for _ in range(ALONE):
        made.send(Peer(), b"before")
    return made


async def test_at_first_a_send_goes_at_once() -> None:
    fresh, peer = Outbox(Lacks()), Peer()
    fresh.send(peer, b"1")  # type: ignore[arg-type]
    assert peer.took == [b"1"]


async def test_in_a_busy_turn_all_go_at_its_end_in_their_order() -> None:
    box, peers, order = outbox(), [Peer() for _ in range(3)], list[int]()
    for number, peer in enumerate(peers):
        peer.upon = lambda number=number: order.append(number)
        box.send(peer, b"%d" % number)
    assert not order
    await asyncio.sleep(0)
    assert order == [0, 1, 2]
    assert [peer.took for peer in peers] == [[b"0"], [b"1"], [b"2"]]


async def test_where_each_turn_has_one_they_soon_go_at_once_again() -> None:
    box, peer = outbox(), Peer()
    box.send(peer, b"1")
    await asyncio.sleep(0)
    box.send(peer, b"2")
    assert peer.took == [b"1", b"2"]


async def test_a_few_turns_with_one_do_not_end_what_was_of_use() -> None:
    box = outbox()
    for _ in range(PATIENCE):
        for _ in range(TOGETHER_MAX):
            box.send(Peer(), b"")
    for _ in range(PATIENCE):
        box.send(alone := Peer(), b"1")
        assert alone.took == []
        await asyncio.sleep(0)
        assert alone.took == [b"1"]


async def test_what_is_large_goes_at_once_behind_what_waits() -> None:
    box, peer, large = outbox(), Peer(), bytes(LARGE_BYTES + 1)
    box.send(peer, b"1")
    assert peer.took == []
    box.send(peer, large)
    assert peer.took == [b"1", large]


async def test_the_first_does_not_wait_for_a_thousand_others() -> None:
    box, peers = outbox(), [Peer() for _ in range(TOGETHER_MAX)]
    for peer in peers[:-1]:
        box.send(peer, b"1")
    assert not any(peer.took for peer in peers)
    box.send(peers[-1], b"1")
    assert all(peer.took for peer in peers)


async def test_who_has_gone_is_sent_nothing() -> None:
    box, gone, there = outbox(), Peer(), Peer()
    box.send(gone, b"1")
    box.send(there, b"1")
    gone.abort()
    await asyncio.sleep(0)
    assert (gone.took, there.took) == ([], [b"1"])


async def test_a_lack_of_memory_costs_one_connection_and_is_noted() -> None:
    noted: list[str] = []
    box, peers = outbox(noted), [Peer() for _ in range(3)]

    def lacks() -> None:
        raise MemoryError("no room")

    peers[1].upon = lacks
    for peer in peers:
        box.send(peer, b"1")
    await asyncio.sleep(0)
    assert [peer.is_over for peer in peers] == [False, True, False]
    assert peers[2].took == [b"1"]
    assert noted == ["no room"]


class Sends(RuleBasedStateMachine):
    """Sends, some of them while others are sent, and turns of a loop that comes when it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.box: Any = Outbox(Lacks())
        self.peers = [Peer() for _ in range(3)]
        self.sent: list[list[bytes]] = [[] for _ in self.peers]
        self.turns: list[Callable[[], None]] = []
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(asyncio, "get_running_loop", lambda: self)

    def call_soon(self, call: Callable[[], None]) -> None:
        self.turns.append(call)

    def teardown(self) -> None:
        self.patch.undo()

    def put(self, which: int, data: bytes) -> None:
        self.sent[which].append(data)
        self.box.send(self.peers[which], data)

    @rule(which=st.integers(0, 2), size=st.sampled_from([1, 9, LARGE_BYTES + 1]))
    def send(self, which: int, size: int) -> None:
        self.put(which, b"%d" % len(self.sent[which]) + bytes(size))

    @rule(count=st.integers(1, ALONE + TOGETHER_MAX))
    def send_many(self, count: int) -> None:
        for number in range(count):
            self.send(number % 3, 1)

    @rule(which=st.integers(0, 2), other=st.integers(0, 2), flushes=st.booleans())
    def send_while_sent(self, which: int, other: int, flushes: bool) -> None:
        def upon() -> None:
            self.put(other, b"upon")
            if flushes:
                self.box.flush()

        self.peers[which].upon = upon

    @rule()
    def turn(self) -> None:
        turns, self.turns = self.turns, []
        for each in turns:
            each()
        assert self.took() == self.sent or self.turns

    @rule()
    def flush(self) -> None:
        self.box.flush()
        assert self.took() == self.sent

    def took(self) -> list[list[bytes]]:
        return [peer.took for peer in self.peers]

    @invariant()
    def nothing_changes_its_place_or_is_forgotten(self) -> None:
        for took, sent in zip(self.took(), self.sent, strict=True):
            assert took == sent[: len(took)]
        assert self.took() == self.sent or self.turns, "a turn will come"


TestSends = Sends.TestCase


class Client(Peer):
    """A client's connection: what was done on it, in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []

    def write(self, data: bytes) -> None:
        super().write(data)
        self.done.append(data.split(b"\r\n")[0].decode())

    def write_eof(self) -> None:
        self.done.append("end")

    def close(self) -> None:
        self.done.append("close")
        self.is_over = True

    def can_write_eof(self) -> bool:
        return True

    def get_extra_info(self, name: str) -> Any:
        return {"sockname": ("127.0.0.1", 1), "socket": NoSocket()}[name]


class NoSocket:
    family = socket.AF_UNIX

    def setsockopt(self, *_: int) -> None:
        pass


ASKED = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:1\r\nConnection: close\r\n\r\n"
NO_HTTP = b"\0\r\n\r\n"
OK, BAD = "HTTP/1.1 200 OK", "HTTP/1.1 400 "


@pytest.mark.parametrize(
    ("said", "then", "done"),
    [
        (ASKED * 3, "", []),
        (ASKED * 3, "eof_received", [OK] * 3),
        (ASKED + LAST, "", [OK, OK, "close"]),
        (ASKED + NO_HTTP, "", [OK, BAD, "end"]),
        (ASKED, "stop", [OK, "close"]),
        (ASKED, "abort", []),
    ],
    ids=["goes on", "says no more", "asks for the end", "spoils it", "is stopped", "is aborted"],
)
async def test_a_connection_ends_behind_all_it_was_to_be_sent(
    serve: Any, said: bytes, then: str, done: list[str]
) -> None:
    async with serve() as door:
        box = door.app._means.engines.outbox
        for _ in range(ALONE):
            box.send(Peer(), b"before")
        connection, client = door.app.connect(), Client()
        connection.connection_made(client)
        connection.data_received(said)
        if then:
            getattr(connection, then)()
        assert client.done == done
        await asyncio.sleep(0)
        assert client.done == (done or [OK] * 3 * (not then))
