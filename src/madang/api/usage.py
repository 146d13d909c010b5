"""What projects have had of accelerators and used of them; and how what rests is had go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import date, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Response

from madang.api.desk import AtDesk, Caller, Desk, Project, Reader, ref_of
from madang.api.once import Asking, once
from madang.control.steering import resumed
from madang.months import day_number, first_of, next_month
from madang.planning.snapshot import Snapshot
from madang.planning.use.idle import Owner, told_of, warning_of
from madang.planning.use.metering import ProjectUse, used_by
from madang.planning.use.unused import warning_of as unused_warning
from madang.resources.bill import By, Used
from madang.resources.month import month_of
from madang.resources.resource import AnyResource, Frozen, Reason
from madang.resources.rights import CONTROL, Principal, Right
from madang.resources.service import Service, rates_of
from madang.resources.tariff import KindRates, Rates
from madang.resources.tenancy import Project as ProjectKind
from madang.traffic.price import MICRO

router = APIRouter(prefix="/api/v1")
EPOCH = date(1970, 1, 1)
Month = Annotated[
    str, Query(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$", description="as 2026-11; now if none")
]


class UsageOf(Frozen):
    """What the caller's projects have had in one month."""

    month: str
    items: tuple[ProjectUse, ...]


class TokenUse(Frozen):
    """What a project used of models and pays for, on a day, of one model or by one key."""

    project: str
    day: str = ""
    """As 2026-11-27, of Korea."""
    model: str = ""
    key: str = ""
    key_uid: str = ""
    requests: int
    estimated: int
    """Of these, so many whose tokens were counted as they passed."""
    prompt_tokens: int
    cached_tokens: int
    """A part of the prompt's."""
    output_tokens: int
    krw: float
    """Exact to a millionth."""
    wh: float
    """Watt hours, estimated by rated power; of what nobody knows nothing."""


class Priced(Frozen):
    """What tokens of a service cost now, and draw."""

    project: str
    name: str
    is_derived: bool
    """From what its accelerators cost, not written in its file."""
    krw: Rates | None
    """Won per million; None: nothing."""
    since: str = ""
    """Of one that is derived the day that it holds for, as 2026-11-27, of Korea."""
    kinds: tuple[KindRates, ...] = ()


class UsageAll(UsageOf):
    """And what they used of models."""

    by: By
    tokens: tuple[TokenUse, ...]
    prices: tuple[Priced, ...]
    """Of services that the caller sees and somebody has asked, or that cost something."""


@router.get("/usage")
async def usage(
    who: Reader,
    desk: AtDesk,
    project: Project = None,
    month: Month | None = None,
    by: By = "model",
) -> UsageAll:
    """Return accelerator hours held, used and idle, and tokens used, and what they cost."""
    desk.intake.look(who, project)
    had = usage_of(who, desk, project, month)
    days = _days_of(int(had.month.replace("-", "")))
    lines = await desk.world.store.used(who, days, project, by)
    return UsageAll(
        month=had.month, items=had.items, by=by, tokens=tuple(_told(each, by) for each in lines),
        prices=tuple(_prices(desk.intake.list(who, Service.kind, project))),
    )  # fmt: skip


def _prices(services: Iterable[AnyResource]) -> Iterator[Priced]:
    for each in services:
        if not isinstance(each, Service):
            continue
        tariff, krw = each.status.tariff, rates_of(each)
        if tariff is None and krw is None:
            continue
        is_derived = each.spec.price is None and krw is not None
        yield Priced(
            project=each.project, name=each.name, krw=krw, is_derived=is_derived,
            since=_day(tariff.day) if tariff and is_derived else "",
            kinds=tariff.kinds if tariff else (),
        )  # fmt: skip


def _day(day: int) -> str:
    return (EPOCH + timedelta(days=day)).isoformat()


def _days_of(number: int) -> range:
    """Return the days of a month, as 202611, counted from 1970."""
    year, month = divmod(number, 100)
    return range(
        *(day_number(first_of(*each)) for each in ((year, month), next_month(year, month)))
    )


def _told(used: Used, by: By) -> TokenUse:
    body = asdict(used)
    day, krw, wh = body.pop("day"), body.pop("micro_krw"), body.pop("micro_wh")
    return TokenUse(**body, day=_day(day) if by == "day" else "", krw=krw / MICRO, wh=wh / MICRO)


class Warned(Frozen):
    """Something that is warned of since its accelerators stand idle."""

    kind: str
    project: str
    name: str
    reason: Reason


def warned_of(who: Principal, snapshot: Snapshot) -> tuple[Warned, ...]:
    """Return what of the caller's stands idle, with what becomes of it and when."""
    holders: list[Owner] = [*snapshot.living, *snapshot.replicas.values()]
    found: list[tuple[AnyResource, Reason | None]] = [
        *((told_of(each, snapshot), warning_of(each, snapshot)) for each in holders),
        *((each, unused_warning(each, snapshot)) for each in snapshot.grants.values()),
    ]
    warned = {
        told.uid: Warned(kind=told.kind, project=told.project, name=told.name, reason=why)
        for told, why in found
        if why and who.sees(told.project)
    }
    return tuple(sorted(warned.values(), key=lambda each: (each.kind, each.project, each.name)))


def usage_of(who: Principal, desk: Desk, project: str | None, month: str | None) -> UsageOf:
    """Return what one project, or each that the caller sees, has had in a month."""
    snapshot = desk.world.snapshot(CONTROL, desk.observer.seen())
    number = month_of(snapshot.now).number if month is None else int(month.replace("-", ""))
    found = desk.intake.list(who, ProjectKind.kind, project)
    own = [each for each in found if isinstance(each, ProjectKind)]
    return UsageOf(
        month=f"{number // 100:04}-{number % 100:02}", items=used_by(own, number, snapshot)
    )


@router.post("/job/{name}/resume")
async def resume_job(
    who: Caller, desk: AtDesk, name: str, ask: Asking, project: Project = None
) -> Response:
    """Let a job go on that was suspended, by its owner or for standing idle."""
    return await _resume(who, desk, "job", name, (ask, project))


@router.post("/service/{name}/resume")
async def resume_service(
    who: Caller, desk: AtDesk, name: str, ask: Asking, project: Project = None
) -> Response:
    """Let a service have all its replicas again that it lost for standing idle."""
    return await _resume(who, desk, "service", name, (ask, project))


async def _resume(
    who: Principal, desk: Desk, kind: str, name: str, how: tuple[Asking, str | None]
) -> Response:
    ask, project = how
    ref = ref_of(who, kind, name, project)
    desk.intake.find(who, kind, ref)

    async def act() -> AnyResource:
        return await desk.intake.steer(who, kind, ref, resumed, Right.WRITE)

    return await once(desk, who, ask, act, lambda found: found.shown())
