"""Whom control lets in: every route and every method, by the name, the page and the key shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Mount, Route

from madang.api.app import OPEN, build, every_route
from madang.traffic.front import Front

from .conftest import Yard, deeds

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW")
FILLED = {"{kind}": "service", "{name:path}": "bot", "{name}": "control", "{path:path}": "x"}


def paths(yard: Yard) -> Iterator[str]:
    """Every path the application knows, and one it doesn't."""
    for route in every_route(yard.client._transport.app.routes):
        assert isinstance(route, APIRoute | Route | Mount), f"{route} is no kind that we know"
        path = route.path
        for name, value in FILLED.items():
            path = path.replace(name, value)
        yield path if not isinstance(route, Mount) else f"{path}/x"
    yield "/no/such/path"


async def every(yard: Yard, headers: dict[str, str]) -> list[tuple[str, str, httpx.Response]]:
    """Ask everything, without a key of its own."""
    transport = yard.client._transport
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as stranger:
        return [
            (method, path, await stranger.request(method, path, headers=headers, content=b"{}"))
            for path in dict.fromkeys(paths(yard))
            for method in METHODS
        ]


def key_of(yard: Yard) -> str:
    return yard.client.headers["authorization"]


async def test_another_servers_name_is_refused_on_every_route_and_method(yard: Yard) -> None:
    for host in ("evil.example", "api.evil.example", "api:7070"):
        headers = {"Host": host, "Authorization": key_of(yard)}
        for method, path, answer in await every(yard, headers):
            assert answer.status_code == 421, (method, path)
            assert method == "HEAD" or answer.json()["error"]["code"] == "http.host-not-ours"
    assert await deeds(yard) == []


@pytest.mark.parametrize("page", ["null", "https://evil.example", "http://api.evil.example"])
async def test_another_servers_page_is_refused_on_every_route_and_method(
    yard: Yard, page: str
) -> None:
    headers = {"Origin": page, "Authorization": key_of(yard)}
    for method, path, answer in await every(yard, headers):
        assert answer.status_code == 403, (method, path)
        assert method == "HEAD" or answer.json()["error"]["code"] == "http.origin-not-ours"
    assert await deeds(yard) == []


async def test_no_answer_lets_another_page_read_it(yard: Yard) -> None:
    for headers in ({}, {"Origin": "http://api"}, {"Origin": "https://evil.example"}):
        for method, path, answer in await every(yard, headers):
            found = [name for name in answer.headers if name.startswith("access-control-")]
            assert found == [], (method, path)


async def test_what_a_proxy_says_of_the_caller_grants_nothing(yard: Yard) -> None:
    said = {
        "X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1",
        "X-Forwarded-User": "admin", "X-Forwarded-Proto": "https", "Via": "1.1 127.0.0.1",
    }  # fmt: skip
    for method, path, answer in await every(yard, said):
        if path not in {*OPEN, "/openapi.json"} and not path.startswith("/docs"):
            assert answer.status_code in {401, 404, 405}, (method, path)


HOSTILE_KEYS: list[Any] = [
    "' OR 1=1--", "'; DROP TABLE resources;--", "x' UNION SELECT spec FROM resources--", "%00",
    "a" * 255, "a" * 257, "a" * 10_000, "..", "../admin.key", "null", "true", "admin", "\t", "",
    "é".encode(), b"\xff\xfe", "마당".encode(), "mdg_" + "0" * 64, "{}", "$(id)",
]  # fmt: skip


@pytest.mark.parametrize("secret", HOSTILE_KEYS)
async def test_a_hostile_key_is_one_look_up_and_one_answer(
    yard: Yard, secret: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    real = yard.desk.keys.find
    monkeypatch.setattr(
        type(yard.desk.keys), "find", lambda _self, given: looked.append(given) or real(given)
    )
    raw = secret if isinstance(secret, bytes) else secret.encode()
    answer = await yard.client.get("/api/v1/whoami", headers={"Authorization": b"Bearer " + raw})
    assert answer.status_code == 401
    assert len(looked) <= 1
    assert set(answer.json()["error"]) == {"code", "subject", "values", "message", "hint"}
    assert answer.json()["error"]["values"] == {"subject": ""}, "nothing of it is said back"


async def test_two_keys_are_none(yard: Yard) -> None:
    async with httpx.AsyncClient(transport=yard.client._transport, base_url="http://api") as client:
        shown = [("Authorization", key_of(yard)), ("Authorization", key_of(yard))]
        assert (await client.get("/api/v1/whoami", headers=shown)).status_code == 401
        assert (await client.post("/api/v1/apply", headers=shown, json={})).status_code == 401


async def test_names_may_be_added(yard: Yard) -> None:
    app = build(yard.desk, Front(frozenset({"madang.lan"})))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        headers = {"Host": "madang.lan:8443", "Origin": "https://madang.lan"}
        assert (await client.get("/healthz", headers=headers)).status_code == 200


async def test_websockets_are_hung_up_on(yard: Yard) -> None:
    sent = []

    async def never() -> Any:
        raise AssertionError("nothing is read")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/api/v1/changes", "headers": []}
    await yard.client._transport.app(scope, never, send)
    assert sent == []
