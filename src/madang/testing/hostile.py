"""Thousands of hostile requests to the control API: from its schema, and from what has hurt others.

Half of the cases come from Schemathesis, which knows the schema and breaks it; half are written
here: odd paths, queries, heads and bodies. All are sent to the application, without a socket.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

import jsonschema_rs
import schemathesis
from fastapi import FastAPI
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core import NotSet
from schemathesis.core.parameters import ParameterLocation
from schemathesis.core.result import Ok

from madang.api.app import every_route
from madang.api.desk import WAIT_S_MAX

SECONDS_MAX = 120.0
"""Whoever is not answered by then never will be, on however busy a machine."""
HURRIED = {"wait_s": "0"}
"""What is made of valid waits, so that ten thousand cases do not wait for nothing."""

ODD_TEXTS = (
    "", " ", "\0", "..", "../../etc/passwd", "%00", "\x1b[2J", "\u202e", "\u200b", "\ud800", "가",
    "각", "ﾻ", "а", "A", "-", "a" * 64, "a" * 5000, "' OR 1=1--", "{{7*7}}", "$(id)", "null", "NaN",
    "<img onerror=x>", "true", "-1", "9" * 400, "1e999", "0x10", "a/b/c", "/", "//", "?", "#", "*",
    "a\nb", "bot", "file:///etc/passwd", "http://169.254.169.254/", "local/main", "service",
    "sha256:" + "0" * 64,
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 2**31, 2**63, 2**64, 10**400, -(10**400), 1e308, [], {}, [[]],
    [{}], {"": ""}, {"a": {"a": {"a": {}}}}, [None] * 100, *ODD_TEXTS,
)  # fmt: skip
ODD_BODIES = (
    b"", b"{", b"[]", b"null", b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b'{"a": NaN}', b'{"a": 1e999}',
    b'{"a": "\\ud800"}', b'{"a": "\\u0000"}', b'{"a": 1, "a": 2}', b"[" * 900,
    b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 70 + b"1" + b"}" * 70, b"9" * 5000, b"{} {}",
    b'"' + b"\\" * 999, b"\0" * 1000,
)  # fmt: skip
ODD_HEADS: tuple[dict[str, str], ...] = (
    {}, {"Accept-Language": "ko"}, {"Accept-Language": "\x80" * 100}, {"Accept": "\x80"},
    {"Content-Type": "application/json; charset=utf-16"}, {"Content-Type": ""},
    {"Content-Type": "multipart/form-data"}, {"Content-Type": "text/plain"},
    {"Range": "bytes=" + "0-1," * 5000}, {"Expect": "100-continue"}, {"If-Match": "*"},
    {"Content-Encoding": "gzip"}, {"Transfer-Encoding": "gzip"}, {"X-Forwarded-For": "127.0.0.1"},
    {"Cookie": "a" * 9000}, {"Idempotency-Key": "\x80" * 300}, {"Idempotency-Key": "a"},
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW")
KEYS = (
    "documents", "project", "dry_run", "name", "source", "role", "scopes", "user", "expires_s",
    "where",
)  # fmt: skip
FIELDS = (
    "kind", "name", "project", "model", "scale", "needs", "gate", "recipe", "title", "roles",
    "source",
)  # fmt: skip


@dataclass(frozen=True)
class Hostile:
    """One request, and whether the schema forbids it."""

    method: str
    target: bytes
    """Path and query, as they are on the wire."""
    head: dict[str, str] = field(default_factory=dict)
    content: bytes = b""
    is_wrong: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.target[:200]!r} {self.head} {self.content[:300]!r}"


@dataclass
class Told:
    """What came of all cases."""

    cases: int = 0
    wrong: int = 0
    """How many of them the schema forbids."""
    statuses: Counter[int] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    """Requests that were answered by 5xx, or not at all."""
    taken: list[str] = field(default_factory=list)
    """Requests that the schema forbids and that were done all the same."""


def from_schema(schema: dict[str, Any], count: int, number: int) -> Iterator[Hostile]:
    """Yield cases that Schemathesis makes of every operation, some right and some wrong.

    With a good key, all of them: it would rather break that than what lies behind it.
    """
    keyless = copy.deepcopy(schema)
    for path in keyless["paths"].values():
        for operation in path.values():
            operation.pop("security", None)
    found = schemathesis.openapi.from_dict(keyless).get_all_operations()
    operations = [each.ok() for each in found if isinstance(each, Ok)]
    each = max(2, count // (2 * len(operations)))
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            for case in _drawn(operation.as_strategy(generation_mode=mode), each, number):
                yield _written(case, operation)


def _drawn(strategy: Any, count: int, number: int) -> list[Any]:
    cases: list[Any] = []

    @seed(number)
    @settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def draw(case: Any) -> None:
        cases.append(case)

    with suppress(Unsatisfiable):  # an operation without parameters can't be broken
        draw()
    return cases


def _written(case: Any, operation: Any) -> Hostile:
    said = {name: _hurried(name, value) for name, value in (case.query or {}).items()}
    path = quote(case.formatted_path, safe="/%", errors="surrogatepass")
    query = urlencode(said, doseq=True, errors="surrogatepass")
    target = f"{path}?{query}" if query else path
    content = b"" if isinstance(case.body, NotSet) else as_json(case.body)
    head = {"Content-Type": "application/json"} if content else {}
    broken = {where for where, part in case.meta.components.items() if part.mode.is_negative}
    wrong = ParameterLocation.BODY in broken or not _fits(operation.query, parse_qsl(query, True))
    return Hostile(case.method.upper(), target.encode(), head, content, wrong)


def _fits(parameters: Any, said: list[tuple[str, str]]) -> bool:
    """Tell whether a query is as the schema says, once it is text: a number is no longer one."""
    given = dict(said)
    known = {each.name: each for each in parameters}
    if len(given) < len(said) or not set(given) <= set(known):
        return False
    return all(
        _holds(each.definition["schema"], given[name]) if name in given else not each.is_required
        for name, each in known.items()
    )


def _holds(schema: dict[str, Any], text: str) -> bool:
    readings: list[Any] = [text]
    with suppress(ValueError):
        readings.append(json.loads(text))
    return any(jsonschema_rs.is_valid(schema, value) for value in readings)


def _hurried(name: str, value: Any) -> Any:
    is_good = name in HURRIED and isinstance(value, int | float) and 0 <= value <= WAIT_S_MAX
    return HURRIED[name] if is_good else value


def as_json(value: Any) -> bytes:
    """Write a value, with what JSON has no words for as text."""
    return json.dumps(value, default=str).encode()


def from_experience(paths: list[str], count: int, number: int) -> Iterator[Hostile]:
    """Yield cases of our own: every path and method, with odd parts."""
    chance = random.Random(number)  # noqa: S311 - a seed that fails is to fail again
    for _ in range(count):
        method = chance.choice(METHODS)
        path = chance.choice(paths)
        for part in ("{kind}", "{name}"):
            usual = chance.choice(("service", "key", "model", "replica", "bot"))
            odd = chance.choice(ODD_TEXTS) if chance.random() < 0.6 else usual
            escaped = quote(odd, safe="", errors="surrogatepass")
            path = path.replace(part, escaped if chance.random() < 0.8 else odd.replace("\0", "%0"))
        query = ""
        if chance.random() < 0.5:
            names = ("project", "after", "wait_s", "limit", "lines", "kind", "x")
            said = [
                (chance.choice(names), chance.choice(ODD_TEXTS))
                for _ in range(chance.randint(1, 3))
            ]
            query = "?" + "&".join(f"{n}={quote(v, errors='surrogatepass')}" for n, v in said)
        target = f"{path}{query}".encode(errors="replace")
        content = _odd_body(chance) if method not in {"GET", "HEAD"} else b""
        head = {"Content-Type": "application/json"} | chance.choice(ODD_HEADS)
        yield Hostile(method, target, head, content)


def _odd_body(chance: random.Random) -> bytes:
    if chance.random() < 0.2:
        return chance.choice(ODD_BODIES)
    fields = {
        "kind": chance.choice(
            ("service", "model", "organization", "project", "user", "site", "pool")
        )
    }
    fields |= {
        name: chance.choice(ODD_VALUES) for name in chance.sample(FIELDS, chance.randint(0, 4))
    }
    body = {name: chance.choice(ODD_VALUES) for name in chance.sample(KEYS, chance.randint(0, 3))}
    if chance.random() < 0.7:
        body["documents"] = [fields] * chance.choice((1, 1, 1, 2))
    return as_json(body)


async def besiege(app: FastAPI, key: str, count: int, number: int) -> Told:
    """Send at least that many cases to the control API, the same ones for the same number."""
    routes = [r.path for r in every_route(app.routes) if isinstance(r, APIRoute)]
    paths = [path.replace(":path", "") for path in routes]
    made = list(from_schema(app.openapi(), count // 2, number))
    ours = from_experience(paths, count - len(made), number)
    return await fire(app, key, chain(made, ours))


async def fire(app: Any, key: str, cases: Iterator[Hostile]) -> Told:
    """Send every case with that Authorization, one by one, and tell what came of them."""
    told = Told()
    for case in cases:
        told.cases += 1
        status = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(SECONDS_MAX):
                status = await _sent(app, key, case)
        told.statuses[status] += 1
        told.wrong += case.is_wrong
        if not 200 <= status < 500:
            told.failed.append(f"{status}: {case}")
        elif case.is_wrong and status < 300:
            told.taken.append(f"{status}: {case}")
    return told


async def _sent(app: Any, key: str, case: Hostile) -> int:
    """Call the application as a server would; return its status, 0 where it gave none."""
    path, _, query = case.target.partition(b"?")
    said = {"host": "api", "authorization": key} | {n.lower(): v for n, v in case.head.items()}
    head = [(n.encode(), v.encode("latin-1", "replace")) for n, v in said.items()]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http",
        "method": case.method, "path": unquote(path.decode("latin-1")), "raw_path": path,
        "query_string": query, "root_path": "", "client": ("127.0.0.1", 1), "state": {},
        "headers": head, "server": ("api", None),
    }  # fmt: skip
    statuses: list[int] = []
    bodies = [{"type": "http.request", "body": case.content, "more_body": False}]
    over = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not bodies:
            await over.wait()
            return {"type": "http.disconnect"}
        return bodies.pop()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    return statuses[0] if len(statuses) == 1 else 0
