"""Every route under /api/v1, in the order of the documentation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import Field, Strict

from madang.api.desk import (
    WAIT_S_MAX,
    AtDesk,
    Auditor,
    Caller,
    Desk,
    Kind,
    Operator,
    Project,
    Reader,
    SiteAuditor,
    ref_of,
)
from madang.api.once import Asking, answered, once
from madang.api.shown import shown
from madang.api.spent import with_spent
from madang.api.usage import usage_of, warned_of
from madang.control.doctor import examine, examine_models, examine_store
from madang.control.first import PROJECT
from madang.control.intake import Applied, Revoked
from madang.control.keys import Wanted
from madang.control.once import Answer, Ask, written
from madang.control.report import report
from madang.control.rotating import OVERLAP_S_MAX, Means, rotating, rotation_of
from madang.control.steering import emptied, released
from madang.errors import MadangError, NotFound
from madang.planning.explain import Explanation, explain
from madang.planning.memo import Memo
from madang.planning.wishes import waiter_of, wished
from madang.resources.event import Event
from madang.resources.job import Job
from madang.resources.replica import Replica
from madang.resources.resource import AnyResource, Frozen, Name, Place, Ref
from madang.resources.rights import CONTROL, Grant, Principal, Right, Role
from madang.resources.serving import UNBOUND, Serving
from madang.resources.tenancy import KEY_MODELS_MAX, ModelName
from madang.twin.forward import expected
from madang.twin.record import Record

router = APIRouter(prefix="/api/v1")

Wait = Annotated[float, Query(ge=0, le=WAIT_S_MAX, description="seconds to wait for something")]
Revision = Annotated[int, Query(ge=0, le=2**53)]
LINES_MAX = 1000
CHECK_S = 5.0
"""How often it is looked whether whoever waits for an import still may."""


class Apply(Frozen):
    """What `madang apply` sends."""

    documents: list[Any]
    project: Place = ""
    dry_run: Annotated[bool, Strict()] = False


class NewModel(Frozen):
    """What `madang model add` sends."""

    name: Name
    source: str = Field(min_length=1, max_length=4096)
    project: Place = ""


class NewKey(Frozen):
    """What `madang key create` sends."""

    name: Name
    role: Role = Role.MEMBER
    project: Place = ""
    where: Place | None = None
    """Where its rights hold; by default its project, an operator's or auditor's as the caller's."""
    scopes: list[Right] = []
    user: Place = ""
    expires_s: float | None = Field(default=None, gt=0, le=10**9, strict=True)
    limits: Serving = UNBOUND
    models: Annotated[list[ModelName], Field(max_length=KEY_MODELS_MAX)] = []


class Rotate(Frozen):
    """What `madang key rotate` sends."""

    overlap_s: float = Field(default=0.0, ge=0, le=OVERLAP_S_MAX, strict=True)
    """For so long the secret before this one opens as much."""


class Drain(Frozen):
    """What `madang drain` and `madang uncordon` send."""

    drain: Annotated[bool, Strict()] = True


@router.get("/whoami")
async def whoami(who: Caller) -> dict[str, Any]:
    """Tell who is calling, and what they may do where."""
    return {
        "actor": who.actor,
        "role": who.role,
        "project": who.project,
        "where": who.where,
        "rights": sorted(who.rights),
        "user": who.user,
    }


@router.get("/status")
async def status(who: Reader, desk: AtDesk) -> dict[str, Any]:
    """Return everything at a glance, as far as the caller may see it."""
    seen = desk.observer.seen()
    now = desk.world.snapshot(CONTROL, seen)
    pools = shown(desk.world, desk.intake.list(who, "pool", None))
    return {
        **desk.where(),
        **report(who, desk.world, desk.intake, seen),
        "accelerators": usage_of(who, desk, None, None).model_dump(mode="json"),
        "idle": [each.model_dump(mode="json") for each in warned_of(who, now)],
        "pools": [{"name": each["name"], **each["spec"], **each["status"]} for each in pools],
    }


@router.get("/doctor")
async def doctor(_who: Operator, desk: AtDesk) -> dict[str, Any]:
    """Examine this Madang, and say for each finding whether it is well."""
    findings = examine(desk.world, desk.observer.seen(), desk.gateways, desk.notary, desk.backups)
    findings += await examine_store(desk.world)
    models = list(desk.world.list(CONTROL, "model").values())
    findings += await asyncio.to_thread(examine_models, models, desk.blobs, desk.world.clock)
    return {"items": [finding.model_dump(mode="json") for finding in findings]}


@router.get("/snapshot", response_class=Response)
async def snapshot(_who: SiteAuditor, desk: AtDesk) -> Response:
    """Return what planning sees now and its plan, as `madang twin` reads it."""
    now = desk.world.snapshot(CONTROL, desk.observer.seen())
    text = await asyncio.to_thread(lambda: Record.of(now).text())
    return Response(text, media_type="application/json")


@router.post("/apply")
async def apply(who: Caller, desk: AtDesk, asked: Apply, ask: Asking) -> Response:
    """Make the world as the documents say: all of them, or none."""

    async def act() -> Applied:
        project = asked.project or who.project or PROJECT
        return await desk.intake.apply(who, asked.documents, project, dry_run=asked.dry_run)

    return await once(desk, who, Ask() if asked.dry_run else ask, act, _applied)


def _applied(applied: Applied) -> dict[str, Any]:
    return {
        "changes": [
            {
                "what": change.what,
                "kind": change.resource.kind,
                "project": change.resource.project,
                "name": change.resource.name,
                "fields": list(change.fields),
            }
            for change in applied.changes
        ],
        "follows": [
            {
                "verb": action.verb,
                "subject": f"{action.subject.kind}/{action.subject.name}",
                "reason": action.reason.model_dump(mode="json"),
                "smallest_fix": action.fix and action.fix.model_dump(mode="json"),
            }
            for action in applied.follows
        ],
    }


@router.get("/changes")
async def changes(
    who: Reader, desk: AtDesk, after: Revision, wait_s: Wait = 0.0,
    kind: Kind | None = None, project: Project = None,
) -> dict[str, Any]:  # fmt: skip
    """Return what changed after a revision, as soon as there is something (long poll)."""
    desk.intake.look(who, project)
    deadline = desk.world.clock.monotonic() + wait_s
    while True:
        tick = desk.world.tick
        changed = await desk.world.store.changes(who, after) if desk.world.revision > after else ()
        newest = max((r.resource_version for r, _ in changed), default=after)
        items = [
            {"gone": gone, "resource": shown(desk.world, [resource])[0]}
            for resource, gone in changed
            if kind in {None, resource.kind} and project in {None, resource.project}
        ]
        left_s = desk.world.left_s(deadline)
        if items or left_s <= 0:
            return {"revision": newest, "items": items}
        after = newest
        if not changed:
            await desk.world.moved(tick, left_s)
            desk.check(who)


@router.get("/event")
async def events(
    who: Reader, desk: AtDesk, after: Revision = 0, wait_s: Wait = 0.0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200, project: Project = None,
) -> dict[str, list[Event]]:  # fmt: skip
    """Return events after a sequence number, as soon as there are some (long poll)."""
    desk.intake.look(who, project)
    deadline = desk.world.clock.monotonic() + wait_s
    while True:
        tick = desk.world.tick
        found = await desk.world.store.events(who, after, limit, project)
        left_s = desk.world.left_s(deadline)
        if found or left_s <= 0:
            return {"items": list(found)}
        await desk.world.moved(tick, left_s)
        desk.check(who)


@router.get("/audit")
async def audit(
    who: Auditor, desk: AtDesk, after: Revision = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> dict[str, Any]:  # fmt: skip
    """Return audit records of the caller's place after a number, and which state they are of."""
    items = await desk.world.store.audit(who, after, limit)
    return {"store": desk.world.store.id, "where": who.where, "items": list(items)}


@router.post("/model")
async def add_model(who: Caller, desk: AtDesk, asked: NewModel, ask: Asking) -> StreamingResponse:
    """Read a model's files on the server; lines of progress, then the model or an error."""
    ref = Ref(asked.project or who.project or PROJECT, asked.name)
    desk.intake.check_add_model(who, ref)
    lines = _import(who, desk, (ref, asked.source), ask)
    return StreamingResponse(lines, media_type="application/x-ndjson")


async def _import(
    who: Principal, desk: Desk, wanted: tuple[Ref, str], ask: Ask
) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    done: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()

    def progress(so_far: int, total: int) -> None:
        loop.call_soon_threadsafe(done.put_nowait, (so_far, total))

    async def act() -> AnyResource:
        return await desk.intake.add_model(who, *wanted, progress)

    work = desk.once.answer(who, ask, act, lambda model: {"resource": model.shown()})
    task = asyncio.create_task(work)
    task.add_done_callback(lambda _task: done.put_nowait(None))
    step: tuple[int, int] | None = (0, 0)
    try:
        while (step := await _next(done, step)) is not None:
            desk.check(who)
            yield json.dumps({"bytes": step[0], "of": step[1]}) + "\n"
        yield (await task).content + "\n"
    except MadangError as error:
        told = {
            "code": error.code, "subject": error.subject, "values": error.values,
            "status": error.http_status,
        }  # fmt: skip
        yield json.dumps({"error": told}) + "\n"
    finally:
        task.cancel()


async def _next(
    done: asyncio.Queue[tuple[int, int] | None], last: tuple[int, int] | None
) -> tuple[int, int] | None:
    """Return the next step; the last one again after a while, so that somebody looks."""
    try:
        async with asyncio.timeout(CHECK_S):
            return await done.get()
    except TimeoutError:
        return last


@router.post("/key")
async def create_key(who: Caller, desk: AtDesk, asked: NewKey, ask: Asking) -> Response:
    """Make an api key. Its secret is in this answer and nowhere else."""
    ref = Ref(asked.project or who.project or PROJECT, asked.name)
    wanted = Wanted(
        ref, _granted(who, ref, asked), asked.user, asked.expires_s, limits=asked.limits,
        models=tuple(asked.models),
    )  # fmt: skip
    secret_of = desk.once.secret_of(ask)

    async def act() -> AnyResource:
        return await desk.intake.create_key(who, wanted, secret_of)

    answer = await desk.once.answer(who, ask, act, lambda key: {"key": "", "resource": key.shown()})
    body = json.loads(answer.content)
    body["key"] = secret_of(body["resource"]["uid"])
    return answered(Answer(written(body), answer.again))


@router.post("/key/{name:path}/rotate")
async def rotate_key(
    who: Caller, desk: AtDesk, name: str, asked: Rotate, ask: Asking, project: Project = None
) -> Response:
    """Give a key another secret, told here and nowhere else; the one before it opens on a while."""
    ref, secret_of = ref_of(who, "key", name, project), desk.once.secret_of(ask)

    async def act() -> Sequence[AnyResource]:
        means = Means(secret_of, desk.home.admin_key)
        deed = rotating(who, ref, desk.keys, asked.overlap_s, means)
        return await desk.intake.act(who, "key", ref, deed)

    answer = await desk.once.answer(who, ask, act, lambda k: {"key": "", "resource": k[0].shown()})
    body = json.loads(answer.content)
    made = body["resource"]
    body["key"] = secret_of(rotation_of(made["uid"], made["generation"]))
    return answered(Answer(written(body), answer.again))


def _granted(who: Principal, ref: Ref, asked: NewKey) -> Grant:
    wide = asked.role in {Role.OPERATOR, Role.AUDITOR}
    where = (who.where if wide else ref.project) if asked.where is None else asked.where
    return Grant(role=asked.role, where=where, scopes=frozenset(asked.scopes))


@router.post("/node/{name}/drain")
async def drain_node(who: Operator, desk: AtDesk, name: str, asked: Drain, ask: Asking) -> Response:
    """Have a node emptied: nothing new there, and what is there moves; or use it again."""

    async def act() -> AnyResource:
        return await desk.intake.steer(who, "node", Ref("", name), emptied(asked.drain))

    return await once(desk, who, ask, act, lambda node: node.shown())


@router.get("/process/{name}/logs")
async def process_logs(
    _who: Operator, desk: AtDesk, name: str, lines: Annotated[int, Query(ge=1, le=LINES_MAX)] = 100
) -> dict[str, Any]:
    """Return the last lines that a part of Madang printed."""
    if name not in desk.observer.seen().processes:
        raise NotFound("resource.missing", f"process/{name}", project="")
    node = next(iter(desk.launchers))
    return {"items": [{"replica": name, "lines": await desk.launchers[node].tail(name, lines)}]}


@router.get("/{kind}")
async def list_resources(
    who: Reader, desk: AtDesk, kind: Kind, project: Project = None
) -> dict[str, Any]:
    """Return every resource of a kind that the caller may see."""
    found = desk.intake.list(who, kind, project)
    items = await with_spent(desk.world, found, shown(desk.world, found))
    return {"revision": desk.world.revision, "items": items}


@router.get("/{kind}/{name:path}/explanation")
async def explanation(
    who: Caller, desk: AtDesk, kind: Kind, name: str, project: Project = None
) -> Explanation:
    """Say why a resource is as it is, and the smallest change that would help."""
    found = desk.intake.find(who, kind, ref_of(who, kind, name, project))
    snapshot = desk.world.snapshot(CONTROL, desk.observer.seen())
    memo, waiter = Memo(), waiter_of(found, snapshot)
    said = explain(found, snapshot, memo)
    if waiter is None:
        return said
    async with desk.trials:
        order = memo.order(snapshot)
        said = await asyncio.to_thread(wished, said, waiter, snapshot, memo)
        if not isinstance(found, Job) or said.ahead is None:
            return said
        when = await asyncio.to_thread(expected, found, snapshot, order)
    return said.model_copy(update={"expected": when})


@router.get("/{kind}/{name:path}/logs")
async def logs(
    who: Caller, desk: AtDesk, kind: Kind, name: str, project: Project = None,
    lines: Annotated[int, Query(ge=1, le=LINES_MAX)] = 100,
) -> dict[str, Any]:  # fmt: skip
    """Return the last lines of a replica, or of every replica of a service."""
    found = desk.intake.find(who, kind, ref_of(who, kind, name, project))
    return {
        "items": [
            {"replica": replica.name, "lines": await _tail(desk, replica, lines)}
            for replica in _replicas(who, desk, found)
        ]
    }


def _replicas(who: Principal, desk: Desk, found: AnyResource) -> list[Replica]:
    return [
        replica
        for ref, replica in sorted(desk.world.list(who, "replica").items())
        if isinstance(replica, Replica)
        and ref.project == found.project
        and found.name
        == {
            "replica": ref.name,
            "service": replica.spec.service,
            "revision": replica.spec.revision,
        }.get(found.kind)
    ]


async def _tail(desk: Desk, replica: Replica, lines: int) -> list[str]:
    launcher = desk.launchers.get(replica.status.node)
    told = await launcher.tail(replica.uid, lines) if launcher else ()
    return list(told or replica.status.last_lines)


@router.get("/{kind}/{name:path}")
async def get_resource(
    who: Caller, desk: AtDesk, kind: Kind, name: str, project: Project = None
) -> dict[str, Any]:
    """Return one resource."""
    found = desk.intake.find(who, kind, ref_of(who, kind, name, project))
    return (await with_spent(desk.world, [found], shown(desk.world, [found])))[0]


@router.post("/accelerator/{name}/release")
async def release_accelerator(who: Caller, desk: AtDesk, name: str, ask: Asking) -> Response:
    """Have a fenced accelerator offered again; refused while what it shows speaks against it."""

    async def act() -> AnyResource:
        now = lambda: desk.world.snapshot(CONTROL, desk.observer.seen())  # noqa: E731
        return await desk.intake.steer(who, "accelerator", Ref("", name), released(now))

    return await once(desk, who, ask, act, lambda going: going.shown())


@router.delete("/key/{name:path}")
async def revoke_key(
    who: Caller, desk: AtDesk, name: str, ask: Asking, project: Project = None,
    made: Annotated[bool, Query(description="with all that it made, in one transaction")] = False,
) -> Response:  # fmt: skip
    """Make a key worthless; say which keys that it made are revoked along, or still alive."""

    async def act() -> Revoked:
        return await desk.intake.revoke_key(who, ref_of(who, "key", name, project), made=made)

    return await once(desk, who, ask, act, _revoked)


def _revoked(done: Revoked) -> dict[str, Any]:
    named = {"along": done.along, "alive": done.alive}
    lists = {
        what: [{"project": key.project, "name": key.name} for key in keys]
        for what, keys in named.items()
    }
    return {**done.key.shown(), **lists}


@router.delete("/{kind}/{name:path}")
async def delete_resource(
    who: Caller, desk: AtDesk, kind: Kind, name: str, ask: Asking, project: Project = None
) -> Response:
    """Take a resource down: a service politely, anything else at once if nothing needs it."""

    async def act() -> AnyResource:
        return await desk.intake.delete(who, kind, ref_of(who, kind, name, project))

    return await once(desk, who, ask, act, lambda going: going.shown())
