"""Who gets what: every route × verb × caller, against rules that are written here once more."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from madang.api.app import every_route
from madang.resources.kinds import KINDS, WRITABLE
from madang.resources.rights import CONTROL, RIGHTS, Right, Role

from .conftest import Yard

LAB, ROOM, BETA = "acme/lab", "acme/room", "beta/lab"
BOT = {"kind": "service", "name": "bot", "model": "tiny", "project": LAB}
TRAIN = {"kind": "job", "name": "train", "command": "true", "project": LAB}
GRANT = {"kind": "grant", "name": "g", "accelerator": "cpu", "count": 1, "project": LAB,
         "from": "2026-12-01", "until": "2027-03-01"}  # fmt: skip
ROUND = {"kind": "round", "name": "r", "accelerator": "cpu", "capacity": 1,
         "closes": "2999-01-01", "from": "2999-02-01", "until": "2999-03-01"}  # fmt: skip
DATA = {"kind": "volume", "name": "data", "project": LAB}
VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
R = Right


@dataclass(frozen=True)
class Caller:
    """Somebody with a key, or without a good one (`where` is None)."""

    name: str
    secret: str = ""
    where: str | None = None
    rights: frozenset[Right] = frozenset()


@dataclass(frozen=True)
class Ask:
    """One request, and the rule for it: that right at that place; no place: anywhere."""

    method: str
    path: str
    right: Right | None = None
    place: str | None = None
    site: bool = False
    body: Any = None
    params: dict[str, str] = field(default_factory=dict)
    ok: frozenset[int] = frozenset({200})
    """What whoever may gets: a success, or the answer to something that can't be done."""
    also: tuple[tuple[Right, str], ...] = ()
    """Further rights that it takes."""
    above: bool = False  # it takes them in its organization


def within(place: str, where: str) -> bool:
    return where in ("", place) or place.startswith(where + "/")


def expected(who: Caller, ask: Ask) -> frozenset[int]:
    """Say what must come of it."""
    if who.where is None:
        return frozenset({401})
    for right, place in ((ask.right, ask.place), *ask.also):
        if place and not within(place, who.where):
            return frozenset({404})
        if (place == "" and who.where != "") or (right and right not in who.rights):
            return frozenset({403})
    beyond = bool(ask.site and who.where) or (ask.above and not within("acme", who.where))
    return frozenset({403}) if beyond else ask.ok


KEYS: dict[str, dict[str, Any]] = {
    "site operator": {"role": "operator", "project": LAB, "where": ""},
    "site auditor": {"role": "auditor", "project": LAB, "where": ""},
    "organization's operator": {"role": "operator", "project": LAB, "where": "acme"},
    "organization's auditor": {"role": "auditor", "project": LAB, "where": "acme"},
    "organization's viewer": {"role": "viewer", "project": LAB, "where": "acme"},
    "operator": {"role": "operator", "project": LAB, "where": LAB},
    "member": {"role": "member", "project": LAB},
    "viewer": {"role": "viewer", "project": LAB},
    "auditor": {"role": "auditor", "project": LAB, "where": LAB},
    "reading member": {"role": "member", "project": LAB, "scopes": ["read"]},
    "calling member": {"role": "member", "project": LAB, "scopes": ["infer"]},
    "key-making member": {"role": "member", "project": LAB, "scopes": ["read", "keys"]},
    "user's": {"role": "member", "project": LAB, "user": "acme/kim"},
    "demoted user's": {"role": "member", "project": LAB, "user": "acme/lee"},
    "other project's member": {"role": "member", "project": ROOM},
    "other project's operator": {"role": "operator", "project": ROOM, "where": ROOM},
    "other organization's member": {"role": "member", "project": BETA},
    "other organization's operator": {"role": "operator", "project": BETA, "where": "beta"},
}


def slug(name: str) -> str:
    return name.replace(" ", "-").replace("'s", "")


@dataclass
class Town:
    """A control with tenants in it, and a key of every sort."""

    yard: Yard
    callers: list[Caller]
    serial: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def send(self, who: Caller, ask: Ask) -> httpx.Response:
        headers = {"Authorization": f"Bearer {who.secret}"} if who.secret else {}
        client = httpx.AsyncClient(transport=self.yard.client._transport, base_url="http://api")
        async with client:
            return await client.request(
                ask.method, ask.path, params=ask.params, json=ask.body, headers=headers
            )


async def settled(yard: Yard) -> list[Caller]:
    """Make organizations, projects, users, a service and the keys."""
    await yard.apply(
        *({"kind": "organization", "name": name} for name in ("acme", "beta")),
        *({"kind": "project", "name": name} for name in (LAB, ROOM, BETA)),
        {"kind": "quota", "name": LAB, "cores": 1000},
        GRANT,
        ROUND,
        {"kind": "user", "name": "acme/kim", "roles": {LAB: "member"}},
        {"kind": "user", "name": "acme/lee", "roles": {"acme": "member"}},
    )
    path = yard.home.path / "tiny.json"
    path.write_text(json.dumps({"fake": 1}))
    answer = await yard.client.post(
        "/api/v1/model", json={"name": "tiny", "source": str(path), "project": LAB}
    )
    assert '"resource"' in answer.text
    await yard.apply(BOT, TRAIN, DATA)
    await yard.post("secret", {"name": "token", "text": "x", "project": LAB})
    callers = []
    for name, asked in KEYS.items():
        made = await yard.post("key", {"name": slug(name), **asked})
        rights = RIGHTS[Role(asked["role"])]
        rights &= frozenset(Right(s) for s in asked.get("scopes", rights))
        where = made["resource"]["spec"]["where"]
        callers.append(Caller(name, made["key"], where, rights))
    await yard.apply({"kind": "user", "name": "acme/lee", "roles": {"acme": "viewer"}})
    callers = [
        replace(c, rights=frozenset({R.READ})) if c.name.startswith("demoted") else c
        for c in callers
    ]
    expired = await yard.post("key", {"name": "expired", "project": LAB, "expires_s": 1e-9})
    revoked = await yard.post("key", {"name": "revoked", "project": LAB})
    gone = await yard.client.delete("/api/v1/key/revoked", params={"project": LAB})
    assert gone.is_success
    return [
        *callers,
        Caller("nobody"),
        Caller("stranger", "mdg_" + "0" * 64),
        Caller("expired", expired["key"]),
        Caller("revoked", revoked["key"]),
    ]


@pytest.fixture
async def town(yard: Yard) -> Town:
    callers = await settled(yard)
    in_lab = {"project": LAB}
    async with httpx.AsyncClient(
        transport=yard.client._transport, base_url="http://api", headers=yard.client.headers
    ) as admin:
        while (await admin.get("/api/v1/service/bot", params=in_lab)).json()["status"][
            "phase"
        ] != "ready":
            await yard.desk.world.moved(yard.desk.world.tick, 0.1)
    return Town(yard, callers)


def names(town: Town) -> dict[str, tuple[str, str]]:
    """Return one object of every kind in the lab or on the site: how it is called, and where."""
    world, found = town.yard.desk.world, {}
    for kind in KINDS:
        for ref, resource in world.list(CONTROL, kind).items():
            if ref.project in {LAB, "acme", ""}:
                full = f"acme/{ref.name}" if kind in {"project", "quota", "user"} else ref.name
                found[kind] = (full, resource.project)
    assert set(found) == set(KINDS)
    return found


GLANCES: dict[str, tuple[Any, ...]] = {
    "whoami": (), "status": (R.READ,), "audit": (R.AUDIT,), "doctor": (R.OPERATE, None, True),
    "snapshot": (R.AUDIT, None, True), "usage": (R.READ,),
    "call": (R.READ,), "call/{name}": (R.READ,),
}  # fmt: skip
"""Right, place, and whether it must hold on the whole site."""


WRITES = {
    "code": {"digest": f"sha256:{'0' * 64}"}, "secret": {"name": "token", "text": "x"},
}  # fmt: skip


NONE = frozenset({404})
BY_NAME = ("job", "attempt", "grant", "service")
"""Kinds that have routes of their own."""


def asks(town: Town, route: APIRoute, method: str) -> Iterator[Ask]:
    """Return the requests that try one route and verb, with their rules."""
    path = route.path
    in_lab = {"project": LAB}
    everywhere = [Ask("GET", path, R.READ), Ask("GET", path, R.READ, LAB, params=in_lab)]
    plain: dict[tuple[str, str], list[Ask]] = {
        **{("GET", f"/api/v1/{name}"): [Ask("GET", path.replace("{name}", "r"), *rule)]
           for name, rule in GLANCES.items()},
        ("GET", "/api/v1/changes"): [
            Ask("GET", path, R.READ, params={"after": "0"}),
            Ask("GET", path, R.READ, LAB, params={"after": "0", **in_lab}),
        ],
        **{("GET", f"/api/v1/{name}"): everywhere for name in ("event", "declared")},
        ("POST", "/api/v1/backup"): [Ask("POST", path, R.OPERATE, site=True)],
        ("POST", "/api/v1/backup/outcome"): [
            Ask("POST", path, R.OPERATE, site=True, body={"what": "drill-failed"})],
        **{("POST", f"/api/v1/{name}"): [Ask("POST", path, R.WRITE, LAB, body={**body, **in_lab})]
           for name, body in WRITES.items()},
        ("POST", "/api/v1/apply"): list(applies(path)),
        ("POST", "/api/v1/model"): [
            Ask(
                "POST", path, R.WRITE, LAB, also=((R.OPERATE, ""),),
                body={"name": "tiny", "source": str(town.yard.home.path / "tiny.json"), **in_lab},
            )
        ],
        ("POST", "/api/v1/key"): [
            Ask("POST", path, R.KEYS, LAB,
                body={"name": f"k{next(town.serial)}", "role": "viewer", **in_lab})
        ],
        ("POST", "/api/v1/key/{name:path}/rotate"): [
            Ask("POST", "/api/v1/key/none/rotate", R.KEYS, LAB, params=in_lab, body={}, ok=NONE)
        ],
        ("DELETE", "/api/v1/key/{name:path}"): [
            Ask("DELETE", "/api/v1/key/none", R.KEYS, LAB, params={**in_lab, "made": made}, ok=NONE)
            for made in ("false", "true")
        ],
        ("GET", "/api/v1/process/{name}/logs"): [
            Ask("GET", "/api/v1/process/none/logs", R.OPERATE, site=True, ok=NONE)
        ],
    }  # fmt: skip
    if (method, path) in plain:
        yield from plain[method, path]
    elif path.startswith(("/api/v1/node/", "/api/v1/accelerator/", "/api/v1/round/")):
        body = {"what": "close"} if "round" in path else {"drain": True}
        yield Ask("POST", path.format(name="none"), R.OPERATE, site=True, body=body, ok=NONE)
    elif path.startswith(tuple(f"/api/v1/{kind}/" for kind in BY_NAME)):
        path, body = path.format(name="none"), {"what": "appeal"}
        yield Ask(method, path, R.READ, LAB, body=body, params=in_lab, ok=NONE)
    else:
        yield from of_kinds(town, path, method)


def applies(path: str) -> Iterator[Ask]:
    """One document of every kind that people write, tried dry."""
    title = {"title": "새 이름"}
    documents: dict[str, tuple[dict[str, Any], Right, str]] = {
        "organization": ({"name": "acme", **title}, R.MANAGE, "acme"),
        "project": ({"name": LAB, **title}, R.MANAGE, LAB),
        "user": ({"name": "acme/kim", "roles": {LAB: "member"}, **title}, R.MANAGE, "acme"),
        "site": ({"name": "local", "grade": "S", **title}, R.OPERATE, ""),
        "pool": ({"name": "default", "site": "local"}, R.OPERATE, ""),
        "model": ({"name": "tiny", "source": "/no/where", "project": LAB}, R.WRITE, LAB),
        "service": ({**BOT, "scale": 2}, R.WRITE, LAB),
        "job": (TRAIN, R.WRITE, LAB),
        "volume": (DATA, R.WRITE, LAB),
        "grant": (GRANT, R.WRITE, LAB),
        "round": (ROUND, R.OPERATE, ""),
        "quota": ({"name": LAB, "cores": 8}, R.OPERATE, LAB),
    }
    assert set(documents) == set(WRITABLE)
    for kind, (document, right, place) in documents.items():
        also = ((R.OPERATE, ""),) if kind in {"model", "job"} else ()
        body = {"documents": [{"kind": kind, **document}], "dry_run": True}
        yield Ask("POST", path, right, place, body=body, also=also, above=kind == "quota")
    body = {"documents": [{**DATA, "path": "/srv/data"}], "dry_run": True}
    yield Ask("POST", path, R.WRITE, LAB, body=body, also=((R.OPERATE, ""),))


def of_kinds(town: Town, path: str, method: str) -> Iterator[Ask]:
    """Every kind through the routes that take any."""
    for kind, (name, place) in names(town).items():
        at = path.replace("{kind}", kind).replace("{name:path}", name)
        params = {"project": LAB}
        if path == "/api/v1/{kind}":
            yield Ask(method, at, R.READ)
            yield Ask(method, at, R.READ, LAB, params=params)
        elif method == "GET":
            yield Ask(method, at, R.READ, place, params=params)
        else:
            assert method == "DELETE", (method, path)
            rules = {"key": R.KEYS, **dict.fromkeys(("site", "pool", "quota", "round"), R.OPERATE)}
            managed = kind in {"organization", "project", "user"}
            right = R.MANAGE if managed else rules.get(kind, R.WRITE)
            absent = "acme/none" if kind in {"project", "quota", "user"} else "none"
            gone = path.replace("{kind}", kind).replace("{name:path}", absent)
            lies = {"organization": "none", "project": absent, "quota": absent}.get(kind, place)
            above, absent_is = kind == "quota", frozenset({404})
            yield Ask(method, gone, right, lies, params=params, ok=absent_is, above=above)


def routes(town: Town) -> list[tuple[APIRoute, str]]:
    every = every_route(town.yard.client._transport.app.routes)
    found = [r for r in every if isinstance(r, APIRoute) and r.path.startswith("/api/v1")]
    assert len(found) >= 14
    return [(route, method) for route in found for method in sorted(route.methods)]


async def test_every_route_and_verb_gives_every_caller_exactly_what_it_may(town: Town) -> None:
    wrong, tried = [], 0
    for route, method in routes(town):
        for who in town.callers:
            for ask in asks(town, route, method):
                answer = await town.send(who, ask)
                tried += 1
                status = answer.status_code
                if status not in expected(who, ask):
                    told = f"{who.name}: {ask.method} {ask.path} {ask.params} {ask.body}"
                    wrong.append((told, status, sorted(expected(who, ask)), answer.text[:200]))
    assert wrong == []
    assert tried > 1000


async def test_no_verb_that_a_path_lacks_does_anything(town: Town) -> None:
    before = town.yard.desk.world.revision
    for route, _ in routes(town):
        known = {m for r, m in routes(town) if r.path_regex.match(concrete(route.path))}
        for verb in sorted(set(VERBS) - known):
            for who in town.callers:
                answer = await town.send(who, Ask(verb, concrete(route.path), body={}))
                assert answer.status_code in ({405} if who.where is not None else {401, 405}), (
                    who.name, verb, route.path, answer.text,
                )  # fmt: skip
    assert town.yard.desk.world.revision == before


def concrete(path: str) -> str:
    return path.replace("{kind}", "service").replace("{name:path}", "bot").replace("{name}", "bot")


FOREIGN: list[Callable[[str, str], Ask]] = [
    lambda project, name: Ask("GET", f"/api/v1/service/{name}", params={"project": project}),
    lambda project, name: Ask("GET", f"/api/v1/key/{name}", params={"project": project}),
    lambda project, name: Ask("GET", f"/api/v1/model/{name}", params={"project": project}),
    lambda project, name: Ask("GET", f"/api/v1/service/{name}/logs", params={"project": project}),
    lambda project, name: Ask(
        "GET", f"/api/v1/service/{name}/explanation", params={"project": project}
    ),
    lambda project, name: Ask("DELETE", f"/api/v1/service/{name}", params={"project": project}),
    lambda project, name: Ask("DELETE", f"/api/v1/key/{name}", params={"project": project}),
    lambda project, _: Ask("GET", f"/api/v1/project/{project}"),
    lambda project, _: Ask("GET", f"/api/v1/organization/{project[:4]}"),
    lambda project, _: Ask("GET", f"/api/v1/user/{project[:4]}/kim"),
    lambda project, _: Ask("DELETE", f"/api/v1/user/{project[:4]}/kim"),
    lambda project, _: Ask("DELETE", f"/api/v1/project/{project}"),
    lambda project, _: Ask("GET", "/api/v1/service", params={"project": project}),
    lambda project, _: Ask("GET", "/api/v1/event", params={"project": project}),
    lambda project, _: Ask("GET", "/api/v1/changes", params={"project": project, "after": "0"}),
    lambda project, name: Ask(
        "POST", "/api/v1/apply",
        body={"documents": [{**BOT, "name": name, "project": project}]},
    ),
    lambda project, _: Ask(
        "POST", "/api/v1/apply", body={"documents": [{"kind": "project", "name": project}]}
    ),
    lambda project, _: Ask(
        "POST", "/api/v1/apply", body={"documents": [{"kind": "organization", "name": project[:4]}]}
    ),
    lambda project, name: Ask("POST", "/api/v1/key", body={"name": name, "project": project}),
    lambda project, name: Ask(
        "POST", "/api/v1/model", body={"name": name, "source": "/x", "project": project}
    ),
    lambda project, name: Ask(
        "POST", "/api/v1/key",
        body={"name": "mine", "project": BETA, "user": f"{project[:4]}/kim", "role": "viewer"},
    ),
]  # fmt: skip


asking = ContextVar("asking", default=False)


class Counted:
    """A store that counts how a request calls it, by name; the loop's own calls don't count."""

    def __init__(self, store: Any) -> None:
        self.inner = store
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if asking.get():
            self.calls.append(name)
        return getattr(self.inner, name)


@pytest.mark.parametrize("sort", ["other organization's member", "other organization's operator"])
async def test_what_others_have_is_just_as_absent_as_what_nobody_has(town: Town, sort: str) -> None:
    who = next(caller for caller in town.callers if caller.name == sort)
    counted = Counted(town.yard.desk.world.store)
    town.yard.desk.world.store = counted
    for number, ask in enumerate(FOREIGN):
        seen = []
        for project, name in (("acme/lab", "bot"), ("acme/lab", "nix"), ("nota/bar", "bot")):
            counted.calls.clear()
            token = asking.set(True)
            answer = await town.send(who, ask(project, name))
            asking.reset(token)
            told, parts = answer.text, (project, project[:4], project[5:], name)
            for said, neutral in zip(parts, "POLN", strict=True):
                told = told.replace(said, neutral)
            headers = {k: v for k, v in answer.headers.items() if k != "date"}
            seen.append((answer.status_code, told, headers, list(counted.calls)))
        assert seen[0][0] in {403, 404}, number
        assert seen[0] == seen[1] == seen[2], number
    town.yard.desk.world.store = counted.inner


async def test_feeds_and_lists_hold_nothing_of_another_place(town: Town) -> None:
    for who in town.callers:
        if who.where is None or R.READ not in who.rights:
            continue
        found = set()
        for kind in KINDS:
            listed = (await town.send(who, Ask("GET", f"/api/v1/{kind}"))).json()["items"]
            found |= {r["project"] for r in listed}
        feed = (await town.send(who, Ask("GET", "/api/v1/changes", params={"after": "0"}))).json()
        found |= {c["resource"]["project"] for c in feed["items"]}
        told = (await town.send(who, Ask("GET", "/api/v1/event"))).json()["items"]
        found |= {event["project"] for event in told}
        if R.AUDIT in who.rights:
            page = (await town.send(who, Ask("GET", "/api/v1/audit"))).json()
            found |= {record["project"] for record in page["items"]}
        report = (await town.send(who, Ask("GET", "/api/v1/status"))).json()
        found |= {service["project"] for service in report["services"]}
        assert all(within(place, who.where) for place in found), (who.name, found)


async def test_an_auditor_sees_exactly_the_records_of_the_own_place(town: Town) -> None:
    whole = (await town.yard.get("audit"))["items"]
    assert {"", "acme", LAB, ROOM, BETA, "beta"} <= {record["project"] for record in whole}
    seen = 0
    for who in town.callers:
        if who.where is None or R.AUDIT not in who.rights:
            continue
        page = (await town.send(who, Ask("GET", "/api/v1/audit"))).json()
        assert page["where"] == who.where
        assert page["items"] == [r for r in whole if within(r["project"], who.where)], who.name
        rest = await town.send(
            who, Ask("GET", "/api/v1/audit", params={"after": "3", "limit": "2"})
        )
        assert rest.json()["items"] == [r for r in page["items"] if r["seq"] > 3][:2]
        seen += 1
    assert seen >= 5


async def test_nobody_hands_out_what_they_do_not_have(town: Town) -> None:
    grants = [
        (role, where, scopes)
        for role in Role
        for where in ("", "acme", LAB, ROOM, "beta")
        for scopes in ([], ["read"], ["read", "keys"], ["manage"])
    ]
    for who in town.callers:
        if who.where is None or R.KEYS not in who.rights or not within(LAB, who.where):
            continue
        for role, where, scopes in grants:
            given = RIGHTS[role] & {Right(s) for s in scopes} if scopes else RIGHTS[role]
            body = {
                "name": f"g{next(town.serial)}", "role": role, "where": where, "scopes": scopes,
                "project": LAB,
            }  # fmt: skip
            answer = await town.send(who, Ask("POST", "/api/v1/key", body=body))
            may = given <= who.rights and within(where, who.where) and given
            assert answer.is_success == bool(may), (who.name, body, answer.text)


async def test_a_user_can_not_be_raised_by_who_is_lower(town: Town) -> None:
    boss = next(c for c in town.callers if c.name == "organization's operator")
    for roles, status in (
        ({"acme": "operator"}, 200), ({"site": "viewer"}, 403), ({BETA: "viewer"}, 403),
        ({"acme": "auditor", LAB: "operator"}, 200),
    ):  # fmt: skip
        body = {"documents": [{"kind": "user", "name": "acme/kim", "roles": roles}]}
        answer = await town.send(boss, Ask("POST", "/api/v1/apply", body=body))
        assert answer.status_code == status, answer.text
    raised = {"documents": [{"kind": "user", "name": "acme/kim", "roles": {"site": "operator"}}]}
    assert (await town.yard.client.post("/api/v1/apply", json=raised)).is_success
    lowered = {"documents": [{"kind": "user", "name": "acme/kim", "roles": {}}]}
    assert (await town.send(boss, Ask("POST", "/api/v1/apply", body=lowered))).status_code == 403
