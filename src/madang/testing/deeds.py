"""What people ask of control, one deed after another, and what may be seen of it afterwards."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.types import Message

from madang.api.desk import Desk
from madang.resources.attempt import Attempt, AttemptPhase, member_uid
from madang.resources.replica import HOLDING
from madang.resources.resource import AnyResource
from madang.resources.rights import CONTROL
from madang.testing.lasting import LastingNode

KEY = "app"
SCRIPTS = {
    "tiny": {"fake": 1, "words": "one"},
    "tiny2": {"fake": 1, "words": "two"},
    "bad": {"fake": 1, "words": "bad"},
}
"""Model files: what is in them."""
USED = [
    {
        "id": f"req-{number}", "at": 1.0, "key": "k", "project": "local/main", "endpoint": "bot",
        "replica": "r", "prompt_tokens": 3, "cached_tokens": 1, "output_tokens": 5, "status": 200,
        "duration_s": 0.1,
    }
    for number in range(3)
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Deed:
    """One call. It is acknowledged by its answer, and is then done whatever happens."""

    name: str
    method: str = ""
    path: str = ""
    body: Any = None
    app: str = "api"
    """Who is asked: `api`; `internal`, the gateways' door. Nobody: `node`, a process ends by
    itself, a rank of a job if there is one; `home`, the operator's key file was lost before the
    start."""
    exit_code: int = -9
    """How what ends by itself does."""
    known: bool = False
    """An earlier deed takes the same steps: it is done, and need not be tried."""


def service(name: str, model: str, scale: int) -> Deed:
    """Return an apply."""
    document = {
        "kind": "service", "name": name, "model": model, "scale": scale,
        "needs": {"accelerator": "nvidia", "memory": "1GB"},
    }  # fmt: skip
    title = f"apply {name} {model} x{scale}"
    return Deed(title, "POST", "/api/v1/apply", {"documents": [document]})


def job(name: str, *, cancel: bool = False) -> Deed:
    """Return a submission of a job, or its cancelling."""
    document = {
        "kind": "job", "name": name, "command": ["train"], "cancel": cancel,
        "needs": {"accelerator": "nvidia", "memory": "1GB"},
    }  # fmt: skip
    body = {"documents": [document]}
    return Deed(f"{'cancel' if cancel else 'submit'} {name}", "POST", "/api/v1/apply", body)


def model(name: str, script: str) -> Deed:
    """Return an import; `{home}` is where the scripts lie."""
    body = {"name": name, "source": "{home}/" + script + ".json"}
    return Deed(f"model add {name} {script}", "POST", "/api/v1/model", body)


def delete(kind: str, name: str) -> Deed:
    """Return a deletion."""
    return Deed(f"delete {kind} {name}", "DELETE", f"/api/v1/{kind}/{name}")


def called(name: str, *asks: str) -> Deed:
    """Return the call of a round, with requests; it gives in a time that is yet to come."""
    days = {"from": "2998-01-01", "until": "2999-01-01"}
    call = {
        "kind": "round", "name": name, "accelerator": "nvidia", "capacity": 1, "unit": 1,
        "closes": "2997-01-01", "floors": {"academia": 0}, **days,
    }  # fmt: skip
    requests = [
        {"kind": "grant", "name": ask, "accelerator": "nvidia", "count": 1, "round": name,
         "sector": "academia", **days} for ask in asks
    ]  # fmt: skip
    return Deed(f"call {name}", "POST", "/api/v1/apply", {"documents": [call, *requests]})


def act(kind: str, name: str, what: str, **more: Any) -> Deed:
    """Return what is done about a grant or a round."""
    path = f"/api/v1/{kind}/{name}/act"
    return Deed(f"{what} {kind} {name}", "POST", path, {"what": what, **more})


DEEDS: tuple[Deed, ...] = (
    Deed("first start"),
    Deed("the operator's key is lost", app="home"),
    model("tiny", "tiny"),
    service("bot", "tiny", 1),
    Deed("key create", "POST", "/api/v1/key", {"name": KEY, "role": "member"}),
    service("bot", "tiny", 2),
    Deed("an engine ends", app="node"),
    Deed("usage", "POST", "/internal/usage", USED, app="internal"),
    replace(model("tiny", "tiny2"), known=True),
    service("bot", "tiny@2", 2),
    replace(model("bad", "bad"), known=True),
    service("bad", "bad", 1),
    service("bot", "tiny@2", 1),
    delete("key", KEY),
    delete("service", "bad"),
    delete("service", "bot"),
    delete("model", "tiny"),
    job("train"),
    Deed("a rank is killed", app="node"),
    job("train", cancel=True),
    delete("job", "train"),
    replace(job("eval"), known=True),
    Deed("a rank is done", app="node", exit_code=0),
    replace(called("spring", "much", "less"), known=True),
    replace(act("grant", "much", "review", points={"effect": 30}), known=True),
    replace(act("grant", "less", "review", points={"effect": 20}), known=True),
    replace(act("round", "spring", "close"), known=True),
    act("round", "spring", "award"),
    replace(act("grant", "much", "decline"), known=True),
    act("round", "spring", "next"),
)


@dataclass
class Answer:
    """What an application answered."""

    status: int = 0
    body: bytes = b""
    pieces: list[bytes] = field(default_factory=list)

    def json(self) -> Any:
        """Return the body, or the last line of one that is told in lines."""
        return json.loads(self.body.splitlines()[-1])


async def call(
    app: Any, method: str, path: str, body: Any = None, key: str = "", once: str = ""
) -> Answer:
    """Ask an ASGI application, in this process; what is asked `once` may be asked again."""
    answer = Answer()
    sent = b"" if body is None else json.dumps(body).encode()
    headers = [
        (b"host", b"127.0.0.1:7070"), (b"content-type", b"application/json"),
        (b"authorization", f"Bearer {key}".encode()), (b"content-length", str(len(sent)).encode()),
    ]  # fmt: skip
    if once:
        headers.append((b"idempotency-key", once.encode()))
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "headers": headers, "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 7070),
    }  # fmt: skip
    messages = iter([{"type": "http.request", "body": sent, "more_body": False}])

    async def receive() -> Message:
        return next(messages, None) or await _never()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
        answer.pieces.append(message.get("body", b""))

    await app(scope, receive, send)
    answer.body = b"".join(answer.pieces)
    return answer


async def _never() -> Message:
    """Wait for a client that does not leave."""
    await asyncio.Event().wait()
    return {"type": "http.disconnect"}


def state(desk: Desk, node: LastingNode) -> dict[str, Any]:
    """Return what must be the same however often control has died on the way.

    Names and numbers that count attempts are left out; what people see is in.
    """

    def kept(kind: str) -> Collection[AnyResource]:
        return desk.world.list(CONTROL, kind).values()

    return {
        "services": {
            s.name: [s.status.phase, s.status.ready, s.spec.scale, s.spec.model, s.status.revision]
            for s in kept("service")
        },
        "replicas": sorted(
            [r.spec.service, r.spec.revision, r.status.phase, len(r.status.accelerators)]
            for r in kept("replica")
        ),
        "jobs": {j.name: [j.status.phase, j.spec.cancel] for j in kept("job")},
        "attempts": sorted(
            [a.spec.job, a.status.phase, sum(len(p.accelerators) for p in a.status.places)]
            for a in kept("attempt")
            if isinstance(a, Attempt) and a.status.phase is not AttemptPhase.ENDED
        ),
        "grants": {
            g.name: [g.status.phase, g.status.count, [d.what for d in g.status.deeds]]
            for g in kept("grant")
        },
        "rounds": {
            r.name: [
                r.status.phase,
                [[a.grant, a.count] for d in r.status.decisions for a in d.awards],
            ]
            for r in kept("round")
        },
        "running": len(node.processes),
        "revisions": sorted([r.name, r.status.phase] for r in kept("revision")),
        "builds": sorted([b.spec.digest, b.status.verdict] for b in kept("build")),
        "models": {m.name: [v.digest for v in m.status.versions] for m in kept("model")},
        "keys": sorted([k.name, k.spec.role] for k in kept("key")),
        "endpoints": sorted(e.name for e in kept("endpoint")),
        "usage": [[u.endpoint, u.requests, u.output_tokens] for u in desk.world.usage(CONTROL)],
        "places": sorted([kind, each.name] for kind in _PLACES for each in kept(kind)),
    }


_PLACES = ("organization", "project", "site", "pool", "node", "accelerator")


def wrong(desk: Desk, node: LastingNode, events: Sequence[Any]) -> list[str]:
    """Return what must not be, once nothing moves any more: each as `doubled: …` or `leaked: …`."""
    found = [f"doubled: {each}" for each in node.wrong]
    replicas = {r.uid: r for r in desk.world.list(CONTROL, "replica").values()}
    attempts = [a for a in desk.world.list(CONTROL, "attempt").values() if isinstance(a, Attempt)]
    holding = {uid: r.status.epoch for uid, r in replicas.items() if r.status.phase in HOLDING}
    holding |= {
        member_uid(attempt, member): attempt.spec.number
        for attempt in attempts
        for member, place in enumerate(attempt.status.places)
        if place.accelerators
    }
    running = {p.uid: p.epoch for p in node.processes.values() if p.state == "running"}
    found += [f"leaked: {uid} runs for nobody" for uid in running.keys() - holding.keys()]
    found += [f"leaked: {uid} holds without running" for uid in holding.keys() - running.keys()]
    found += [
        f"doubled: {uid} runs at {running[uid]}, not {holding[uid]}"
        for uid in running.keys() & holding.keys()
        if running[uid] != holding[uid]
    ]
    held = Counter(a for r in replicas.values() for a in r.status.accelerators)
    held.update(name for a in attempts for place in a.status.places for name in place.accelerators)
    found += [f"doubled: {name} is held {count} times" for name, count in held.items() if count > 1]
    told = Counter((e.code, e.uid) for e in events if e.code in _ONCE)
    found += [f"doubled: {code} of {uid}" for (code, uid), count in told.items() if count > 1]
    temporary = [p for p in desk.home.path.rglob("*") if p.suffix in {".new", ".part", ".tmp"}]
    return found + [f"leaked: {path.name}" for path in temporary]


_ONCE = frozenset({
    "service.created", "service.delete-asked", "service.deleted", "model.created", "key.created",
    "key.deleted", "build.passed", "build.failed", "revision.created", "endpoint.created",
    "job.created", "job.delete-asked", "job.deleted", "job.succeeded", "job.cancelled",
    "round.was-awarded", "round.was-given-on",
})  # fmt: skip
"""Events that one object has once in its life."""


def unknown_blobs(desk: Desk) -> list[str]:
    """Return records of files that no model and no revision knows; to be asked after a start."""
    known: set[str] = {r.spec.digest for r in desk.world.list(CONTROL, "revision").values()}
    for each in desk.world.list(CONTROL, "model").values():
        known |= {version.digest for version in each.status.versions}
    names = {digest.replace(":", "-") for digest in known}
    return [
        f"leaked: blob {path.stem[:20]}"
        for path in desk.home.blobs.glob("*.json")
        if path.stem not in names
    ]


def filled(body: Any, home: str) -> Any:
    """Put the home into a body."""
    if isinstance(body, Mapping):
        return {key: filled(value, home) for key, value in body.items()}
    return body.replace("{home}", home) if isinstance(body, str) else body
