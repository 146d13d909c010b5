"""The hands of jobs: start every rank of an attempt, end them, keep their checkpoints."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from madang.control.guard import guarded
from madang.control.observe import Observer
from madang.control.tools import Tools
from madang.control.world import World
from madang.errors import MadangError, Rejected, Unavailable, Value
from madang.planning.action import Discard, Halt, Launch, Record, Stop, Warn
from madang.ports import CODE, FILE, Member, Where
from madang.resources.attempt import Attempt, member_uid
from madang.resources.event import Event
from madang.resources.holding import Holding
from madang.resources.job import CHECKPOINTS_KEPT, Checkpoint, Job
from madang.resources.model import Model, split_model
from madang.resources.place import Accelerator, Node
from madang.resources.resource import Reason, Ref
from madang.resources.rights import CONTROL
from madang.resources.secret import Secret
from madang.resources.volume import Volume
from madang.supervisor.protocol import Mount

LOOPBACK = "127.0.0.1"
REFUSED_KEPT = 20
"""Names of folders that are no checkpoints, kept so that none is read again and again."""
NOT_NOW = frozenset({"supervisor.closing", "supervisor.stale-term"})
"""Refusals that say nothing about what was to be started."""


def mounted(world: World, job: Job) -> Iterator[Volume]:
    """Return the volumes that a job mounts, those that are there."""
    for written in sorted(set(job.spec.mounts.values())):
        kind, _, name = written.partition("://")
        volume = world.get(CONTROL, Volume, Ref(job.project, name))
        if kind == "volume" and volume:
            yield volume


Work = tuple[Callable[["Gangs", Ref], Coroutine[Any, Any, None]], Ref]
"""What is done in the background, and for whom."""


class Gangs:
    """Carries out what planning decides of attempts; every act may be done twice without harm."""

    def __init__(self, world: World, observer: Observer, tools: Tools) -> None:
        self.world = world
        self.observer = observer
        self.tools = tools
        self._busy: dict[Work, asyncio.Task[None]] = {}

    async def carry_out(self, effect: Launch | Warn | Halt | Record | Discard) -> None:
        """Do what is decided of a gang, or of its job."""
        match effect:
            case Launch():
                self.launch(effect)
            case Warn(members):
                await asyncio.gather(*(guarded("warn a member", self._warn(m)) for m in members))
            case Halt():
                await self.halt(effect)
            case Record():
                self.read(effect)
            case Discard(job):
                self.discard(job)

    def _do(self, work: Work) -> None:
        """Have it done in the background, as the disk takes what time it will; once at a time.

        What comes to nothing planning asks for again.
        """
        does, ref = work
        if work not in self._busy or self._busy[work].done():
            done = guarded(f"{does.__name__.strip('_')} of {ref.name}", does(self, ref))
            self._busy[work] = task = asyncio.create_task(done)
            task.add_done_callback(lambda _: self._forget(work, task))

    def _forget(self, work: Work, task: asyncio.Task[None]) -> None:
        """Let go of what is done, unless the same has been begun anew meanwhile."""
        if self._busy.get(work) is task:
            del self._busy[work]

    def launch(self, effect: Launch) -> None:
        """Start the members of a gang, all at once; a refusal is told to planning as an end."""
        self._do((Gangs._launch, effect.attempt))

    async def _launch(self, ref: Ref) -> None:
        attempt = self.world.get(CONTROL, Attempt, ref)
        job = self._job(attempt) if attempt else None
        if attempt is None or job is None:
            return
        attempt = await self._resumable(job, attempt)
        try:
            await asyncio.to_thread(self._make, job, attempt)
            members = list(self._members(job, attempt))
        except MadangError as error:
            self._refused(member_uid(attempt, 0), attempt, error)
            return
        await asyncio.gather(*(self._start(node, member) for node, member in members))

    def _make(self, job: Job, attempt: Attempt) -> None:
        """Make what it writes to: its own folders, and those of the volumes that it mounts."""
        for volume in mounted(self.world, job):
            self.tools.volumes.make(volume)
        self.tools.saves.make(job, attempt, self._owner(job), self._where(job))
        work = Path(self.tools.saves.work(job))
        if job.spec.code and not self.world.encloses and not any(work.iterdir()):
            code = self.tools.codes.folder(job.project, job.spec.code)
            shutil.copytree(code, work, dirs_exist_ok=True)

    def _where(self, job: Job) -> Where | None:
        """Return where in a volume it saves; None: it does so in a folder of its own."""
        name, below = job.spec.saves_in or ("", "")
        volume = self.world.get(CONTROL, Volume, Ref(job.project, name)) if name else None
        return Where(self.tools.volumes.folder(volume), below) if volume else None

    def _owner(self, job: Job) -> int:
        return self.tools.volumes.owner(job.project) if self.world.encloses else 0

    async def _start(self, node: str, member: Member) -> None:
        try:
            await self.tools.launchers[node].start(self.tools.program(member))
        except MadangError as error:
            if isinstance(error, Unavailable) or error.code in NOT_NOW:
                return  # seen no process of it after a while, planning sends the order again
            self._refused(member.uid, member.attempt, error)

    def _refused(self, uid: str, attempt: Attempt, error: MadangError) -> None:
        reason = Reason(code=error.code, values={"subject": error.subject, **error.values})
        self.observer.refuse(uid, attempt.spec.number, reason)

    async def _warn(self, member: Stop) -> None:
        """Tell every rank of a member to save and to end."""
        launcher = self.tools.launchers.get(member.node)
        with suppress(Rejected):  # it has ended meanwhile, which the next look shows
            if launcher:
                await launcher.signal(member.uid, member.epoch, "SIGTERM")

    async def halt(self, effect: Halt) -> None:
        """Tell every node to end its member, all at once."""
        stops = (self._stop(order, effect.grace_s) for order in effect.orders)
        await asyncio.gather(*(guarded("stop a member", stop) for stop in stops))

    async def _stop(self, order: Stop, grace_s: float) -> None:
        launcher = self.tools.launchers.get(order.node)
        if launcher:
            moment = await launcher.stop(order.uid, order.epoch, grace_s)
            self.observer.stopped(order.node, order.uid, order.epoch, moment)

    def _job(self, attempt: Attempt) -> Job | None:
        return self.world.get(CONTROL, Job, attempt.job)

    def _members(self, job: Job, attempt: Attempt) -> Iterator[tuple[str, Member]]:
        """Return each member of a gang, with its node."""
        places = attempt.status.places
        for number, place in enumerate(places):
            yield place.node, self._member(job, attempt, number, place)

    def _member(self, job: Job, attempt: Attempt, number: int, place: Holding) -> Member:
        devices = [
            found
            for name in place.accelerators
            if (found := self.world.get(CONTROL, Accelerator, Ref("", name)))
        ]
        node = self.world.get(CONTROL, Node, Ref("", place.node))
        saves = self.tools.saves
        return Member(
            uid=member_uid(attempt, number),
            job=job,
            attempt=attempt,
            number=number,
            master=attempt.status.places[0].node if job.spec.nodes > 1 else LOOPBACK,
            accelerators=place.accelerators,
            accelerator_kind=devices[0].spec.accelerator if devices else "",
            devices=tuple(device.spec.device for device in devices if device.spec.device),
            files=tuple(str(path) for each in devices if (path := each.spec.attributes.get(FILE))),
            cores=place.cores or (node.status.cores if node else 1.0),
            secrets=dict(self._secrets(job)),
            mounts=tuple(self._mounts(job)),
            owner=self._owner(job),
            is_enclosed=self.world.encloses,
            progress=saves.progress(job, attempt),
            checkpoints=job.spec.resume.source or saves.checkpoints(job),
            cwd=saves.work(job),
            library=saves.library(),
            checkpoint_every_s=attempt.spec.save_every_s,
        )

    def _secrets(self, job: Job) -> Iterator[tuple[str, str]]:
        """Return the text of each secret by its variable; raises `Unavailable`."""
        for variable, name in job.spec.secrets.items():
            secret = self.world.get(CONTROL, Secret, Ref(job.project, name))
            if secret:
                try:
                    yield variable, self.tools.secrets.get(secret.uid)
                except Unavailable as error:
                    raise Unavailable(error.code, f"secret/{name}", **error.values) from None

    def _mounts(self, job: Job) -> Iterator[Mount]:
        """Return where its code lies, and each volume and model that a job mounts."""
        if job.spec.code:
            yield Mount(str(self.tools.codes.folder(job.project, job.spec.code)), CODE)
        for place, written in sorted(job.spec.mounts.items()):
            kind, _, name = written.partition("://")
            if kind == "volume":
                volume = self.world.get(CONTROL, Volume, Ref(job.project, name))
                if volume:
                    path = str(self.tools.volumes.folder(volume))
                    yield Mount(path, place, is_writable=not volume.spec.read_only)
            else:
                model, number = split_model(name)
                found = self.world.get(CONTROL, Model, Ref(job.project, model))
                version = found.version(number) if found else None
                if version:
                    yield Mount(str(self.tools.blobs.path(version.digest)), place)

    async def _resumable(self, job: Job, attempt: Attempt) -> Attempt:
        """Return the attempt going on from the newest checkpoint that is still whole."""
        good, saves, where = list(job.status.checkpoints), self.tools.saves, self._where(job)
        while good and not await asyncio.to_thread(saves.is_whole, job, good[-1], where):
            good.pop()
        if where and not good:
            strangers = self._strangers(job)
            other = await asyncio.to_thread(saves.of_another, job, where, strangers)
            good = [other] if other else []
        newest = good[-1] if good else None
        name = newest.name if newest else ""
        if name == attempt.spec.resume_from:
            return attempt
        from_there = {
            "resume_from": name, "first_step": newest.step if newest else 0,
            "resume_job": newest.job if newest else "",
        }  # fmt: skip
        kept: Attempt = attempt.model_copy(
            update={"spec": attempt.spec.model_copy(update=from_there)}
        )
        changed: Job = job.with_status(checkpoints=tuple(good))
        told = []
        if attempt.spec.resume_from:
            values: dict[str, Value] = {"checkpoint": attempt.spec.resume_from}
            told += [self._event(job, "checkpoint.damaged", values)]
        if newest and newest.job:
            values = {"checkpoint": name, "step": newest.step, "job": self._named(newest.job)}
            told += [self._event(job, "checkpoint.adopted", values)]
        stored = await self.world.commit(CONTROL, [kept, changed], events=told)
        return next(each for each in stored if isinstance(each, Attempt))

    def _strangers(self, job: Job) -> set[str]:
        """Return the uid of every job of another project: two volumes may be the same folder."""
        jobs = self.world.list(CONTROL, "job").values()
        return {other.uid for other in jobs if other.project != job.project}

    def _named(self, uid: str) -> str:
        """Return the name of the job with this uid; where it is forgotten, the uid."""
        jobs = self.world.list(CONTROL, "job").values()
        return next((job.name for job in jobs if job.uid == uid), uid)

    def read(self, effect: Record) -> None:
        """Read what an attempt calls a checkpoint; what it names meanwhile is read after it."""
        self._do((Gangs._read, effect.attempt))

    async def _read(self, ref: Ref) -> None:
        attempt = self.world.get(CONTROL, Attempt, ref)
        job = self._job(attempt) if attempt else None
        if attempt is None or job is None:
            return
        name, saves = attempt.status.claim, self.tools.saves
        try:
            found = await asyncio.to_thread(saves.read, job, attempt, name, self._where(job))
        except Rejected as error:
            await self._refuse(job, name, error)
        else:
            await self._keep(job, attempt, found)
        now = self.world.get(CONTROL, Attempt, ref)
        if now and now.status.claim != name:
            await self._read(ref)

    async def _keep(self, job: Job, attempt: Attempt, found: Checkpoint) -> None:
        """Write a good checkpoint down, and let go of those that are too many."""
        now = self.world.get(CONTROL, Job, job.ref)
        if now is None or now.status.attempt != attempt.spec.number:
            return  # a later attempt has begun meanwhile
        older = [c for c in now.status.checkpoints if c.name != found.name]
        kept = tuple([*older, found][-CHECKPOINTS_KEPT:])
        changed: Job = now.with_status(
            checkpoints=kept, step=max(now.status.step, found.step), fruitless=0, barren=0
        )
        values: dict[str, Value] = {
            "checkpoint": found.name,
            "step": found.step,
            "bytes": found.size_bytes,
        }
        told = self._event(job, "checkpoint.kept", values)
        await self.world.commit(CONTROL, [changed], events=[told])
        await asyncio.to_thread(self.tools.saves.keep_only, job, kept, self._where(job))

    async def _refuse(self, job: Job, name: str, error: Rejected) -> None:
        now = self.world.get(CONTROL, Job, job.ref)
        if now is None:
            return
        refused = (*now.status.refused, name)[-REFUSED_KEPT:]
        changed: Job = now.with_status(refused=refused)
        values = {**error.values, "checkpoint": name, "reason": error.code}
        told = self._event(job, "checkpoint.refused", values)
        await self.world.commit(CONTROL, [changed], events=[told])

    def discard(self, ref: Ref) -> None:
        """Remove what a job has on the disk; then nothing of it is kept any more."""
        self._do((Gangs._discard, ref))

    async def _discard(self, ref: Ref) -> None:
        job = self.world.get(CONTROL, Job, ref)
        if job is None or job.deleted_at is None:
            return
        await asyncio.to_thread(self.tools.saves.forget, job)
        numbers = range(1, job.status.attempt + 1)
        named = (Ref(ref.project, f"{ref.name}-{number}") for number in numbers)
        own = filter(None, [self.world.get(CONTROL, Attempt, name) for name in named])
        told = self._event(job, "job.deleted", {})
        await self.world.commit(CONTROL, gone=[*own, job], events=[told])

    def _event(self, job: Job, code: str, values: Mapping[str, Value]) -> Event:
        return Event(
            at=self.world.clock.now(), actor="control", code=code, kind="job",
            project=job.project, name=job.name, uid=job.uid, values=dict(values),
        )  # fmt: skip
