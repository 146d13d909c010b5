"""Quotas as people set them: who may, what is told of them, what they refuse at once."""

from __future__ import annotations

import asyncio

from .conftest import DEADLINE_S, Yard

QUOTA = {"kind": "quota", "name": "local/main", "accelerators": {"cpu": 1}, "cores": 4,
         "storage": "1GB"}  # fmt: skip


async def test_a_quota_tells_what_is_used_of_it_and_refuses_what_could_never_start(
    yard: Yard,
) -> None:
    await yard.apply(QUOTA)
    told = (await yard.get("quota/local/main"))["status"]["used"]
    assert [(each["what"], each["used"]) for each in told] == [
        ("accelerators cpu", 0.0), ("cores", 0.0), ("storage", "0B"),
    ]  # fmt: skip
    job = {"kind": "job", "name": "wide", "command": "true", "needs": {"cores": 8}}
    refused = await yard.apply(job, status=400)
    assert refused["error"]["code"] == "quota.never"
    assert refused["error"]["hint"]
    much = {"kind": "volume", "name": "much", "size": "2GB"}
    refused = await yard.apply(much, status=400)
    assert refused["error"]["code"] == "quota.volume"
    assert refused["error"]["values"]["most"] == "1GB"
    await yard.apply({**much, "size": "600MB"})
    refused = await yard.apply({**much, "name": "more", "size": "600MB"}, status=400)
    assert refused["error"]["code"] == "quota.volume"
    assert (await yard.client.delete("/api/v1/quota/local/main")).status_code == 200
    await yard.apply({**much, "name": "more", "size": "600MB"})


async def test_an_organization_divides_what_the_site_gives_it(yard: Yard) -> None:
    await yard.apply(
        {"kind": "organization", "name": "acme"}, {"kind": "project", "name": "acme/lab"}
    )
    asked = {"name": "acme", "role": "operator", "project": "acme/lab", "where": "acme"}
    made = await yard.post("key", asked)
    yard.client.headers["Authorization"] = f"Bearer {made['key']}"
    await yard.apply({"kind": "quota", "name": "acme/lab", "cores": 4})
    refused = await yard.apply({"kind": "quota", "name": "acme", "cores": 8}, status=403)
    assert refused["error"]["code"] == "quota.set-above"
    assert refused["error"]["values"]["above"] == "site"
    await yard.apply({"kind": "quota", "name": "beta", "cores": 8}, status=404)


async def test_who_waits_for_a_quota_is_told_what_else_would_help(yard: Yard) -> None:
    await yard.apply({"kind": "quota", "name": "local/main", "cores": 0.5})
    one = {"kind": "job", "command": "sleep 60", "needs": {"cores": 0.4}}
    await yard.apply({**one, "name": "first"})
    await yard.until("job", "first", "running")
    await yard.apply({**one, "name": "second"})
    async with asyncio.timeout(DEADLINE_S):
        while True:
            told = await yard.get("job/second/explanation")
            if told["reason"] and told["reason"]["code"] == "quota.cores":
                break
            await asyncio.sleep(0.05)
    assert told["smallest_fix"]["code"] == "placement.fix-cores"
    (raised,) = told["other_fixes"]
    assert raised["code"] == "quota.fix-raise"
    assert (raised["values"]["was"], raised["values"]["most"]) == ("0.5", "1")
