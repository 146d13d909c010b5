"""A gateway of several processes: started by one flag, whole for its user when one is killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import httpx
import pytest

from .conftest import Yard
from .test_faults import unwell

pytestmark = [pytest.mark.story, pytest.mark.timeout(300)]

LIMIT = 6


def gateways(yard: Yard) -> dict[str, int]:
    """The gateway's processes, by what they are called."""
    found = yard.json("status")["processes"]
    return {each["uid"]: each["pid"] for each in found if each["uid"].startswith("gateway")}


def test_four_processes_are_one_gateway_also_when_one_is_killed(new_yard):
    yard: Yard = new_yard()
    assert "1 to 16 processes" in yard.run("up", "--gateway-processes", "17").stderr
    yard.env = {"MADANG_GATEWAY_PROCESSES": "2"}
    told = yard.told = yard.json("up", "--port", "0", "--gateway-processes", "4")
    assert told["answer"]
    before = gateways(yard)
    assert set(before) == {"gateway", "gateway-2", "gateway-3", "gateway-4"}
    found = json.loads(yard.run("doctor", "--json").stdout)["items"]
    answering = {each["subject"] for each in found if each["code"] == "doctor.part-answers"}
    assert answering == {"control", *before}
    assert [each["ok"] for each in found if each["code"] == "doctor.gateway-plain"] == [True]
    assert "listening on" in yard.run("logs", "process/gateway-3").stdout

    made = yard.json("key", "create", "app", "--limit", f"rpm={LIMIT}")
    headers = {"Authorization": f"Bearer {made['key']}"}
    question = {"model": "hello", "messages": [{"role": "user", "content": "1+1?"}]}
    question["max_tokens"] = 1

    def ask() -> int:
        with httpx.Client(headers=headers, timeout=60) as client:
            return client.post(f"{told['gateway']}/chat/completions", json=question).status_code

    yard.until("all know the key", lambda: not unwell(yard))
    os.kill(before["gateway-2"], signal.SIGKILL)
    codes = [ask() for _ in range(4 * LIMIT)]
    assert set(codes) == {200, 429}
    assert codes.count(200) == LIMIT
    yard.until(
        "it is started anew",
        lambda: gateways(yard).get("gateway-2", 0) not in {0, before["gateway-2"]},
    )
    yard.until("all is well", lambda: not unwell(yard))
    after = gateways(yard)
    assert {uid for uid in after if after[uid] != before[uid]} == {"gateway-2"}

    yard.env = {"MADANG_GATEWAY_PROCESSES": "2"}
    assert "with 4 gateway processes, not 2" in yard.run("up").stderr
    yard.run("down")
    yard.up()
    assert set(gateways(yard)) == {"gateway", "gateway-2"}
    assert sorted(each.name for each in Path(yard.home, "gateway").glob("table-*.json")) == [
        "table-gateway-2.json"
    ]
