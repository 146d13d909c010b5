"""A thousand requests that nobody sends by mistake; the story sends ten thousand."""

from __future__ import annotations

import re

import httpx
import pytest
from fastapi.routing import APIRoute

from madang.api.app import OPEN, every_route
from madang.testing.hostile import besiege

from .conftest import Yard

SEED = 20261126
HANGUL = re.compile("[가-힣]")


@pytest.mark.timeout(180)
async def test_a_thousand_hostile_requests_are_none_of_them_our_fault(yard: Yard) -> None:
    await yard.add_model()
    await yard.apply({"kind": "service", "name": "bot", "model": "tiny"})
    transport = yard.client._transport
    assert isinstance(transport, httpx.ASGITransport)
    key = yard.client.headers["authorization"]
    told = await besiege(transport.app, key, 1_000, SEED)  # type: ignore[arg-type]
    assert told.failed == []
    assert told.taken == [], "the schema forbids these, and the server did them"
    assert told.wrong > 100
    assert told.cases >= 1_000
    assert told.statuses[400] > told.cases // 10
    assert (await yard.get("whoami"))["role"] == "operator", "nobody has taken our key away"
    assert (await yard.get("service/bot"))["name"] == "bot"


def known(route: APIRoute) -> list[str]:
    return sorted(each.alias for each in route.dependant.query_params)


async def test_no_route_ignores_a_query_parameter(yard: Yard) -> None:
    app = yard.client._transport.app  # type: ignore[attr-defined]
    routes = [r for r in every_route(app.routes) if isinstance(r, APIRoute) and r.path not in OPEN]
    assert len(routes) >= 15
    for route in routes:
        path = route.path.replace("{kind}", "service").replace("{name:path}", "bot")
        for method in sorted(route.methods):
            for odd in ("x", "projct", "", "Project", "한글"):
                answer = await yard.client.request(
                    method, path.replace("{name}", "bot"), params={odd: "1"}
                )
                error = answer.json()["error"]
                assert (answer.status_code, error["code"], error["values"]["key"]) == (
                    400, "api.unknown-parameter", odd,
                ), (method, path)  # fmt: skip
                if odd == "projct" and "project" in known(route):
                    assert error["values"]["nearest"] == "project"


async def test_who_has_no_key_is_told_nothing_of_parameters(yard: Yard) -> None:
    answer = await yard.client.get("/api/v1/key?x=1", headers={"Authorization": ""})
    assert answer.status_code == 401


async def test_a_digest_is_a_digest_from_its_first_to_its_last_letter(yard: Yard) -> None:
    for odd in ("0" * 63, "x" + "0" * 64, "0" * 64 + "x"):
        body = {"what": "drilled", "sha256": odd}
        assert (await yard.post("backup/outcome", body, 400))["error"]["code"] == "api.value"


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("GET", "audit?limit=x", ""), ("GET", "audit?limit=0", ""), ("GET", "event?wait_s=1e9", ""),
        ("GET", "changes", ""), ("GET", "house", ""), ("GET", "service?project=A", ""),
        ("GET", "service/a%2Fb", ""), ("GET", "service/B", ""), ("GET", "audit?limit=%", ""),
        ("POST", "key", "{"), ("POST", "key", "[]"), ("POST", "key", "null"), ("POST", "key", ""),
        ("POST", "key", '{"name": "a", "role": "king"}'), ("POST", "key", '{"name": "a", "x": 1}'),
        ("POST", "key", '{"name": "a", "expires_s": 1e999}'), ("PUT", "key", "{}"),
        ("POST", "apply", '{"documents": [{"kind": "service", "name": "a", "model": "b@0"}]}'),
        ("POST", "apply", '{"documents": [{"kind": "service", "name": "a", "model": "hf://b"}]}'),
        ("POST", "apply", '{"documents": [{"kind": "organization", "name": "site"}]}'),
    ],
)  # fmt: skip
async def test_every_refused_value_is_refused_in_korean_to_who_reads_korean(
    yard: Yard, method: str, path: str, content: str
) -> None:
    said = {}
    for lang in ("en", "ko"):
        answer = await yard.client.request(
            method, f"/api/v1/{path}", content=content, headers={"Accept-Language": lang}
        )
        assert answer.status_code in {400, 405}, answer.text
        said[lang] = answer.json()["error"]
    cause = str(said["ko"]["values"].get("cause", ""))
    assert HANGUL.search(said["ko"]["message"])
    assert not HANGUL.search(said["en"]["message"])
    assert not cause or cause not in said["ko"]["message"], "the raw words"
