"""Backups as control knows them: who took one and when, and whether the last one was tried."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from typing import Literal

from pydantic import Field

from madang.control.first import write_private
from madang.control.world import World
from madang.errors import Unavailable, Value
from madang.resources.event import Event
from madang.resources.resource import Frozen
from madang.resources.rights import Principal
from madang.settings import BACKUP_AGE_S, Home

Pieces = Callable[[Principal, float], AsyncIterator[bytes]]
"""(who, now) -> a backup of the home piece by piece, as it is when the first is asked for."""


class Outcome(Frozen):
    """What became of a backup: it was kept, or restored into a scratch home and queried."""

    what: Literal["backed-up", "drilled", "drill-failed"]
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """Of the whole file."""
    bytes: int = Field(default=0, ge=0, le=2**53, strict=True)
    seconds: float = Field(default=0.0, ge=0, le=10**9, strict=True)
    cause: str = Field(default="", max_length=200)


class Backups:
    """The door for backups; only operators of the whole site get here."""

    def __init__(
        self, world: World, home: Home, pieces: Pieces, age_s: float = BACKUP_AGE_S
    ) -> None:
        """`age_s`: so old may the last backup, and the last drill, be."""
        self.world = world
        self.age_s = age_s
        self.home = home
        self._pieces = pieces
        self._is_taking = False

    async def take(self, who: Principal) -> AsyncGenerator[bytes, None]:
        """Yield a backup piece by piece; that it was asked for is written down before."""
        if self._is_taking:
            raise Unavailable("backup.busy")
        self._is_taking = True
        try:
            await self._tell(who, "home.backup-begun")
            async for piece in self._pieces(who, self.world.clock.now()):
                yield piece
        finally:
            self._is_taking = False

    async def note(self, who: Principal, outcome: Outcome) -> None:
        """Write down what became of a backup; `doctor` reads when one was last good."""
        values = outcome.model_dump(exclude={"what"})
        await self._tell(who, f"home.{outcome.what}", **values)
        if outcome.what != "drill-failed":
            known = last(self.home) | {outcome.what: self.world.clock.now()}
            self.home.backups.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(self.home.last_backup, json.dumps(known) + "\n")

    async def _tell(self, who: Principal, code: str, **values: Value) -> None:
        now, name = self.world.clock.now(), self.home.path.name
        told = Event(at=now, actor=who.actor, code=code, kind="home", name=name, values=values)
        await self.world.commit(who, events=[told])


def last(home: Home) -> dict[str, float]:
    """Return when a backup was last `backed-up`, and when last `drilled`; Unix seconds."""
    with suppress(OSError, ValueError, TypeError):
        said = json.loads(home.last_backup.read_bytes())
        return {str(what): float(at) for what, at in dict(said).items()}
    return {}
