"""People who make, change and delete services and keys, and remember what they were told."""

from __future__ import annotations

import asyncio
from typing import Any

from madang.control.keys import Wanted
from madang.errors import MadangError, NotFound, Rejected, Unavailable
from madang.resources.resource import Ref
from madang.resources.rights import Grant, Principal, Role
from madang.testing.simulation.control import MODELS
from madang.testing.simulation.stage import Stage

PROJECT = "local/main"
SERVICES = ("app", "bot", "rag")
KEYS = ("one", "two")
PERSON = Principal(actor="key/person", role=Role.OPERATOR, project=PROJECT)
ABSENT = None
"""What a name stands for when nothing is there, or it is being taken down."""
Wish = dict[str, Any] | None


class People:
    """One person for each service and each key: nobody else writes what they write."""

    def __init__(self, history: Stage) -> None:
        self.history = history
        names = [*(("service", name) for name in SERVICES), *(("key", name) for name in KEYS)]
        self.possible: dict[tuple[str, str], list[Wish]] = {name: [ABSENT] for name in names}
        """What may be stored: what was last acknowledged, and what was asked for since."""

    async def import_models(self) -> None:
        """Import every model, and do not give up."""
        for name in MODELS:
            await self._import(name)

    async def _import(self, name: str) -> None:
        ref = Ref(PROJECT, name)
        while True:
            try:
                await self.history.ask(lambda c: c.intake.add_model(PERSON, ref, name, _untold))
            except Unavailable:
                await self.history.clock.sleep(1.0)
            else:
                return

    async def mind_service(self, name: str) -> None:
        """Change one service now and then."""
        chance = self.history.whims
        while True:
            if chance.random() < 0.25:
                await self._try("service", name, ABSENT)
            else:
                await self._try("service", name, self._wish())
            await asyncio.sleep(chance.expovariate(1 / 12.0))

    async def mind_key(self, name: str) -> None:
        """Make one key and revoke it, again and again."""
        while True:
            await asyncio.sleep(self.history.whims.expovariate(1 / 60.0))
            await self._try("key", name, {} if self.possible["key", name][-1] is ABSENT else ABSENT)

    def _wish(self) -> dict[str, Any]:
        chance = self.history.whims
        model = chance.choice(["small", "small", "large", "large", "wrong"])
        needs: dict[str, Any] = {"count": chance.choice([1, 1, 1, 2])}
        if kind := chance.choice(["", "cpu", "nvidia", "nvidia"]):
            needs["accelerator"] = kind
        return {"model": model, "scale": chance.choice([0, 1, 1, 2, 2, 3]), "needs": needs}

    async def _try(self, kind: str, name: str, wish: Wish) -> None:
        possible = self.possible[kind, name]
        possible.append(wish)
        try:
            await self._say(kind, name, wish)
        except Unavailable as error:
            outcome = f"unknown {error.code}"
        except NotFound:  # what is absent need not be deleted
            outcome = "absent"
            possible[:] = [ABSENT] if wish is ABSENT else possible[:-1]
        except Rejected as error:
            outcome = f"refused {error.code}"
            possible.pop()
        except MadangError as error:
            outcome = f"unknown {error.code}"
        else:
            outcome = "acknowledged"
            possible[:] = [wish]
        self.history.step("asked", f"{kind}/{name}", f"{wish} {outcome}")

    async def _say(self, kind: str, name: str, wish: Wish) -> None:
        ref = Ref(PROJECT, name)
        if wish is ABSENT:
            await self.history.ask(lambda c: c.intake.delete(PERSON, kind, ref))
        elif kind == "key":
            wanted = Wanted(ref, Grant(role=Role.MEMBER, where=PROJECT))
            await self.history.ask(lambda c: c.intake.create_key(PERSON, wanted))
        else:
            document = {"kind": kind, "name": name, **wish}
            await self.history.ask(
                lambda c: c.intake.apply(PERSON, [document], PROJECT, dry_run=False)
            )


def _untold(_done: int, _of: int) -> None:
    """Take progress that nobody waits for."""
