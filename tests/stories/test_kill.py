"""Every process of Madang is killed in turn; what must not notice does not."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable
from typing import Any

import openai
import pytest

from .conftest import Yard, is_alive, kill

pytestmark = [pytest.mark.story, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def served(running: Yard) -> Yard:
    """Two replicas of the fake engine, so that a kill is quick to recover from."""
    running.fake("words", words="one two three four five six seven eight", token_ms=2)
    running.apply(kind="service", name="words", model="words", scale=2)
    running.until_phase("service", "words", "ready")
    return running


def pids(yard: Yard) -> dict[str, int]:
    return {r["name"]: r["status"]["pid"] for r in yard.replicas("words")}


def is_ready(yard: Yard) -> bool:
    try:
        with urllib.request.urlopen(yard.told["api"] + "/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


class Caller(threading.Thread):
    """An application that keeps calling, and counts what went wrong."""

    def __init__(self, yard: Yard, model: str = "words") -> None:
        super().__init__()
        self.model = model
        self.client = openai.OpenAI(
            base_url=yard.told["gateway"], api_key=yard.told["api_key"], max_retries=0
        )
        self.stopping = threading.Event()
        self.good = 0
        self.bad: list[Any] = []

    def run(self) -> None:
        with self.client:
            while not self.stopping.is_set():
                try:
                    answer = self.client.chat.completions.create(
                        model=self.model,
                        messages=[{"role": "user", "content": "hi"}],
                        max_tokens=4,
                    )
                    self.good += bool(answer.choices[0].message.content)
                except openai.APIError as error:
                    self.bad.append(error)

    def __enter__(self) -> Caller:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.join()


def test_control_killed_is_back_and_engines_were_never_touched(served: Yard) -> None:
    before = pids(served)
    control = served.pid("control")
    with Caller(served) as caller:
        kill(control)
        served.until("control is back", lambda: not is_alive(control) and is_ready(served), 30)
        served.until("applications were served meanwhile", lambda: caller.good > 20)
    assert caller.bad == []
    assert pids(served) == before
    assert served.pid("control") != control
    assert served.phase("service", "words") == "ready"


def test_a_killed_gateway_comes_back_and_engines_were_never_touched(served: Yard) -> None:
    before = pids(served)
    gateway = served.pid("gateway")
    kill(gateway)
    served.until("the gateway is back", lambda: served.run("chat", "words", "hi").returncode == 0)
    assert served.pid("gateway") != gateway
    assert pids(served) == before


def test_what_a_killed_gateway_streamed_is_on_the_bill_once_and_marked(served: Yard) -> None:
    served.fake("long", words="word " * 2000, token_ms=20)
    served.apply(kind="service", name="long", model="long", scale=1)
    served.until_phase("service", "long", "ready")
    for life in range(1, 4):
        gateway = served.pid("gateway")
        served.until(
            "the gateway serves", lambda: served.run("chat", "words", "hi").returncode == 0
        )
        with openai.OpenAI(
            base_url=served.told["gateway"], api_key=served.told["api_key"], max_retries=0
        ) as client:
            turns: Any = [{"role": "user", "content": "hi"}]
            stream = client.chat.completions.create(model="long", messages=turns, stream=True)
            for count, _ in enumerate(stream):
                if count == 40:
                    break
            kill(gateway)
        served.until("another gateway is there", lambda g=gateway: served.pid("gateway") != g)
        served.until("what was cut is on the bill", lambda n=life: long_of(served)["requests"] == n)
    line = long_of(served)
    assert line["estimated"] == 3
    assert line["output_tokens"] >= 3 * 20
    counted = served.json("status")["usage"]["requests"]
    for by in ("day", "model", "key"):
        lines = served.json("usage", "--by", by)["tokens"]
        assert sum(each["requests"] for each in lines) == counted


def long_of(yard: Yard) -> Any:
    """The line of that model on the bill."""
    lines = yard.json("usage")["tokens"]
    found = [each for each in lines if each["model"].startswith("long")]
    return found[0] if found else {"requests": 0}


def test_a_killed_engine_is_replaced_while_the_other_serves(served: Yard) -> None:
    before = served.replicas("words")
    victim = before[0]
    with Caller(served) as caller:
        kill(victim["status"]["pid"])
        served.until(
            "the replica has a new process",
            lambda: (
                served.get("replica", victim["name"])["status"]["epoch"] > victim["status"]["epoch"]
            ),
        )
        served.until_phase("replica", victim["name"], "ready")
    assert caller.good > 0
    assert len(caller.bad) <= 1, "at most what was under way on the killed engine"
    assert served.get("replica", before[1]["name"])["status"]["pid"] == before[1]["status"]["pid"]


def test_scaling_down_and_rolling_lose_no_request(served: Yard) -> None:
    with Caller(served) as caller:
        served.apply(kind="service", name="words", model="words", scale=1)
        served.until("one is gone", lambda: len(served.replicas("words")) == 1)
        served.fake("words", words="other words than before and more of them", token_ms=2)
        served.apply(kind="service", name="words", model="words@2", scale=2)
        served.until(
            "the new revision serves",
            lambda: (
                [r["spec"]["revision"] for r in served.replicas("words")] == ["words-2"] * 2
                and served.phase("service", "words") == "ready"
            ),
        )
    assert caller.bad == []
    assert caller.good > 10


def test_the_supervisor_killed_takes_all_down_and_up_brings_all_back(
    new_yard: Callable[[str], Yard],
) -> None:
    yard = new_yard("root")
    yard.up()
    gone = [yard.supervisor, yard.pid("control"), yard.pid("gateway")]
    gone += [r["status"]["pid"] for r in yard.replicas("hello")]
    kill(gone[0])
    yard.until("nothing is left", lambda: not any(map(is_alive, gone)), 10)
    yard.up()
    assert yard.phase("service", "hello") == "ready"
    assert not set(gone) & {yard.supervisor, yard.pid("control"), yard.pid("gateway")}


def test_down_and_up_again_is_no_crash(new_yard: Callable[[str], Yard]) -> None:
    yard = new_yard("again")
    for _ in range(3):
        yard.up()
        (replica,) = yard.replicas("hello")
        assert replica["status"]["restarts"] == 0
        yard.json("down")
