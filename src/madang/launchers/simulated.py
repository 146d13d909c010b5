"""Nodes that are simulated: one connection to the process that stands for all of them.

That process (`engines/fake_fleet.py`) takes the supervisor's orders, each with the node's name. It
is a child of the supervisor beside control, so what it simulates outlives control, as engines do.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from madang.errors import Rejected, Unavailable
from madang.launchers.dial import ANSWER_SECONDS_MAX, dial, observation_from
from madang.ports import Found
from madang.resources.place import Guarantee
from madang.resources.power import Watts
from madang.supervisor.protocol import (
    LaunchPlan,
    Line,
    Moment,
    Observation,
    Verb,
    encode,
    lines_from,
    order,
)

UNREACHABLE = "launcher.unreachable"
"""What the process says of a node that has vanished."""


class SimulatedProbe:
    """What one node of a fleet file has."""

    def __init__(self, node: Mapping[str, Any]) -> None:
        self._node = node

    def find(self) -> Sequence[Found]:
        """Return what the file says."""
        return tuple(
            Found(
                name=device["name"],
                kind=device["kind"],
                memory_bytes=device["memory_bytes"],
                shared=device["kind"] == "cpu" or "guarantee" in device,
                guarantee=Guarantee(device.get("guarantee", Guarantee.SHARED)),
                group=device.get("group", ""),
                device=device["name"],
                watts=Watts.model_validate(device["watts"]) if "watts" in device else None,
                attributes={"simulated": 1},
            )
            for device in self._node["accelerators"]
        )


class FleetLine:
    """One connection for every node: many orders at once, each answer matched by its id."""

    def __init__(
        self, socket_path: Path, term: int, answer_s: float = ANSWER_SECONDS_MAX, store: str = ""
    ) -> None:
        self._path = socket_path
        self._term = term
        self._store = store
        self._answer_s = answer_s
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    async def ask(self, node: str, verb: Verb, **arguments: Any) -> dict[str, Any]:
        """Return the answer; raises `Unavailable`, or `Rejected` for an order that is refused."""
        message = order(verb, next(self._ids), self._term, store=self._store, **arguments)
        message["node"] = node
        try:
            async with asyncio.timeout(self._answer_s + arguments.get("wait_s", 0.0)):
                try:
                    answer = await self._exchange(message)
                except (OSError, EOFError):  # gone stale: replaced once
                    answer = await self._exchange(message)
        except (OSError, EOFError) as error:
            cause = str(error) or type(error).__name__
            raise Unavailable(UNREACHABLE, cause=cause) from None
        if told := answer.get("error"):
            kind = Unavailable if told["code"] == UNREACHABLE else Rejected
            raise kind(told["code"], told["subject"], **told["values"])
        body: dict[str, Any] = answer["ok"]
        return body

    async def close(self) -> None:
        """Let the connection go; whoever waits is told so."""
        self._let_go(ConnectionResetError("closed"))
        if self._reading:
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await self._reading
            self._reading = None

    async def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        async with self._connecting:
            writer = self._writer or await self._connect()
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[message["id"]] = future
        try:
            writer.write(encode(message))
            await writer.drain()
            return await future
        except OSError as error:
            if self._writer is writer:
                self._let_go(error)
            raise
        finally:
            self._waiting.pop(message["id"], None)

    async def _connect(self) -> asyncio.StreamWriter:
        reader, writer = await dial(self._path)
        self._writer = writer
        self._reading = asyncio.create_task(self._read(reader, writer))
        return writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand out answers until the connection ends; one that nobody waits for is dropped."""
        ended: Exception = EOFError("the simulated fleet has ended")
        try:
            while True:
                answer = json.loads(await reader.readuntil())
                future = self._waiting.get(answer["id"])
                if future and not future.done():
                    future.set_result(answer)
        except (OSError, EOFError) as error:
            ended = error
        except (ValueError, LookupError, TypeError, asyncio.LimitOverrunError) as error:
            ended = ConnectionResetError(f"no answer of the protocol: {error}")
        finally:
            if self._writer is writer:
                self._let_go(ended)
            writer.close()

    def _let_go(self, error: Exception) -> None:
        writer, self._writer = self._writer, None
        if writer:
            writer.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)


class Simulated:
    """The launcher of one simulated node."""

    def __init__(self, node: str, line: FleetLine) -> None:
        self._node = node
        self._line = line
        self._last: tuple[dict[str, Any], Observation] | None = None

    async def observe(self, after: int, wait_s: float) -> Observation:
        """Return every process there, at once if something changed after `after`.

        What has not changed since the last time is the very same object.
        """
        body = await self._line.ask(self._node, "observe", after=after, wait_s=wait_s)
        if self._last and self._last[0] == body:
            return self._last[1]
        try:
            seen = observation_from(body)
        except (KeyError, TypeError, AttributeError) as error:
            raise Unavailable(UNREACHABLE, cause=f"observation: {error}") from None
        self._last = body, seen
        return seen

    async def start(self, plan: LaunchPlan) -> None:
        """Start it, unless that uid already runs at this epoch."""
        await self._line.ask(self._node, "start", plan=plan)

    async def stop(self, uid: str, epoch: int, grace_s: float) -> Moment:
        """Ask it to end, and make it end after `grace_s`; returns before it has ended."""
        body = await self._line.ask(self._node, "stop", uid=uid, epoch=epoch, grace_s=grace_s)
        return Moment(str(body.get("boot")), int(body.get("seq", 0)))

    async def tail(self, uid: str, lines: int) -> Sequence[str]:
        """Return the last lines it printed; empty for something unknown."""
        body = await self._line.ask(self._node, "tail", uid=uid, lines=lines)
        return tuple(body.get("lines", ()))

    async def printed(
        self, uid: str, lines: int, rank: int | None = None, first: bool = False
    ) -> Sequence[Line]:
        """Return the last lines that ranks of a gang printed, or the first, in order of arrival."""
        body = await self._line.ask(
            self._node, "tail", uid=uid, lines=lines, rank=rank, first=first
        )
        return lines_from(body)

    async def progress(
        self, uid: str, epoch: int, rank: int, after: int
    ) -> tuple[Sequence[str], int]:
        """Return lines of a rank's progress file from a byte on, and from which to go on."""
        which = {"uid": uid, "epoch": epoch, "rank": rank}
        body = await self._line.ask(self._node, "progress", after=after, **which)
        return tuple(body["lines"]), int(body["next"])

    async def signal(self, uid: str, epoch: int, name: str) -> None:
        """Send a signal to a process, or to every rank of a gang."""
        await self._line.ask(self._node, "signal", uid=uid, epoch=epoch, signal=name)

    async def close(self) -> None:
        """Let the connection go, for every node that shares it."""
        await self._line.close()
