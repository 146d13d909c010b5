"""A service that has no replica until it is called: nobody who calls is turned away for that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from .conftest import Yard, kill

pytestmark = [pytest.mark.story, pytest.mark.timeout(240)]

CALLS = 20
RANGE = {"min": 0, "max": 3, "inflight": 8, "idle": "4s", "hold": "90s"}


@contextmanager
def calling(yard: Yard, model: str) -> Iterator[list[Future[str]]]:
    """Call a model so many times at once, each on a connection of its own."""
    client = openai.OpenAI(
        base_url=yard.told["gateway"], api_key=yard.told["api_key"], max_retries=0
    )

    def call(number: int) -> str:
        answer = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": f"Say {number}."}], max_tokens=4
        )
        return answer.choices[0].message.content or ""

    with client, ThreadPoolExecutor(CALLS) as pool:
        yield [pool.submit(call, number) for number in range(CALLS)]


def scaled(yard: Yard, name: str) -> list[str]:
    """Return why a service was to have another number of replicas, one after the other."""
    events = yard.json("events")
    return [
        e["values"]["reason"] for e in events if (e["code"], e["name"]) == ("service.scaled", name)
    ]


def until_asleep(yard: Yard, name: str) -> None:
    yard.until(f"{name} has no replica", lambda: not yard.replicas(name), 120)
    yard.until(
        "it says so",
        lambda: yard.get("service", name)["status"]["reason"]["code"] == "service.asleep",
    )


def served(yard: Yard, name: str, model: str, **scale: Any) -> None:
    yard.apply(kind="service", name=name, model=model, scale={**RANGE, **scale})
    until_asleep(yard, name)


def test_twenty_calls_wake_a_service_and_all_are_answered(running: Yard) -> None:
    running.fake("nap", words="one two three", load_ms=500)
    served(running, "nap", "nap")
    with calling(running, "nap") as calls:
        assert [call.result()[:13] for call in calls] == ["one two three"] * CALLS
    assert scaled(running, "nap")[0] == "service.grown"
    until_asleep(running, "nap")
    assert scaled(running, "nap")[-1] == "service.fell-asleep"
    told = running.run("explain", "service/nap").stdout
    assert "It has no replica until it is called, and none after 4s without a call." in told
    service = next(s for s in running.json("status")["services"] if s["name"] == "nap")
    assert (service["phase"], service["wanted"], service["ready"]) == ("ready", 0, 0)
    row = next(line for line in running.run("get", "service").stdout.splitlines() if "nap" in line)
    assert "0/0..3" in row
    running.json("delete", "service/nap")


def test_a_control_that_dies_meanwhile_keeps_nobody_waiting_for_long(running: Yard) -> None:
    running.fake("doze", words="four five", load_ms=3000)
    served(running, "doze", "doze")
    with calling(running, "doze") as calls:
        running.until("a replica is on its way", lambda: bool(running.replicas("doze")))
        kill(running.pid("control"))
        assert [call.result()[:9] for call in calls] == ["four five"] * CALLS
    running.json("delete", "service/doze")


def test_who_waits_in_vain_is_told_what_keeps_the_model_and_when_to_come_again(
    running: Yard,
) -> None:
    running.fake("vast", words="never")
    needs = {"memory": "900TB"}
    scale = {**RANGE, "hold": "2s"}
    running.apply(kind="service", name="vast", model="vast", needs=needs, scale=scale)
    client = openai.OpenAI(
        base_url=running.told["gateway"], api_key=running.told["api_key"], max_retries=0
    )
    with client, pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="vast", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.status_code == 503
    assert int(caught.value.response.headers["retry-after"]) >= 1
    said = json.loads(caught.value.response.text)["error"]
    assert said["code"] == "waited_too_long"
    assert "900TB" in said["message"]
    running.json("delete", "service/vast")


def test_a_real_model_sleeps_and_wakes(running: Yard) -> None:
    model = running.get("service", "hello")["spec"]["model"]
    served(running, "real", model, max=2)
    with calling(running, "real") as calls:
        answers = [call.result() for call in calls]
    assert len(answers) == CALLS
    assert all(answers)
    until_asleep(running, "real")
    running.json("delete", "service/real")
