"""The launcher of this machine: orders to its supervisor, over a UNIX socket."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from madang.errors import Rejected, Unavailable
from madang.launchers.dial import ANSWER_SECONDS_MAX, dial, observation_from
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


class Local:
    """Two connections: one for orders, one on which `observe` may wait."""

    def __init__(
        self, socket_path: Path, term: int, answer_s: float = ANSWER_SECONDS_MAX, store: str = ""
    ) -> None:
        self._term = term
        self._store = store
        self._answer_s = answer_s
        self._orders = _Line(socket_path)
        self._sight = _Line(socket_path)
        self._ids = itertools.count(1)

    async def observe(self, after: int, wait_s: float) -> Observation:
        """Return every process there, at once if something changed after `after`."""
        body = await self._ask(self._sight, "observe", after=after, wait_s=wait_s)
        try:
            return observation_from(body)
        except (KeyError, TypeError, AttributeError) as error:
            raise Unavailable("launcher.unreachable", cause=f"observation: {error}") from None

    async def start(self, plan: LaunchPlan) -> None:
        """Start it, unless that uid already runs at this epoch."""
        await self._ask(self._orders, "start", plan=plan)

    async def stop(self, uid: str, epoch: int, grace_s: float) -> Moment:
        """Ask it to end, and make it end after `grace_s`; returns before it has ended."""
        body = await self._ask(self._orders, "stop", uid=uid, epoch=epoch, grace_s=grace_s)
        return Moment(str(body.get("boot")), int(body.get("seq", 0)))

    async def tail(self, uid: str, lines: int) -> Sequence[str]:
        """Return the last lines it printed; empty for something unknown."""
        body = await self._ask(self._orders, "tail", uid=uid, lines=lines)
        return tuple(body.get("lines", ()))

    async def printed(
        self, uid: str, lines: int, rank: int | None = None, first: bool = False
    ) -> Sequence[Line]:
        """Return the last lines that ranks of a gang printed, or the first, in order of arrival."""
        body = await self._ask(self._orders, "tail", uid=uid, lines=lines, rank=rank, first=first)
        return lines_from(body)

    async def progress(
        self, uid: str, epoch: int, rank: int, after: int
    ) -> tuple[Sequence[str], int]:
        """Return lines of a rank's progress file from a byte on, and from which to go on."""
        which = {"uid": uid, "epoch": epoch, "rank": rank}
        body = await self._ask(self._orders, "progress", after=after, **which)
        return tuple(body["lines"]), int(body["next"])

    async def signal(self, uid: str, epoch: int, name: str) -> None:
        """Send a signal to a process, or to every rank of a gang."""
        await self._ask(self._orders, "signal", uid=uid, epoch=epoch, signal=name)

    async def close(self) -> None:
        """Let both connections go."""
        await self._orders.close()
        await self._sight.close()

    async def _ask(self, line: _Line, verb: Verb, **arguments: Any) -> dict[str, Any]:
        message = order(verb, next(self._ids), self._term, store=self._store, **arguments)
        answer = await line.ask(message, self._answer_s + arguments.get("wait_s", 0.0))
        if error := answer.get("error"):
            raise Rejected(error["code"], error["subject"], **error["values"])
        body: dict[str, Any] = answer["ok"]
        return body


class _Line:
    """One connection: an order, its answer, the next order. Connects when it is needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, message: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        """Return the answer; raises Unavailable. A connection gone stale is replaced once."""
        async with self._turn:
            try:
                async with asyncio.timeout(deadline_s):
                    if self._streams:
                        with suppress(OSError, EOFError):
                            return await self._exchange(message)
                    return await self._exchange(message)
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
                cause = str(error) or type(error).__name__
                raise Unavailable("launcher.unreachable", cause=cause) from None

    async def close(self) -> None:
        """Let the connection go."""
        if self._streams:
            writer = self._streams[1]
            self._streams = None
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send and receive; whatever goes wrong, also a cancel, ends the connection."""
        answered = False
        try:
            reader, writer = self._streams = self._streams or await dial(self._path)
            writer.write(encode(message))
            await writer.drain()
            answer = json.loads(await reader.readuntil())
            if not isinstance(answer, dict) or answer.get("id") != message["id"]:
                raise ValueError("an answer to another order")
            answered = True
            return answer
        finally:
            if not answered:
                await self.close()
