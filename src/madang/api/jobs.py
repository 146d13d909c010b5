"""What can be asked of a job beside what it is: where it is, what it prints, how it goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from madang.api.desk import AtDesk, Caller, Desk, Project, ref_of
from madang.control.first import PROJECT
from madang.errors import NotFound
from madang.planning.attempts.course import Course, course
from madang.planning.sweeps import SweepCourse, sweep_course
from madang.resources.attempt import Attempt, member_uid
from madang.resources.job import Job
from madang.resources.resource import Frozen, Name, Place, Ref
from madang.resources.rights import CONTROL

RANKS_MAX = 65_536
LINES_MAX = 1000
Lines = Annotated[int, Query(ge=1, le=LINES_MAX)]
OneRank = Annotated[int | None, Query(ge=0, le=RANKS_MAX)]
router = APIRouter(prefix="/api/v1")


SecretText = Annotated[str, Field(min_length=1, max_length=32_768, pattern=r"^[^\x00]*$")]


class NewCode(Frozen):
    """What goes along with jobs: its digest first, and then itself where that is not known."""

    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    packed: str = Field(default="", max_length=4 << 20)
    project: Place = ""


@router.post("/code")
async def add_code(who: Caller, desk: AtDesk, asked: NewCode) -> dict[str, Any]:
    """Take in the program of a job, or tell whether it is there."""
    project = asked.project or who.project or PROJECT
    known = await desk.intake.add_code(who, project, asked.digest, asked.packed)
    return {"digest": asked.digest, "known": known}


class NewSecret(Frozen):
    """A text, and what jobs call it."""

    name: Name
    text: SecretText
    project: Place = ""


@router.post("/secret")
async def set_secret(who: Caller, desk: AtDesk, asked: NewSecret) -> dict[str, Any]:
    """Keep a text under a name; it is in no answer, and nowhere in the state."""
    ref = Ref(asked.project or who.project or PROJECT, asked.name)
    kept = await desk.intake.set_secret(who, ref, lambda uid: desk.secrets.put(uid, asked.text))
    return kept.shown()


@router.get("/job/{name}/course")
async def job_course(who: Caller, desk: AtDesk, name: str, project: Project = None) -> Course:
    """Say where a job is: its step, its speed, what it has saved and lost, and each rank."""
    found = desk.intake.find(who, "job", ref_of(who, "job", name, project))
    assert isinstance(found, Job)
    return course(found, desk.world.snapshot(CONTROL, desk.observer.seen()))


@router.get("/job/{name}/sweep")
async def job_sweep(
    who: Caller, desk: AtDesk, name: str, project: Project = None
) -> SweepCourse:  # fmt: skip
    """Say where a sweep is, and for each of its jobs which values it tries, and how far it is."""
    found = desk.intake.find(who, "job", ref_of(who, "job", name, project))
    assert isinstance(found, Job)
    return sweep_course(found, desk.world.snapshot(CONTROL, desk.observer.seen()))


@router.get("/job/{name}/progress")
async def job_progress(
    who: Caller, desk: AtDesk, name: str, project: Project = None,
    rank: Annotated[int, Query(ge=0, le=RANKS_MAX)] = 0,
    after: Annotated[int, Query(ge=0, description="bytes that are known already")] = 0,
) -> dict[str, Any]:  # fmt: skip
    """Return what one rank of the newest attempt has said of its progress, line by line."""
    found = desk.intake.find(who, "job", ref_of(who, "job", name, project))
    attempt = _newest(desk, found)
    node, member = _seat(found, attempt, rank)
    lines, end = await desk.launchers[node].progress(
        member_uid(attempt, member), attempt.spec.number, rank, after
    )
    return {"attempt": attempt.spec.number, "rank": rank, "lines": list(lines), "next": end}


def _newest(desk: Desk, job: Any) -> Attempt:
    ref = Ref(job.project, f"{job.name}-{job.status.attempt}")
    found = desk.world.get(CONTROL, Attempt, ref)
    if found is None:
        raise NotFound("job.no-attempt", f"job/{job.name}")
    return found


def _seat(job: Any, attempt: Attempt, rank: int) -> tuple[str, int]:
    """Return the node of a rank, and the number of the member that it is of."""
    member = rank // job.spec.ranks_per_node
    if member >= len(attempt.status.places):
        raise NotFound("job.no-rank", f"job/{job.name}", rank=rank, ranks=_count(job))
    return attempt.status.places[member].node, member


def _count(job: Any) -> int:
    return int(job.spec.nodes * job.spec.ranks_per_node)


@router.get("/job/{name}/logs")
async def job_logs(
    who: Caller, desk: AtDesk, name: str, project: Project = None, lines: Lines = 100,
    rank: OneRank = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the last lines that a job's newest attempt printed: one rank's, or all ranks'."""
    found = desk.intake.find(who, "job", ref_of(who, "job", name, project))
    return {"items": await _tails(desk, _newest(desk, found), lines, rank)}


@router.get("/attempt/{name}/logs")
async def attempt_logs(
    who: Caller, desk: AtDesk, name: str, project: Project = None, lines: Lines = 100,
    rank: OneRank = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the last lines that one attempt of a job printed: one rank's, or all ranks'."""
    found = desk.intake.find(who, "attempt", ref_of(who, "attempt", name, project))
    assert isinstance(found, Attempt)
    return {"items": await _tails(desk, found, lines, rank)}


async def _tails(
    desk: Desk, attempt: Attempt, lines: int, rank: int | None
) -> list[dict[str, Any]]:
    job = desk.world.get(CONTROL, Job, attempt.job)
    if job is None:
        return []
    if rank is not None:
        node, member = _seat(job, attempt, rank)
        told = await _tail(desk, node, member_uid(attempt, member), lines, rank)
        return [{"replica": f"{attempt.name}.{rank}", "lines": told}]
    return [
        {"replica": name, "lines": await _tail(desk, node, uid, lines, None)}
        for name, node, uid in _members(attempt)
    ]


def _members(attempt: Attempt) -> Iterator[tuple[str, str, str]]:
    is_alone = len(attempt.status.places) == 1
    for member, place in enumerate(attempt.status.places):
        name = attempt.name if is_alone else f"{attempt.name} ({place.node})"
        yield name, place.node, member_uid(attempt, member)


async def _tail(desk: Desk, node: str, uid: str, lines: int, rank: int | None) -> list[str]:
    """Return the last lines of one rank, or of all in the order in which they came."""
    launcher = desk.launchers.get(node)
    said = await launcher.printed(uid, lines, rank) if launcher else ()
    if len({line.rank for line in said}) < 2:
        return [line.text for line in said]
    return [f"{line.rank}| {line.text}" for line in said]
