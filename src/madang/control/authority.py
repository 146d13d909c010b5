"""May they? Every permission that control gives or refuses is decided here."""

from __future__ import annotations

from madang.errors import Forbidden, NotFound, Rejected
from madang.resources import grant as grants
from madang.resources.job import Job, Priority
from madang.resources.resource import AnyResource
from madang.resources.rights import Grant, Principal, Right, held
from madang.resources.serving import Serving
from madang.resources.tenancy import Key, User

WRITE_RIGHTS = {
    "organization": Right.MANAGE,
    "project": Right.MANAGE,
    "user": Right.MANAGE,
    "site": Right.OPERATE,
    "pool": Right.OPERATE,
    "round": Right.OPERATE,
    "key": Right.KEYS,
}
"""What it takes to write a kind; `write` for every other."""

PRIVILEGED = frozenset({*WRITE_RIGHTS, "model", "job", "accelerator", "quota", "grant"})
"""Kinds whose writes hand out rights, say which data may lie where or that hardware is trusted
again, have control read files of the server, run there what somebody wrote, or set limits."""


def allow(who: Principal, right: Right, place: str, subject: str) -> None:
    """Return if the caller may; as absent where the place is others', as forbidden where not.

    Looks at places only, never at what is there, so both answers say nothing of it. The whole
    site is no secret: what lies there is forbidden to those of one place.
    """
    if place and not who.sees(place):
        raise NotFound("project.missing", subject, name=place)
    if not who.sees(place):
        raise Forbidden("role.site-needed", subject, where=who.where)
    if not who.may(right, place):
        raise Forbidden("role.right-needed", subject, right=right, role=who.role)


def allow_write(who: Principal, kind: str, place: str, subject: str) -> None:
    """Return if the caller may write a thing of that kind at that place."""
    if kind == "quota":
        allow_quota(who, place, subject)
        return
    allow(who, WRITE_RIGHTS.get(kind, Right.WRITE), place, subject)


def allow_quota(who: Principal, place: str, subject: str) -> None:
    """Return if the caller may set limits to a place: whoever operates what it is a part of."""
    allow(who, Right.READ, place, subject)
    above = place.rpartition("/")[0]
    if not who.may(Right.OPERATE, above):
        raise Forbidden("quota.set-above", subject, place=place, above=above or "site")


def allow_grant(who: Principal, grant: Grant, subject: str) -> None:
    """Return if the caller may hand that out: nobody gives, or takes, what they don't have."""
    if not who.covers(grant):
        beyond = sorted(grant.rights - who.rights) or sorted(grant.rights)
        raise Forbidden(
            "role.above-own", subject, role=who.role, wanted=grant.role,
            where=grant.where or "site", rights=", ".join(beyond),
        )  # fmt: skip


def allow_lifetime(who: Principal, wanted_s: float | None, now: float, subject: str) -> None:
    """Return if a key may be good for so long: nobody makes one that outlives their own."""
    if who.expires_at is not None and (wanted_s is None or now + wanted_s > who.expires_at):
        raise Forbidden("key.outlives-own", subject, seconds=int(max(0, who.expires_at - now)))


def allow_limits(wanted: Serving, own: Serving, subject: str) -> Serving:
    """Return the limits of a key to be made: nobody makes one that may ask for more than theirs.

    What is not named is taken over.
    """
    limits = wanted.beside(own)
    if wider := limits.within(own):
        raise Forbidden(
            "key.limit-above-own", subject, limit=wider, wanted=getattr(wanted, wider),
            most=getattr(own, wider),
        )  # fmt: skip
    return limits


def allow_models(wanted: tuple[str, ...], own: tuple[str, ...], subject: str) -> tuple[str, ...]:
    """Return the models of a key to be made: nobody makes one that calls what theirs may not.

    None named are those of their own.
    """
    if own and (beyond := sorted(set(wanted) - set(own))):
        models = ", ".join(beyond)
        raise Forbidden("key.models-above-own", subject, models=models, own=", ".join(own))
    return wanted or own


def allow_change(who: Principal, before: AnyResource | None, after: AnyResource | None) -> None:
    """Return if the caller may turn one into the other, as far as it hands out rights.

    To count for more than others is one.
    """
    if _is_high(after) and not _is_high(before) and not who.may(Right.OPERATE, ""):
        raise Forbidden("job.high-needs-operator", f"job/{after.name if after else ''}")
    if isinstance(before, grants.Grant) and after is None and before.status.cards:
        allow(who, Right.OPERATE, "", f"grant/{before.name}")  # what was judged stays on record
    for old, new in ((before, after), (after, before)):
        if isinstance(old, Key) and old is not new:
            allow_grant(who, old.spec.grant, f"key/{old.name}")
        if isinstance(old, User):
            kept = set(new.spec.grants()) if isinstance(new, User) else set()
            for grant in sorted(set(old.spec.grants()) - kept, key=repr):
                allow_grant(who, grant, f"user/{old.name}")


def _is_high(job: AnyResource | None) -> bool:
    return isinstance(job, Job) and job.spec.priority is Priority.HIGH


def allow_owner(who: Principal, user: User | None, written: str, grant: Grant) -> None:
    """Return if the caller may make a key for that user, and the user holds all it grants."""
    subject = f"user/{written}"
    organization = written.partition("/")[0]
    if user is None or not (who.sees(organization) or who.user == written):
        raise NotFound("resource.missing", subject, project=organization)
    if who.user != written:
        allow(who, Right.MANAGE, organization, subject)
    if held(grant, user.spec.grants()) != grant.rights:
        raise Rejected("key.user-lacks", subject, role=grant.role, where=grant.where or "site")
