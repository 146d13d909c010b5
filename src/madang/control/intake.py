"""What people ask for: apply, delete, keys, models. Every call takes a Principal and checks it.

People write specs; this is the only door by which a spec changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from madang.control.authority import (
    PRIVILEGED,
    allow,
    allow_change,
    allow_grant,
    allow_lifetime,
    allow_owner,
    allow_write,
)
from madang.control.keys import Keys, Wanted, make_key, owner_ref
from madang.control.rounding import check_applied
from madang.control.standing import check_changed, check_folder, check_followed, check_new, users_of
from madang.control.steering import Deed, Steer
from madang.control.world import World
from madang.errors import Conflict, NotFound, Rejected, Unauthorized, Value
from madang.planning.action import Action
from madang.planning.memo import Memo
from madang.planning.preview import Change, follow, telling, wish
from madang.planning.snapshot import Seen
from madang.ports import Codes, Random
from madang.resources.event import Event
from madang.resources.job import Job, JobSpec
from madang.resources.kinds import WRITABLE
from madang.resources.manifest import MANIFESTS_MAX, Manifest, numbered, read
from madang.resources.model import (
    Model,
    ModelSpec,
    ModelStatus,
    ModelVersion,
    split_model,
)
from madang.resources.place import Pool, Site
from madang.resources.quota import Quota
from madang.resources.resource import AnyResource, Frozen, Ref
from madang.resources.rights import CONTROL, Principal, Right
from madang.resources.secret import Secret, renewed
from madang.resources.service import Service
from madang.resources.tenancy import Key, Organization, Project, User
from madang.resources.volume import VolumeSpec

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)."""
Import = Callable[[str, Progress], ModelVersion]
"""(source, progress) -> what was read, with number 0. Blocks, in a thread."""

T = TypeVar("T")

ATTEMPTS_MAX = 8
"""How often a person's write is tried against a world that keeps changing."""
DELETABLE = frozenset({*WRITABLE, "key", "build", "secret"})
"""Kinds that people may take away; all else follows from these."""
IMPORTS_MAX = 2
"""Models read at the same time."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` changed, or would change, and what follows from it."""

    changes: tuple[Change, ...]
    follows: tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class Revoked:
    """A key that is worthless now, with keys that it made: those revoked along, those alive."""

    key: AnyResource
    along: tuple[AnyResource, ...]
    alive: tuple[AnyResource, ...]


class Intake:
    """The door for people."""

    def __init__(
        self,
        world: World,
        seen: Callable[[], Seen],
        load: Import,
        random: Random,
        vouched: Callable[[], None],
        codes: Codes,
    ) -> None:
        self.world = world
        self.seen = seen
        self.load = load
        self.random = random
        self.vouched = vouched
        """Raises `Unavailable` while the audit records can't be vouched for."""
        self.codes = codes
        self.home: Path | None = None
        """Madang's own folder, which nobody's volume may show."""
        self._keys = Keys(world)
        self._memo: Memo | None = None
        """Kept between previews; one under way, which may go on when it is given up, has it."""
        self._imports = asyncio.Semaphore(IMPORTS_MAX)
        self._turn = asyncio.Lock()

    def find(self, who: Principal, kind: str, ref: Ref) -> AnyResource:
        """Return what this caller may see; `NotFound` for what is absent and for others' alike."""
        allow(who, Right.READ, ref.project, f"{kind}/{ref.name}")
        found = self.world.list(who, kind).get(ref)
        if found is None:
            raise NotFound("resource.missing", f"{kind}/{ref.name}", project=ref.project)
        return found

    def look(self, who: Principal, project: str | None) -> None:
        """Refuse to look into a project that isn't the caller's."""
        if project is not None:
            allow(who, Right.READ, project, f"project/{project}")

    def list(self, who: Principal, kind: str, project: str | None) -> list[AnyResource]:
        """Return what this caller may see of a kind, in one project or in all."""
        self.look(who, project)
        return [
            resource
            for _, resource in sorted(self.world.list(who, kind).items())
            if project in {None, resource.project}
        ]

    async def apply(
        self, who: Principal, documents: Sequence[object], project: str, *, dry_run: bool
    ) -> Applied:
        """Make the world as the documents say, all of them or none."""
        if len(documents) > MANIFESTS_MAX:
            raise Rejected("manifest.too-many", count=len(documents), limit=MANIFESTS_MAX)
        manifests: dict[tuple[str, Ref], Manifest] = {}
        for number, document in enumerate(documents, 1):
            with numbered(number):
                manifest = self._read(who, document, project)
                if (manifest.kind, manifest.ref) in manifests:
                    raise Rejected("manifest.twice", manifest.subject, project=manifest.ref.project)
                manifests[manifest.kind, manifest.ref] = manifest
        versions: dict[Ref, ModelVersion] = {}
        for number, manifest in enumerate(manifests.values(), 1):
            if isinstance(manifest.spec, ModelSpec) and manifest.spec.is_file and not dry_run:
                with numbered(number):
                    versions[manifest.ref] = await self._load(manifest.spec.source, _untold)
        wanted = tuple(manifests.values())
        return await self._again(lambda: self._apply(who, wanted, versions, dry_run=dry_run))

    def _read(self, who: Principal, document: object, project: str) -> Manifest:
        """Read one document, and refuse whoever may not bring it."""
        manifest = read(document, project)
        allow_write(who, manifest.kind, manifest.ref.project, manifest.subject)
        if self._reaches_out(manifest.spec):
            allow(who, Right.OPERATE, "", manifest.subject)
        if isinstance(manifest.spec, VolumeSpec) and manifest.spec.path:
            check_folder(manifest.spec.path, self.home, manifest.subject)
        return manifest

    def _reaches_out(self, spec: Frozen) -> bool:
        """Tell whether something reaches what is on the machine beside Madang's own."""
        bare = isinstance(spec, JobSpec) and not self.world.encloses
        is_folder = isinstance(spec, VolumeSpec) and bool(spec.path)
        return bare or is_folder or (isinstance(spec, ModelSpec) and spec.is_file)

    async def _again(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try once more from the newest state while control writes statuses in between.

        One person's checks and writes at a time: nothing is deleted while something else is made
        to stand on it; and nobody is told that something is absent which a commit has stored whose
        answer was lost.
        """
        for _ in range(ATTEMPTS_MAX - 1):
            try:
                return await self._once(attempt)
            except Conflict as error:
                if error.code != "store.stale":
                    raise
        return await self._once(attempt)

    async def _once(self, attempt: Callable[[], Awaitable[T]]) -> T:
        async with self._turn:
            await self.world.be_sure()
            return await attempt()

    async def _apply(
        self,
        who: Principal,
        manifests: Sequence[Manifest],
        versions: Mapping[Ref, ModelVersion],
        *,
        dry_run: bool,
    ) -> Applied:
        snapshot = self.world.snapshot(CONTROL, self.seen())
        changes = [wish(m, snapshot, f"{m.kind}-{self.random.token(8)}") for m in manifests]
        for change in changes:
            self._check(who, change, changes)
        memo, self._memo = self._memo or Memo(), None
        changed, planned = await asyncio.to_thread(follow, snapshot, changes, memo)
        self._memo = memo
        check_followed(changes, changed, memo)
        applied = Applied(tuple(changes), telling(planned, changes))
        if not dry_run:
            for change in changes:
                self._check_code(change)
            await self._write(who, applied, versions)
        return applied

    def _check_code(self, change: Change) -> None:
        """Refuse a new job whose code nobody has sent."""
        job = change.resource
        digest = job.spec.code if isinstance(job, Job) and change.what == "create" else ""
        if digest and not self.codes.has(job.project, digest):
            raise Rejected("job.no-code", f"job/{job.name}", digest=digest)

    async def set_secret(
        self, who: Principal, ref: Ref, keep: Callable[[str], None]
    ) -> AnyResource:
        """Make a secret, or give it another text; `keep` puts that away by the secret's uid.

        First the secret, then its text: what has no secret is removed.
        """
        subject = f"secret/{ref.name}"
        allow_write(who, "secret", ref.project, subject)
        stored = await self._again(lambda: self._set_secret(who, ref))
        await asyncio.to_thread(keep, stored.uid)
        return stored

    async def _set_secret(self, who: Principal, ref: Ref) -> AnyResource:
        home = Ref(ref.project, ref.project.partition("/")[2])
        self._need(Project, home, f"secret/{ref.name}", ())
        before, uid = self.world.get(who, Secret, ref), f"secret-{self.random.token(8)}"
        fresh = renewed(before, ref, uid, self.world.clock.now())
        told = self._told(who, fresh, "secret.updated" if before else "secret.created")
        return (await self._commit(who, [fresh], events=[told]))[0]

    async def add_code(self, who: Principal, project: str, digest: str, packed: str) -> bool:
        """Take a program in that comes along with a job; tell whether it is there now."""
        subject = f"project/{project}"
        allow_write(who, "job", project, subject)
        self._need(Project, Ref(project, project.partition("/")[2]), subject, ())
        if packed and not self.codes.has(project, digest):
            async with self._imports:
                await asyncio.to_thread(self.codes.add, project, digest, packed)
        return self.codes.has(project, digest)

    async def _write(
        self, who: Principal, applied: Applied, versions: Mapping[Ref, ModelVersion]
    ) -> None:
        """Write all changes, models with the versions that were read, in one commit."""
        fresh, events = [], []
        for change in applied.changes:
            resource = change.resource
            if change.what == "unchanged":
                continue
            if resource.ref in versions and isinstance(resource, Model):
                resource = self._grown(resource.ref, resource.spec.source, versions[resource.ref])
            fresh.append(resource)
            events.append(self._told(who, resource, f"{resource.kind}.{change.what}d"))
        if fresh:
            await self._commit(who, fresh, events=events, result=lambda _stored: applied)

    def _check(self, who: Principal, change: Change, changes: Sequence[Change]) -> None:
        """Refuse what can't be applied to the world as it is, with the next step."""
        resource = change.resource
        subject = f"{resource.kind}/{resource.name}"
        if resource.deleted_at is not None:
            raise Conflict("resource.being-deleted", subject)
        before = self.world.list(who, resource.kind).get(resource.ref)
        allow_change(who, before, resource)
        if isinstance(resource, Job) and before is None:
            check_new(resource, self.world, subject)
        check_changed(before, resource, subject, self.world.clock.now())
        check_applied(before, resource, [each.resource for each in changes], self.world)
        organization, _, project = resource.project.partition("/")
        if isinstance(resource, Project | User) or (isinstance(resource, Quota) and not project):
            self._need(Organization, Ref(organization, organization), subject, changes)
        elif project:
            self._need(Project, Ref(resource.project, project), subject, changes)
        elif isinstance(resource, Pool):
            self._need(Site, Ref("", resource.spec.site), subject, changes)
        if isinstance(resource, Service):
            name, number = split_model(resource.spec.model)
            model = self.world.get(who, Model, Ref(resource.project, name))
            if model and number is not None and model.version(number) is None:
                raise Rejected(
                    "model.no-such-version", subject, model=name, version=number,
                    newest=model.status.versions[-1].number if model.status.versions else 0,
                )  # fmt: skip

    def _need(
        self, kind: type[AnyResource], ref: Ref, subject: str, changes: Sequence[Change]
    ) -> None:
        """Refuse what belongs to something that neither is there nor comes along."""
        coming = any(
            change.resource.kind == kind.kind and change.resource.ref == ref for change in changes
        )
        if self.world.get(CONTROL, kind, ref) is None and not coming:
            raise NotFound(f"{kind.kind}.missing", subject, name=ref.project or ref.name)

    async def delete(self, who: Principal, kind: str, ref: Ref) -> AnyResource:
        """Take something down; services go politely, the rest at once if nothing needs it."""
        allow_write(who, kind, ref.project, f"{kind}/{ref.name}")
        return await self._again(lambda: self._delete(who, self.find(who, kind, ref)))

    async def _delete(self, who: Principal, found: AnyResource) -> AnyResource:
        allow_change(who, found, None)
        if isinstance(found, Service | Job):
            if found.deleted_at is not None:
                return found
            going: AnyResource = found.model_copy(update={"deleted_at": self.world.clock.now()})
            event = self._told(who, going, f"{found.kind}.delete-asked")
            return (await self._commit(who, [going], events=[event]))[0]
        self._check_free(who, found, f"{found.kind}/{found.name}")
        event = self._told(who, found, f"{found.kind}.deleted")
        return (await self._commit(who, gone=[found], events=[event]))[0]

    def _check_free(self, who: Principal, found: AnyResource, subject: str) -> None:
        """Refuse to delete what something else stands on, or what control alone may remove."""
        if found.kind not in DELETABLE:
            raise Rejected("resource.follows-others", subject, kind=found.kind)
        users = sorted(users_of(found, self.world))
        seen = [f"{kind}/{ref.name}" for kind, ref in users if who.sees(ref.project)]
        if seen:
            raise Conflict("resource.in-use", subject, by=", ".join(seen[:5]), count=len(seen))
        if users:
            raise Conflict("resource.held-elsewhere", subject)

    async def create_key(
        self, who: Principal, wanted: Wanted, secret_of: Callable[[str], str]
    ) -> AnyResource:
        """Make a key whose secret follows from its uid, and is kept nowhere.

        What a user makes is the user's, and falls with the user; only who manages the project may
        make keys that belong to nobody.
        """
        return await self._again(lambda: self._create_key(who, wanted, secret_of))

    async def _create_key(
        self, who: Principal, wanted: Wanted, secret_of: Callable[[str], str]
    ) -> AnyResource:
        ref = wanted.ref
        subject = f"key/{ref.name}"
        allow_write(who, "key", ref.project, subject)
        allow_grant(who, wanted.grant, subject)
        allow_lifetime(who, wanted.expires_s, self.world.clock.now(), subject)
        if not wanted.grant.rights:
            raise Rejected("key.grants-nothing", subject, role=wanted.grant.role)
        if who.user and not wanted.user and not who.may(Right.MANAGE, ref.project):
            wanted = replace(wanted, user=who.user)
        if wanted.user:
            owner = self.world.get(CONTROL, User, owner_ref(wanted.user))
            allow_owner(who, owner, wanted.user, wanted.grant)
        self._need(Project, Ref(ref.project, ref.project.partition("/")[2]), subject, ())
        if self.world.get(who, Key, ref):
            raise Conflict("resource.exists", subject)
        wanted = self._keys.narrowed(who, wanted, subject)
        uid = f"key-{self.random.token(8)}"
        key = make_key(wanted, uid, secret_of(uid), self.world.clock.now())
        event = self._told(who, key, "key.created")
        return (await self._commit(who, [key], events=[event]))[0]

    async def revoke_key(self, who: Principal, ref: Ref, *, made: bool) -> Revoked:
        """Make a key worthless; with `made` all that it has made, and these in turn, too."""
        allow_write(who, "key", ref.project, f"key/{ref.name}")
        return await self._again(lambda: self._revoke(who, self.find(who, "key", ref), made=made))

    async def _revoke(self, who: Principal, found: AnyResource, *, made: bool) -> Revoked:
        keys = self.world.list(who, "key")
        others = [key for _, key in sorted(keys.items()) if found.uid in key.spec.makers]
        gone = [found, *(others if made else ())]
        for key in gone:
            allow_write(who, "key", key.project, f"key/{key.name}")
            allow_change(who, key, None)
        events = [self._told(who, key, "key.deleted") for key in gone]
        told = Revoked(found, tuple(gone[1:]), () if made else tuple(others))
        await self._commit(who, gone=gone, events=events, result=lambda _stored: told)
        return told

    async def steer(
        self, who: Principal, kind: str, ref: Ref, steer: Steer, right: Right = Right.OPERATE
    ) -> AnyResource:
        """Change what somebody says of a single thing, unless it says so already."""
        allow(who, right, ref.project, f"{kind}/{ref.name}")

        async def act() -> AnyResource:
            found = self.find(who, kind, ref)
            wanted = steer(found)
            if wanted is None:
                return found
            status = wanted.status or found.status
            told = {"spec": wanted.spec, "generation": found.generation + 1, "status": status}
            changed = found.model_copy(update=told)
            event = self._told(who, changed, wanted.code)
            return (await self._commit(who, [changed], events=[event]))[0]

        return await self._again(act)

    async def act(
        self, who: Principal, kind: str, ref: Ref, deed: Deed, *, dry_run: bool = False
    ) -> Sequence[AnyResource]:
        """Do what somebody may do about a thing, and write it down with who did it, at once."""

        async def once() -> Sequence[AnyResource]:
            done = deed(self.find(who, kind, ref))
            if dry_run:
                return done.changed
            events = [self._told(who, each, code, **values) for each, code, values in done.told]
            return await self._commit(who, done.changed, events=events, result=tuple)

        return await self._again(once)

    def check_add_model(self, who: Principal, ref: Ref) -> None:
        """Refuse whoever may not have the server read a file for that project."""
        subject = f"model/{ref.name}"
        allow_write(who, "model", ref.project, subject)
        allow(who, Right.OPERATE, "", subject)
        self._need(Project, Ref(ref.project, ref.project.partition("/")[2]), subject, ())

    async def add_model(
        self, who: Principal, ref: Ref, source: str, progress: Progress
    ) -> AnyResource:
        """Read a model's files and keep them as the newest version of that name."""
        self.check_add_model(who, ref)
        version = await self._load(source, progress)
        return await self._again(lambda: self._keep(who, ref, source, version))

    async def _load(self, source: str, progress: Progress) -> ModelVersion:
        async with self._imports:
            return await asyncio.to_thread(self.load, source, progress)

    async def _keep(
        self, who: Principal, ref: Ref, source: str, version: ModelVersion
    ) -> AnyResource:
        self.check_add_model(who, ref)  # reading took long, and the project may be gone by now
        grown = self._grown(ref, source, version)
        if grown is self.world.get(CONTROL, Model, ref):
            return grown
        number = grown.status.versions[-1].number
        event = self._told(who, grown, "model.imported", version=number)
        return (await self._commit(who, [grown], events=[event]))[0]

    def _grown(self, ref: Ref, source: str, version: ModelVersion) -> Model:
        """Return the model with this version as its newest; as it is, if it has these bytes."""
        before, now = self.world.get(CONTROL, Model, ref), self.world.clock.now()
        uid, spec = f"model-{self.random.token(8)}", ModelSpec(source=source)
        model = before or Model(
            project=ref.project, name=ref.name, uid=uid, created_at=now, spec=spec,
            status=ModelStatus(),
        )  # fmt: skip
        grown = model.grown(version, now)
        if grown is before:
            return grown
        generation = model.generation + (before is not None)
        return grown.model_copy(update={"spec": spec, "generation": generation})

    async def _commit(
        self,
        who: Principal,
        changed: Sequence[AnyResource] = (),
        gone: Sequence[AnyResource] = (),
        **more: Any,
    ) -> Sequence[AnyResource]:
        """Write what somebody asked for, if they still may: a key may be revoked while it waits.

        A privileged act is written only while it can be vouched for.
        """
        if who.uid and not self._keys.honours(who):
            raise Unauthorized("key.unknown")
        if any(each.kind in PRIVILEGED for each in (*changed, *gone)):
            self.vouched()
        return await self.world.commit(who, changed, gone, **more)

    def _told(self, who: Principal, resource: AnyResource, code: str, **values: Value) -> Event:
        return Event(
            at=self.world.clock.now(),
            actor=who.actor,
            code=code,
            kind=resource.kind,
            project=resource.project,
            name=resource.name,
            uid=resource.uid,
            values=values,
        )


def _untold(_done: int, _of: int) -> None:
    """Take progress that nobody waits for."""
