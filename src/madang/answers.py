"""What the control API answers: its JSON objects, with their keys declared, and its refusals."""

from __future__ import annotations

import json
from typing import Any, NotRequired, TypedDict

from madang import errors
from madang.errors import MadangError, Rejected, Unavailable, Value

Json = dict[str, Any]


class Resource(TypedDict):
    """One object of the platform; `spec` and `status` depend on its kind (`madang schema`)."""

    kind: str
    project: str
    name: str
    uid: str
    generation: int
    resource_version: int
    created_at: float
    deleted_at: float | None
    spec: Json
    status: Json


class Revoked(Resource):
    """A key that was revoked, with keys that it made, as `project` and `name`."""

    along: list[Json]
    """Those that were revoked with it."""
    alive: list[Json]
    """Those that were not."""


class Reason(TypedDict):
    """A stable code and the values of its sentence."""

    code: str
    values: dict[str, Value]


class Listing(TypedDict):
    """Everything of one kind, as it was at that revision."""

    revision: int
    items: list[Resource]


class Change(TypedDict):
    """One object as it is now, or as it last was."""

    gone: bool
    resource: Resource


class Changes(TypedDict):
    """What changed up to that revision."""

    revision: int
    items: list[Change]


class Event(TypedDict):
    """One line of history."""

    seq: int
    at: float
    actor: str
    code: str
    kind: str
    project: str
    name: str
    uid: str
    values: dict[str, Value]


class AuditRecord(TypedDict):
    """One change or privileged act, in a chain of digests."""

    seq: int
    at: float
    actor: str
    by: str
    code: str
    kind: str
    project: str
    name: str
    uid: str
    values: dict[str, Value]
    before: Json | None
    after: Json | None
    digest: str


class AuditPage(TypedDict):
    """Some audit records, and what tells their state from every other."""

    store: str
    where: str
    """Empty: of the whole site; else of that place only."""
    items: list[AuditRecord]


class Planned(TypedDict):
    """What one document makes of what is there: `what` is create, update or unchanged."""

    what: str
    kind: str
    project: str
    name: str
    fields: list[str]


class Follow(TypedDict):
    """One action that follows from a change."""

    verb: str
    subject: str
    reason: Reason
    smallest_fix: Reason | None
    """Of what has to wait: a change that was tried."""


class Applied(TypedDict):
    """What `apply` changes, and what follows from it."""

    changes: list[Planned]
    follows: list[Follow]


class Expected(TypedDict):
    """When something that waits would start, by trials; Unix seconds, None where not seen."""

    likely_at: float | None
    late_at: float | None
    looked_until: float | None
    learnt: int


class Explanation(TypedDict):
    """Why something is as it is, and in turn what it waits for."""

    subject: str
    phase: str
    reason: Reason | None
    since: float
    next_try: float | None
    smallest_fix: Reason | None
    other_fixes: list[Reason]
    last_lines: list[str]
    findings: list[Reason]
    because: list[Explanation]
    ahead: int | None
    ahead_higher: int
    expected: Expected | None


class Log(TypedDict):
    """The last lines of one replica or process."""

    replica: str
    lines: list[str]


class RankCourse(TypedDict):
    """One rank of a job, as its node sees it now."""

    rank: int
    node: str
    step: int
    phase: str
    quiet_s: float
    exit_code: int | None
    metrics: dict[str, float]


class PastAttempt(TypedDict):
    """An attempt of a job that has ended without success."""

    number: int
    outcome: str | None
    nodes: list[str]
    first_step: int
    step: int
    run_s: float
    cause: Reason | None


class Course(TypedDict):
    """Where a job is."""

    name: str
    phase: str
    attempt: int
    attempts: int
    step: int
    total: int
    step_s: float
    left_s: float | None
    saved_step: int
    saved: str
    saved_bytes: int
    run_s: float
    lost_s: float
    goodput: float | None
    save_every_s: float
    write_s: float
    pool: str
    pool_faults: int
    pool_run_s: float
    reason: Reason | None
    cause: Reason | None
    ranks: list[RankCourse]
    history: list[PastAttempt]


class SweptCourse(TypedDict):
    """One job of a sweep."""

    name: str
    phase: str
    values: dict[str, Value]
    step: int
    total: int
    metrics: dict[str, float]
    reason: Reason | None


class SweepCourse(TypedDict):
    """Where a sweep is."""

    name: str
    phase: str
    count: int
    made: int
    counts: dict[str, int]
    reason: Reason | None
    jobs: list[SweptCourse]


class RankLines(TypedDict):
    """What one rank has said of its progress."""

    attempt: int
    rank: int
    lines: list[str]
    next: int


class Use(TypedDict):
    """What was had of accelerators: hours, won, and the part that was used of what was measured."""

    held_h: float
    used_h: float
    idle_h: float
    unmeasured_h: float
    used: float | None
    krw: int
    idle_krw: int


class KindUse(Use):
    """The same of one kind."""

    accelerator: str


class ProjectUse(Use):
    """What one project had in one month; and what its jobs lost since it is there."""

    project: str
    kinds: list[KindUse]
    lost_h: float
    goodput: float | None


class TokenUse(TypedDict):
    """What a project used of models and pays for: on a day, of a model or by a key."""

    project: str
    day: str
    """As 2026-11-27, of Korea."""
    model: str
    key: str
    key_uid: str
    requests: int
    estimated: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    krw: float
    wh: float


class Rates(TypedDict):
    """For a million tokens each: won, or watt hours."""

    input: float
    cached: float
    output: float


class KindRates(TypedDict):
    """What tokens take on one kind of accelerators."""

    pool: str
    accelerator: str
    hours: float
    tokens: int
    krw_per_hour: float
    wh: Rates | None


class Priced(TypedDict):
    """What tokens of a service cost now, and draw."""

    project: str
    name: str
    is_derived: bool
    krw: Rates | None
    since: str
    kinds: list[KindRates]


class Usage(TypedDict):
    """What projects had in one month, and used of models."""

    month: str
    items: list[ProjectUse]
    by: str
    tokens: list[TokenUse]
    prices: list[Priced]


class Outcome(TypedDict):
    """A round as it stands; amounts are accelerators."""

    name: str
    phase: str
    spec: Json
    total: int
    given: int
    free: int
    had: int
    promised: int
    sectors: list[Json]
    decisions: list[Json]
    """Oldest first; `rows` are the requests that the caller may see."""
    changed: list[str]
    appeals: list[str]


class NewKey(TypedDict):
    """A key's secret, told once."""

    key: str
    resource: Resource


class Check(TypedDict):
    """One thing that `doctor` looked at."""

    code: str
    ok: bool
    subject: str
    values: dict[str, Value]
    because: NotRequired[Reason | None]


class Message(TypedDict):
    """One turn of a conversation: `role` is system, user or assistant."""

    role: str
    content: str


_BY_STATUS: dict[int, type[MadangError]] = {
    kind.http_status: kind
    for kind in (
        errors.Rejected, errors.Unauthorized, errors.Forbidden, errors.NotFound,
        errors.Conflict, errors.Unavailable, errors.Corrupt,
    )
}  # fmt: skip


def parsed(content: bytes, url: str) -> Json:
    """Read a JSON object; raises `Unavailable` where whoever answers at `url` is not Madang."""
    try:
        said = json.loads(content)
    except ValueError as error:
        raise Unavailable("control.not-madang", url) from error
    if not isinstance(said, dict):
        raise Unavailable("control.not-madang", url)
    return said


def refusal(status: int, content: bytes, url: str) -> MadangError:
    """Build the error that a body tells of, in the API's shape or the gateway's (OpenAI's).

    The server's own sentence and hint are kept as notes, for codes that are newer than we are.
    """
    kind = _BY_STATUS.get(status) or (Rejected if status < 500 else Unavailable)
    said = parsed(content, url).get("error")
    if not isinstance(said, dict):
        return kind("control.not-madang", url)
    message = str(said.get("message") or "")
    if "values" not in said:
        return kind("gateway.refused", str(said.get("code") or status), message=message)
    error = kind(str(said["code"]), str(said.get("subject") or ""))
    error.values |= said["values"]
    for note in (message, said.get("hint") or ""):
        error.add_note(str(note))
    return error
