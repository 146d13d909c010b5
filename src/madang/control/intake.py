"""What people ask for: apply, delete, keys, models. Every call takes a Principal and checks it.

People write specs; this is the only door by which a spec changes.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from madang.control.world import World
from madang.errors import Conflict, Forbidden, NotFound, Rejected, Value
from madang.planning.action import Action
from madang.planning.preview import Change, follow, telling, wish
from madang.planning.snapshot import Seen
from madang.ports import Random
from madang.resources.event import Event
from madang.resources.kinds import KINDS
from madang.resources.manifest import MANIFESTS_MAX, Manifest, read
from madang.resources.model import Model, ModelSpec, ModelStatus, ModelVersion, split_model
from madang.resources.resource import AnyResource, Ref
from madang.resources.service import Service
from madang.resources.tenancy import Empty, Key, KeySpec, Organization, Principal, Project, Role

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)."""
Import = Callable[[str, Progress], ModelVersion]
"""(source, progress) -> what was read, with number 0. Blocks, in a thread."""

T = TypeVar("T")

ATTEMPTS_MAX = 8
"""How often a person's write is tried against a world that keeps changing."""
IMPORTS_MAX = 2
"""Models read at the same time."""
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` changed, or would change, and what follows from it."""

    changes: tuple[Change, ...]
    follows: tuple[Action, ...]


class Intake:
    """The door for people."""

    def __init__(
        self, world: World, seen: Callable[[], Seen], load: Import, random: Random
    ) -> None:
        self.world = world
        self.seen = seen
        self.load = load
        self.random = random
        self._imports = asyncio.Semaphore(IMPORTS_MAX)
        self._turn = asyncio.Lock()

    def find(self, who: Principal, kind: str, ref: Ref) -> AnyResource:
        """Return what this caller may see; `NotFound` for what is absent and for others' alike."""
        found = self.world.list(kind).get(ref)
        if found is None or not who.sees(found.project):
            raise NotFound("resource.missing", f"{kind}/{ref.name}", project=ref.project)
        return found

    def list(self, who: Principal, kind: str, project: str | None) -> list[AnyResource]:
        """Return what this caller may see of a kind, in one project or in all."""
        return [
            resource
            for ref, resource in sorted(self.world.list(kind).items())
            if who.sees(resource.project) and project in {None, resource.project}
        ]

    async def apply(
        self, who: Principal, documents: Sequence[object], project: str, *, dry_run: bool
    ) -> Applied:
        """Make the world as the documents say, all of them or none."""
        if len(documents) > MANIFESTS_MAX:
            raise Rejected("manifest.too-many", count=len(documents), limit=MANIFESTS_MAX)
        manifests = [read(document, project) for document in documents]
        for manifest in manifests:
            self._allow(who, manifest)
        versions: dict[Ref, ModelVersion] = {}
        for manifest in manifests:
            if isinstance(manifest.spec, ModelSpec) and not dry_run:
                versions[manifest.ref] = await self._load(manifest.spec.source, _untold)
        return await self._again(lambda: self._apply(who, manifests, versions, dry_run=dry_run))

    async def _again(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try once more from the newest state while control writes statuses in between.

        One person's checks and writes at a time: nothing is deleted while something else is made
        to stand on it.
        """
        for _ in range(ATTEMPTS_MAX - 1):
            try:
                async with self._turn:
                    return await attempt()
            except Conflict as error:
                if error.code != "store.stale":
                    raise
        async with self._turn:
            return await attempt()

    async def _apply(
        self,
        who: Principal,
        manifests: Sequence[Manifest],
        versions: Mapping[Ref, ModelVersion],
        *,
        dry_run: bool,
    ) -> Applied:
        snapshot = self.world.snapshot(self.seen())
        changes = [wish(m, snapshot, f"{m.kind}-{self.random.token(8)}") for m in manifests]
        for change in changes:
            self._check(change, changes)
        _, planned = await asyncio.to_thread(follow, snapshot, changes)
        applied = Applied(tuple(changes), telling(planned, changes))
        if not dry_run:
            await self._write(who, changes, versions)
        return applied

    async def _write(
        self, who: Principal, changes: Sequence[Change], versions: Mapping[Ref, ModelVersion]
    ) -> None:
        """Write all changes, models with the versions that were read, in one commit."""
        fresh, events = [], []
        for change in changes:
            resource = change.resource
            if change.what == "unchanged":
                continue
            if isinstance(resource, Model):
                resource = self._grown(resource.ref, resource.spec.source, versions[resource.ref])
            fresh.append(resource)
            events.append(self._told(who, resource, f"{resource.kind}.{change.what}d"))
        if fresh:
            await self.world.commit(fresh, events=events)

    def _allow(self, who: Principal, manifest: Manifest) -> None:
        if manifest.kind in {"organization", "project"}:
            self._operators_only(who, manifest.subject)
        elif not who.may_write(manifest.ref.project):
            _refuse_write(who, manifest.subject, manifest.ref.project)

    def _operators_only(self, who: Principal, subject: str) -> None:
        if who.role is not Role.OPERATOR:
            raise Forbidden("role.operator-needed", subject, role=who.role.value)

    def _check(self, change: Change, changes: Sequence[Change]) -> None:
        """Refuse what can't be applied to the world as it is, with the next step."""
        resource = change.resource
        subject = f"{resource.kind}/{resource.name}"
        if resource.deleted_at is not None:
            raise Conflict("resource.being-deleted", subject)
        if isinstance(resource, Project):
            owner = Ref("", resource.project.partition("/")[0])
            self._need(Organization, owner, subject, changes)
        elif resource.scoped:
            home = Ref(resource.project, resource.project.partition("/")[2])
            self._need(Project, home, subject, changes)
        if isinstance(resource, Service):
            name, number = split_model(resource.spec.model)
            model = self.world.get(Model, Ref(resource.project, name))
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
        if self.world.get(kind, ref) is None and not coming:
            raise NotFound(f"{kind.kind}.missing", subject, name=ref.project or ref.name)

    async def delete(self, who: Principal, kind: str, ref: Ref) -> AnyResource:
        """Take something down; services go politely, the rest at once if nothing needs it."""
        found = self.find(who, kind, ref)
        subject = f"{kind}/{ref.name}"
        if kind in {"organization", "project"}:
            self._operators_only(who, subject)
        elif not who.may_write(found.project):
            _refuse_write(who, subject, found.project)
        return await self._again(lambda: self._delete(who, self.find(who, kind, ref)))

    async def _delete(self, who: Principal, found: AnyResource) -> AnyResource:
        if isinstance(found, Service):
            if found.deleted_at is not None:
                return found
            going: AnyResource = found.model_copy(update={"deleted_at": self.world.clock.now()})
            event = self._told(who, going, "service.delete-asked")
            return (await self.world.commit([going], events=[event]))[0]
        self._check_free(found, f"{found.kind}/{found.name}")
        event = self._told(who, found, f"{found.kind}.deleted")
        return (await self.world.commit(gone=[found], events=[event]))[0]

    def _check_free(self, found: AnyResource, subject: str) -> None:
        """Refuse to delete what something else stands on, or what control alone may remove."""
        if found.kind not in {"model", "key", "build", "project", "organization"}:
            raise Rejected("resource.follows-others", subject, kind=found.kind)
        users = sorted(_users(found, self.world))
        if users:
            raise Conflict("resource.in-use", subject, by=", ".join(users[:5]), count=len(users))

    async def create_key(
        self, who: Principal, ref: Ref, role: Role, expires_s: float | None
    ) -> tuple[str, AnyResource]:
        """Make a key and return its secret, which is kept nowhere."""
        subject = f"key/{ref.name}"
        if not who.may_write(ref.project):
            _refuse_write(who, subject, ref.project)
        if role in {Role.OPERATOR, Role.AUDITOR} and who.role is not Role.OPERATOR:
            raise Forbidden("role.above-own", subject, role=who.role.value, wanted=role.value)
        self._need(Project, Ref(ref.project, ref.project.partition("/")[2]), subject, ())
        if self.world.get(Key, ref):
            raise Conflict("resource.exists", subject)
        now = self.world.clock.now()
        uid = f"key-{self.random.token(8)}"
        secret = new_secret(self.random)
        expires_at = None if expires_s is None else now + expires_s
        key = make_key(ref, uid, secret, role, now).model_copy(
            update={"spec": KeySpec(
                role=role, digest=digest(secret), home=ref.project, expires_at=expires_at
            )}
        )  # fmt: skip
        stored = await self.world.commit([key], events=[self._told(who, key, "key.created")])
        return secret, stored[0]

    def check_add_model(self, who: Principal, ref: Ref) -> None:
        """Refuse whoever may not have the server read a file for that project."""
        subject = f"model/{ref.name}"
        if not who.may_write(ref.project):
            _refuse_write(who, subject, ref.project)
        self._operators_only(who, subject)
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
        grown = self._grown(ref, source, version)
        if grown is self.world.get(Model, ref):
            return grown
        number = grown.status.versions[-1].number
        event = self._told(who, grown, "model.imported", version=number)
        return (await self.world.commit([grown], events=[event]))[0]

    def _grown(self, ref: Ref, source: str, version: ModelVersion) -> Model:
        """Return the model with this version as its newest; as it is, if it has these bytes."""
        before = self.world.get(Model, ref)
        if before and any(v.digest == version.digest for v in before.status.versions):
            return before
        now = self.world.clock.now()
        spec = ModelSpec(source=source)
        model = before or Model(
            project=ref.project,
            name=ref.name,
            uid=f"model-{self.random.token(8)}",
            created_at=now,
            spec=spec,
            status=ModelStatus(),
        )
        number = len(model.status.versions) + 1
        numbered = version.model_copy(update={"number": number, "imported_at": now})
        status = ModelStatus(versions=(*model.status.versions, numbered))
        generation = model.generation + (before is not None)
        return model.model_copy(update={"spec": spec, "generation": generation, "status": status})

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


def _refuse_write(who: Principal, subject: str, project: str) -> NoReturn:
    """Refuse a write: as absent where the project isn't the caller's, as forbidden where it is."""
    if not who.sees(project):
        raise NotFound("project.missing", subject, name=project)
    raise Forbidden("role.member-needed", subject, role=who.role.value)


def _users(found: AnyResource, world: World) -> list[str]:
    """Return what would break without it."""
    if found.kind == "model":
        return [
            f"service/{ref.name}"
            for ref, service in world.list("service").items()
            if ref.project == found.project and split_model(service.spec.model)[0] == found.name
        ]
    if found.kind == "project":
        inside = (k for k, v in KINDS.items() if v.scoped and k != "project")
        return [
            f"{kind}/{ref.name}"
            for kind in inside
            for ref in world.list(kind)
            if ref.project == found.project
        ]
    if found.kind == "organization":
        projects = world.list("project")
        return [
            f"project/{ref.name}" for ref in projects if ref.project.partition("/")[0] == found.name
        ]
    if found.kind == "build":
        judged = {found.status.replica} if found.status.judged_at is None else set()
        return [f"replica/{r.name}" for r in world.list("replica").values() if r.uid in judged]
    return []


def new_secret(random: Random) -> str:
    """Return a new key, as its owner will hold it."""
    return f"mdg_{random.token(KEY_BYTES)}"


def digest(secret: str) -> str:
    """Return what is stored of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def make_key(ref: Ref, uid: str, secret: str, role: Role, now: float) -> Key:
    """Return a key that does not expire."""
    spec = KeySpec(role=role, digest=digest(secret), home=ref.project)
    return Key(
        project=ref.project, name=ref.name, uid=uid, created_at=now, spec=spec, status=Empty()
    )


class Keys:
    """Finds a key by its secret, in one look-up."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._source: object = None
        self._by_digest: dict[str, Key] = {}

    def find(self, secret: str) -> Key | None:
        """Return the key with this secret, unless it has expired."""
        keys = self.world.list("key")
        if keys is not self._source:
            self._by_digest = {k.spec.digest: k for k in keys.values() if isinstance(k, Key)}
            self._source = keys
        key = self._by_digest.get(digest(secret))
        if key is None or key.spec.expires_at is None:
            return key
        return key if self.world.clock.now() < key.spec.expires_at else None
