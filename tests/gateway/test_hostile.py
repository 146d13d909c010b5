"""A thousand requests to the gateway that nobody sends by mistake; the bench sends ten thousand."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from madang.testing.flood import KEY, Rig
from madang.testing.hostile_gateway import besiege, shots

SEED = 20261126


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A gateway process before two fake engines."""
    started = Rig(tmp_path, token_ms=0)
    try:
        started.begin()
        yield started
    finally:
        started.close()


@pytest.mark.timeout(180)
def test_a_thousand_hostile_requests_are_none_of_them_the_gateways_fault(rig: Rig) -> None:
    told = asyncio.run(besiege(rig.url, 1_000, SEED))
    assert told.failed == []
    assert told.cases == 1_000
    assert {200, 400, 404, 405, 413, 421, 431} <= set(told.statuses)
    deadline = time.monotonic() + 60
    while rig.waiting() or any(rig.under_way(target) for target in rig.targets):
        assert time.monotonic() < deadline, "something stays behind"
        time.sleep(0.05)
    body = {"model": "bot", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    asked = Request(
        f"{rig.url}/v1/chat/completions", json.dumps(body).encode(),
        {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
    )  # fmt: skip
    with urlopen(asked, timeout=30) as answer:
        assert json.loads(answer.read())["choices"]


def test_a_number_stands_for_the_same_requests() -> None:
    assert list(shots(50, 1)) == list(shots(50, 1)) != list(shots(50, 2))
