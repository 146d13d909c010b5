"""Simulated nodes behave as their fleet file says, and the engines on them as real ones do."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from madang.engines import fake_fleet
from madang.engines.fake import Fake
from madang.errors import Rejected, Unavailable
from madang.launchers.simulated import FleetLine, Simulated, SimulatedProbe
from madang.ports import Assignment
from madang.resources.fleet import Fleet, plain
from madang.resources.power import Watts
from madang.supervisor.protocol import LaunchPlan, Process

DEADLINE_S = 20.0


def node(name: str, kind: str, **more: object) -> dict[str, object]:
    return {"name": name, "cores": 8, "memory": "64GB", "accelerators": {kind: 2}, **more}


FLEET = plain(
    Fleet.model_validate({
        "seed": 7,
        "accelerators": {
            "maker/quick": {"memory": "16GB", "start": "0s"},
            "maker/slow": {"memory": "16GB", "start": "1h"},
            "maker/never": {"memory": "16GB", "start": "0s", "fails": 1},
            "maker/moody": {"memory": "16GB", "start": "0s", "fails": 0.5},
        },
        "sites": [{"name": "yard", "pools": [{"name": "all", "nodes": [
            node("quick", "maker/quick"), node("slow", "maker/slow"),
            node("never", "maker/never"), node("moody", "maker/moody"),
            node("away", "maker/quick", vanishes=[{"after": "0s", "lasts": "1h"}]),
        ]}]}],
    })
)  # fmt: skip


class Yard:
    """The process that simulates, and one connection to it."""

    def __init__(self, home: Path) -> None:
        home.mkdir(exist_ok=True)
        self.home = home
        (home / "fleet.json").write_text(json.dumps(FLEET))
        reader, writer = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", fake_fleet.__file__, str(home)],
            env={"MADANG_READY_FD": str(writer)}, pass_fds=(writer,),
        )  # fmt: skip
        os.close(writer)
        with os.fdopen(reader) as ready:
            assert "url" in json.loads(ready.readline())
        self.line = FleetLine(home / "run" / "fleet.sock", 1, DEADLINE_S)

    def node(self, name: str) -> Simulated:
        return Simulated(name, self.line)

    def plan(self, uid: str, on: str, **script: object) -> LaunchPlan:
        path = self.home / f"{uid}.json"
        path.write_text(json.dumps({"fake": 1, **script}))
        wanted = Assignment(
            uid=uid, epoch=1, model_name="m", model_path=path, context_tokens=8192, slots=4,
            memory_bytes=10**9, cores=1, accelerators=(f"{on}-npu0",), devices=(),
            token=f"key-{uid}",
        )  # fmt: skip
        return Fake().launch(wanted)

    async def start(self, uid: str, on: str, **script: object) -> None:
        await self.node(on).start(self.plan(uid, on, **script))

    async def until(self, on: str, uid: str, holds: Callable[[Process], object]) -> Process:
        """Look until it holds of that process."""
        async with asyncio.timeout(DEADLINE_S):
            seen = await self.node(on).observe(0, 0)
            while not (found := [p for p in seen.processes if p.uid == uid and holds(p)]):
                seen = await self.node(on).observe(seen.seq, 1)
            return found[0]

    async def close(self) -> None:
        await self.line.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
async def yard(tmp_path: Path) -> Iterator[Yard]:
    yard = Yard(tmp_path / "home")
    yield yard
    await yard.close()


def ask(process: Process, key: str, **body: object) -> tuple[int, dict]:
    """Ask an engine: who it is, or to chat; raises ConnectionError where nobody answers."""
    line = http.client.HTTPConnection(urlsplit(process.announced["url"]).netloc, timeout=DEADLINE_S)
    how = ("POST", "/v1/chat/completions", json.dumps(body)) if body else ("GET", "/v1/models")
    with closing(line):
        line.request(*how, headers={"Authorization": f"Bearer {key}"})
        answer = line.getresponse()
        return answer.status, json.loads(answer.read())


CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


async def test_one_address_answers_for_all_and_each_engine_to_its_own_key_alone(yard):
    await yard.start("a", "quick", words="I am a.")
    await yard.start("b", "quick", words="I am b.")
    for uid in "ab":
        found = await yard.until("quick", uid, lambda p: p.announced)
        status, models = await asyncio.to_thread(ask, found, f"key-{uid}")
        assert (status, models["data"][0]["id"]) == (200, uid)
        _, said = await asyncio.to_thread(ask, found, f"key-{uid}", **CHAT)
        assert said["choices"][0]["message"]["content"].strip() == f"I am {uid}."
    status, _ = await asyncio.to_thread(ask, found, "key-of-nobody")
    assert status == 401


async def test_where_an_engine_has_ended_nobody_answers_to_its_key(yard):
    await yard.start("a", "quick")
    found = await yard.until("quick", "a", lambda p: p.announced)
    await yard.node("quick").stop("a", 1, 10)
    with pytest.raises(ConnectionError):
        await asyncio.to_thread(ask, found, "key-a")


async def test_a_crash_ends_one_engine_and_none_of_the_others(yard):
    await yard.start("a", "quick", fail={"crash_after_requests": 0})
    await yard.start("b", "quick")
    found = await yard.until("quick", "a", lambda p: p.announced)
    with pytest.raises(ConnectionError):
        await asyncio.to_thread(ask, found, "key-a", **CHAT)
    ended = await yard.until("quick", "a", lambda p: p.state == "exited")
    assert ended.exit_code == 70
    other = await yard.until("quick", "b", lambda p: p.announced)
    assert (await asyncio.to_thread(ask, other, "key-b", **CHAT))[0] == 200


async def test_a_start_takes_as_long_as_its_kind_needs(yard):
    await yard.start("s", "slow")
    await yard.start("q", "quick")
    await yard.until("quick", "q", lambda p: p.announced)
    starting = await yard.until("slow", "s", lambda p: p.state == "running")
    assert starting.announced is None


async def test_a_start_that_fails_says_that_the_fleet_file_wants_it(yard):
    await yard.start("a", "never")
    ended = await yard.until("never", "a", lambda p: p.state == "exited")
    assert ended.exit_code == 1
    (line,) = await yard.node("never").tail("a", 5)
    assert "as the fleet file says" in line


async def test_which_starts_fail_follows_from_the_seed(yard, tmp_path):
    again = Yard(tmp_path / "again")
    outcomes = []
    try:
        for each in (yard, again):
            failed = set()
            for number in range(20):
                await each.start(f"m{number}", "moody")
                done = await each.until(
                    "moody", f"m{number}", lambda p: p.announced or p.state == "exited"
                )
                failed |= {number} if done.state == "exited" else set()
            outcomes.append(failed)
    finally:
        await again.close()
    assert outcomes[0] == outcomes[1]
    assert 0 < len(outcomes[0]) < 20


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_node_that_vanishes_returns_with_or_without_what_ran_there(yard, keeps):
    await yard.start("a", "quick")
    found = await yard.until("quick", "a", lambda p: p.announced)
    before = await yard.node("quick").observe(0, 0)
    waiting = asyncio.create_task(yard.node("quick").observe(before.seq, 60))
    await yard.line.ask("quick", "vanish", lasts_s=3600, keeps=keeps)
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await yard.start("b", "quick")
    with pytest.raises(ConnectionError):
        await asyncio.to_thread(ask, found, "key-a")
    await yard.line.ask("quick", "vanish", lasts_s=0, keeps=keeps)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                after = await yard.node("quick").observe(0, 0)
                break
            except Unavailable:
                continue
    assert [p.uid for p in after.processes] == (["a"] if keeps else [])
    assert (after.boot == before.boot) is keeps


async def test_a_node_can_be_away_by_the_clock_of_the_file(yard):
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await yard.node("away").observe(0, 0)
            except Unavailable:
                break


async def test_an_older_control_is_refused_on_every_node_that_a_newer_one_has_seen(yard):
    newer = FleetLine(yard.home / "run" / "fleet.sock", 2, DEADLINE_S)
    await Simulated("quick", newer).observe(0, 0)
    with pytest.raises(Rejected) as refused:
        await yard.start("a", "quick")
    assert refused.value.code == "supervisor.stale-term"
    await newer.close()


async def test_what_is_no_fake_engine_is_refused_with_that_reason(yard):
    with pytest.raises(Rejected) as refused:
        await yard.node("quick").start(LaunchPlan("a", 1, ("sh", "-c", "exit")))
    assert refused.value.values["cause"] == "only the fake engine can be simulated"


async def test_a_node_that_is_not_in_the_file_is_out_of_sight(yard):
    with pytest.raises(Unavailable):
        await yard.node("nowhere").observe(0, 0)


def test_a_probe_finds_what_the_file_says():
    (first, second) = SimulatedProbe(FLEET["nodes"][0]).find()
    assert (first.name, first.kind, first.memory_bytes) == ("npu0", "maker/quick", 16 * 10**9)
    assert (second.name, first.shared, first.attributes) == ("npu1", False, {"simulated": 1})


def test_a_probe_finds_how_accelerators_are_given():
    whole = {"name": "npu0", "kind": "maker/quick", "memory_bytes": 16 * 10**9}
    for given, wanted in (
        ({}, (False, "shared", "")),
        ({"group": "maker/quick-0"}, (False, "shared", "maker/quick-0")),
        ({"guarantee": "isolated"}, (True, "isolated", "")),
        ({"kind": "cpu"}, (True, "shared", "")),
        ({"kind": "cpu", "guarantee": "limited"}, (True, "limited", "")),
    ):
        (found,) = SimulatedProbe({"accelerators": [whole | given]}).find()
        assert (found.shared, found.guarantee, found.group) == wanted
        assert found.watts is None
    (found,) = SimulatedProbe(
        {"accelerators": [whole | {"watts": {"idle": 60.0, "full": 700.0}}]}
    ).find()
    assert found.watts == Watts(idle=60, full=700)
