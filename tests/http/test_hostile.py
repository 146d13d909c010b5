"""A thousand requests that nobody sends by mistake; the story sends ten thousand."""

from __future__ import annotations

import httpx
import pytest

from madang.testing.hostile import besiege

from .conftest import Yard

SEED = 20261126


@pytest.mark.timeout(180)
async def test_a_thousand_hostile_requests_are_none_of_them_our_fault(yard: Yard) -> None:
    await yard.add_model()
    await yard.apply({"kind": "service", "name": "bot", "model": "tiny"})
    transport = yard.client._transport
    assert isinstance(transport, httpx.ASGITransport)
    key = yard.client.headers["authorization"]
    told = await besiege(transport.app, key, 1_000, SEED)  # type: ignore[arg-type]
    assert told.failed == []
    assert told.cases >= 1_000
    assert told.statuses[400] > told.cases // 10
    assert (await yard.get("whoami"))["role"] == "operator", "nobody has taken our key away"
    assert (await yard.get("service/bot"))["name"] == "bot"
