"""What jobs keep beyond themselves, and its end once nobody names it: volumes, and code."""

from __future__ import annotations

import asyncio

from madang.control.gangs import mounted
from madang.control.guard import guarded
from madang.control.world import World
from madang.errors import Conflict
from madang.ports import Codes, Volumes
from madang.resources.job import OVER, Job
from madang.resources.rights import CONTROL
from madang.resources.volume import Volume

LOOK_S = 5.0
PAUSE_S = 1.0
"""Between two looks, however much happens."""
MEASURE_S = 30.0
"""A volume that a job mounts is measured so often: it may grow beyond its size for so long."""
NOTED_BYTES = 1 << 20
"""A smaller change is not written down while a job goes on."""


class Shelf:
    """Looks after the folders of volumes and of code."""

    def __init__(self, world: World, volumes: Volumes, codes: Codes) -> None:
        self.world = world
        self.volumes = volumes
        self.codes = codes
        self._measured: dict[str, tuple[float, bool]] = {}
        """By uid, when (monotonic), and whether a job mounted it then."""

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
        kept = await asyncio.to_thread(self.volumes.kept)
        volumes = [v for v in self.world.list(CONTROL, "volume").values() if isinstance(v, Volume)]
        for uid in {*kept} - {volume.uid for volume in volumes}:
            await asyncio.to_thread(self.volumes.remove, uid)
        living = (job for job in jobs if job.status.phase not in OVER)
        used = {volume.ref for job in living for volume in mounted(self.world, job)}
        for volume in volumes:
            is_used, now = volume.ref in used, self.world.clock.monotonic()
            at, was_used = self._measured.get(volume.uid, (None, False))
            if at is None or (is_used and now - at >= MEASURE_S) or (was_used and not is_used):
                self._measured[volume.uid] = now, is_used
                await self._measure(volume, is_used)

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
