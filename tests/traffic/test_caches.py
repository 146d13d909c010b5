"""Prompts of projects are kept apart: what goes to the engine, byte by byte."""

from __future__ import annotations

import json
from typing import Any

import pytest

from madang.traffic.caches import seed
from madang.traffic.exchange import Exchange
from madang.traffic.limits import Limits
from madang.traffic.requests import Request, read
from madang.traffic.route import Router
from madang.traffic.table import Endpoint, Key, Target

TARGET = Target("rep-1", 1, "http://e", "t")
BODIES: dict[Any, bytes] = {
    "chat": b'{"model": "bot", "messages": [{"role": "user", "content": "hi"}]}',
    "completions": b'{"model": "bot", "prompt": "hi"}',
    "responses": b'{"model": "bot", "input": "hi"}',
    "embeddings": b'{"model": "bot", "input": "hi"}',
}


def sent(kind: Any, cache: set[str], salt: str = "5a17") -> bytes:
    """Return the body as the engine gets it."""
    request = read(kind, BODIES[kind])
    assert isinstance(request, Request)
    endpoint = Endpoint("a/b", "bot", "m", (TARGET,), 4096, cache=frozenset(cache))
    key, limits = Key("app", "a/b", "member", salt=salt), Limits()
    exchange = Exchange("id", key, endpoint, request, Router(limits), 0.0)
    return exchange.upstream(TARGET)[1]


def test_the_request_that_is_sent_carries_the_salt_of_the_project() -> None:
    assert sent("chat", {"cache-salt"}) == (
        b'{"model":"rep-1","messages":[{"role":"user","content":"hi"}],"cache_salt":"5a17"}'
    )
    assert sent("completions", {"cache-salt"}) == (
        b'{"model":"rep-1","prompt":"hi","cache_salt":"5a17"}'
    )


@pytest.mark.parametrize("kind", ["chat", "completions", "responses"])
def test_where_an_engine_has_no_salt_it_keeps_no_prompt(kind: Any) -> None:
    body = json.loads(sent(kind, {"cache-off"}))
    assert body["cache_prompt"] is False
    assert "cache_salt" not in body


@pytest.mark.parametrize("kind", ["chat", "completions", "responses"])
def test_among_engines_of_both_sorts_each_finds_its_own_field(kind: Any) -> None:
    body = json.loads(sent(kind, {"cache-off", "cache-salt"}))
    assert (body["cache_prompt"], body["cache_salt"]) == (False, "5a17")


def test_nothing_is_added_where_nothing_is_kept_or_nobody_shares() -> None:
    assert sent("embeddings", {"cache-off", "cache-salt"}) == sent("embeddings", set())
    assert b"cache" not in sent("chat", set())


def test_requests_of_two_projects_begin_alike_only_where_a_cache_would_take_them_so() -> None:
    def of(project: str, *cache: str) -> int | None:
        endpoint = Endpoint("a/b", "bot", "m", (), 4096, cache=frozenset(cache))
        return seed(endpoint, Key("app", project, "member", salt=project), 7)

    assert of("a/b") == of("c/d") == 7
    assert of("a/b", "cache-salt") == of("a/b", "cache-salt") != of("c/d", "cache-salt")
    assert of("a/b", "cache-off") is None
    assert of("a/b", "cache-off", "cache-salt") is None
