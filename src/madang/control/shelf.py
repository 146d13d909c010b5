"""What jobs keep beyond themselves, and its end once nobody names it: volumes, code, models."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

from madang.control.gangs import mounted
from madang.control.guard import guarded
from madang.control.tools import Tools
from madang.control.world import World
from madang.errors import Conflict, Rejected, Unavailable, Value
from madang.resources.event import Event
from madang.resources.job import OVER, Job
from madang.resources.model import Model, volume_path
from madang.resources.resource import Reason, Ref
from madang.resources.rights import CONTROL
from madang.resources.volume import Volume

LOOK_S = 5.0
PAUSE_S = 1.0
"""Between two looks, however much happens."""
MEASURE_S = 30.0
"""A volume that a job mounts is measured so often: it may grow beyond its size for so long."""
AGAIN_S = 60.0
"""A model that could not be read from a volume is tried again so often."""
NOTED_BYTES = 1 << 20
"""A smaller change is not written down while a job goes on."""


class Shelf:
    """Looks after the folders of volumes and of code."""

    def __init__(self, world: World, tools: Tools) -> None:
        self.world = world
        self.volumes = tools.volumes
        self.codes = tools.codes
        self.secrets = tools.secrets
        self._read = tools.read
        self._tried: dict[tuple[str, int], float] = {}
        """By uid and generation of a model, when it was tried to read it (monotonic)."""
        self._measured: dict[str, float] = {}
        """When each volume was measured that no job has left since, by uid (monotonic)."""
        self._over: set[str] = set()
        """Jobs that mount something and were over at the last look, by uid."""

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            tick = self.world.tick
            await guarded("volumes", self.look())
            await self.world.clock.sleep(PAUSE_S)
            await self.world.moved(tick, LOOK_S)

    async def look(self) -> None:
        """Remove the folders of volumes that are gone, and measure those that may have changed."""
        jobs = [j for j in self.world.list(CONTROL, "job").values() if isinstance(j, Job)]
        named = {(job.project, job.spec.code) for job in jobs if job.spec.code}
        await asyncio.to_thread(self.codes.keep_only, named)
        sealed = await asyncio.to_thread(self.secrets.kept)
        for uid in {*sealed} - {each.uid for each in self.world.list(CONTROL, "secret").values()}:
            await asyncio.to_thread(self.secrets.remove, uid)
        kept = await asyncio.to_thread(self.volumes.kept)
        volumes = [v for v in self.world.list(CONTROL, "volume").values() if isinstance(v, Volume)]
        for uid in {*kept} - {volume.uid for volume in volumes}:
            await asyncio.to_thread(self.volumes.remove, uid)
        self._note_ends(jobs)
        living = (job for job in jobs if job.status.phase not in OVER)
        used = {volume.ref: job for job in living for volume in mounted(self.world, job)}
        for model in self.world.list(CONTROL, "model").values():
            if isinstance(model, Model) and model.status.read_generation != model.generation:
                await guarded(f"model {model.name}", self._take(model, used))
        for volume in volumes:
            is_used, now = volume.ref in used, self.world.clock.monotonic()
            at = self._measured.get(volume.uid)
            if at is None or (is_used and now - at >= MEASURE_S):
                self._measured[volume.uid] = now
                await self._measure(volume, is_used)

    def _note_ends(self, jobs: Iterable[Job]) -> None:
        """Have volumes measured again that were left by jobs since the last look, however short."""
        over = {job.uid: job for job in jobs if job.spec.mounts and job.status.phase in OVER}
        for uid in over.keys() - self._over:
            for volume in mounted(self.world, over[uid]):
                self._measured.pop(volume.uid, None)
        self._over = set(over)

    async def _take(self, model: Model, used: Mapping[Ref, Job]) -> None:
        """Read a model that lies in a volume, once no job works there; or say why not yet."""
        name, _ = volume_path(model.spec.source)
        if not name:
            return
        volume = self.world.get(CONTROL, Volume, Ref(model.project, name))
        if volume is None:
            values: dict[str, Value] = {"volume": name}
            await self._wait(model, Reason(code="model.no-volume", values=values))
            return
        tried, now = (model.uid, model.generation), self.world.clock.monotonic()
        if job := used.get(volume.ref):
            self._tried.pop(tried, None)
            values = {"job": job.name, "volume": name}
            reason = Reason(code="model.waits-for-job", values=values)
            await self._wait(model, reason, f"job/{job.name}")
        elif now - self._tried.get(tried, -AGAIN_S) >= AGAIN_S:
            self._tried[tried] = now
            await self._import(model, self.volumes.folder(volume))

    async def _wait(self, model: Model, reason: Reason, blocked_by: str = "") -> None:
        if model.status.reason != reason:
            waiting = model.with_status(reason=reason, blocked_by=blocked_by)
            await self.world.commit(CONTROL, [waiting])

    async def _import(self, model: Model, folder: Path) -> None:
        try:
            found = await asyncio.to_thread(self._read, folder, model.spec.source)
        except (Rejected, Unavailable) as error:
            values = {**error.values, "subject": error.subject}
            await self._wait(model, Reason(code=error.code, values=values))
            return
        now = self.world.clock.now()
        grown = model.grown(found, now)
        read: Model = grown.with_status(
            reason=None, blocked_by="", read_generation=model.generation
        )
        told = Event(
            at=now, actor="control", code="model.imported", kind="model", project=model.project,
            name=model.name, uid=model.uid, values={"version": len(grown.status.versions)},
        )  # fmt: skip
        await self.world.commit(CONTROL, [read], events=[told])

    async def _measure(self, volume: Volume, is_used: bool) -> None:
        used_bytes, files = await asyncio.to_thread(self.volumes.measure, volume)
        now = self.world.get(CONTROL, Volume, volume.ref)
        if now is None or now.uid != volume.uid:
            return
        before = now.status
        changed: Volume = now.with_status(
            used_bytes=used_bytes, files=files, measured_at=self.world.clock.now()
        )
        is_small = is_used and abs(before.used_bytes - used_bytes) < NOTED_BYTES
        is_same = is_small or (before.used_bytes, before.files) == (used_bytes, files)
        if before.measured_at and is_same and changed.is_full == now.is_full:
            return
        try:
            await self.world.commit(CONTROL, [changed])
        except Conflict:  # somebody has changed it meanwhile
            self._measured.pop(volume.uid, None)
