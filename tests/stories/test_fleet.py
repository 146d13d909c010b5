"""A simulated fleet from up to down: two kinds serve, control dies, a node vanishes and returns."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from madang.launchers.simulated import FleetLine

from .conftest import Yard, kill

pytestmark = [pytest.mark.story, pytest.mark.timeout(240)]

KOREA = Path(__file__).parents[2] / "examples" / "fleets" / "korea.yaml"
REPLICAS = 26
"""Of 40 GB: two more than there are RNGDs of 48 GB; these two get four ATOM-Max each."""


@pytest.fixture(scope="module")
def korea(tmp_path_factory: pytest.TempPathFactory) -> Any:
    yard = Yard(tmp_path_factory.mktemp("korea") / "home")
    yard.told = yard.json("up", "--port", "0", "--fleet", str(KOREA))
    yard.fake("talker", words="I am simulated.")
    yard.apply(
        kind="service", name="many", model="talker", scale=REPLICAS, needs={"memory": "40GB"},
        prefer="domestic",
    )  # fmt: skip
    yard.until("all are ready", lambda: len(ready(yard)) == REPLICAS)
    yield yard
    yard.run("down")


def ready(yard: Yard) -> dict[str, tuple[str, int]]:
    """Return node and epoch of every replica that is ready."""
    found = [r for r in yard.replicas("many") if r["status"]["phase"] == "ready"]
    return {r["name"]: (r["status"]["node"], r["status"]["epoch"]) for r in found}


def vanish(yard: Yard, node: str, lasts_s: float) -> None:
    """Take a node away, with all that runs on it."""

    async def order() -> None:
        line = FleetLine(yard.home / "run" / "fleet.sock", 0)
        await line.ask(node, "vanish", lasts_s=lasts_s)  # type: ignore[arg-type]
        await line.close()

    asyncio.run(order())


def test_it_is_said_that_all_of_this_is_simulated(korea: Yard) -> None:
    assert korea.told["simulated"] == {
        "file": "korea.yaml", "sites": 2, "nodes": 40, "accelerators": 196
    }  # fmt: skip
    assert "simulated" in korea.told["answer"]
    assert "All nodes are simulated." in korea.run("status").stdout
    assert "40 nodes are simulated" in korea.run("doctor").stdout
    assert "simulated=yes" in korea.run("get", "node").stdout
    assert korea.run("up").stdout.startswith("Simulated:")


def test_status_tells_many_nodes_together(korea: Yard) -> None:
    lines = korea.run("status").stdout.splitlines()
    rows = [line.split() for line in lines]
    assert ["busan-edge", "12", "ready", "192", "384GB", "12", "cpu"] in rows
    assert not any("edge-01" in line for line in lines)


def test_one_service_of_two_forms_takes_each_where_the_other_finds_no_room(
    korea: Yard,
) -> None:
    korea.apply(
        kind="service", name="forms", model="talker", scale=12,
        needs={"accelerator": "nvidia/h100", "count": 8, "memory": "60GB"},
        variants=[{"accelerator": "nvidia/v100", "count": 4, "memory": "20GB"}],
    )  # fmt: skip

    def by_kind() -> Counter[str]:
        found = (r for r in korea.replicas("forms") if r["status"]["phase"] == "ready")
        return Counter(r["status"]["node"].partition("-")[0] for r in found)

    korea.until("every node of both has one", lambda: by_kind() == {"h100": 4, "v100": 8})
    told = {r["status"]["variant"]: r["status"]["memory_bytes"] for r in korea.replicas("forms")}
    assert told == {0: 60 * 10**9, 1: 20 * 10**9}
    korea.run("delete", "service/forms")
    korea.until("it is gone", lambda: not korea.replicas("forms"))


def test_one_service_runs_on_two_kinds_and_each_build_had_its_gate(korea: Yard) -> None:
    places = Counter(node.partition("-")[0] for node, _ in ready(korea).values())
    assert places == {"rngd": 24, "atom": 2}
    on_atom = [r for r in korea.replicas("many") if r["status"]["node"].startswith("atom")]
    assert {len(r["status"]["accelerators"]) for r in on_atom} == {4}, "a group is never split"
    builds = {b["spec"]["accelerator"]: b["status"] for b in korea.json("get", "build")}
    for kind in ("furiosa/rngd", "rebellions/atom-max"):
        assert builds[kind]["verdict"] == "passed"
        assert builds[kind]["checks"]
    assert "simulated" in korea.run("chat", "many", "Are you real?").stdout


def test_what_does_not_fit_is_explained(korea: Yard) -> None:
    korea.apply(kind="service", name="huge", model="talker", needs={"memory": "141GB"})
    korea.until_phase("service", "huge", "pending")
    assert korea.json("explain", "service/huge")["smallest_fix"]["code"] == "placement.fix-memory"
    korea.json("delete", "service/huge")


def test_control_dies_and_finds_every_replica_where_it_was(korea: Yard) -> None:
    before, control = ready(korea), korea.pid("control")
    kill(control)
    assert "simulated" in korea.run("chat", "many", "Are you there?").stdout
    korea.until("control is back", lambda: korea.run("status").returncode == 0)
    assert korea.pid("control") != control
    assert ready(korea) == before
    fleet = korea.pid("fleet")
    assert {r["status"]["pid"] for r in korea.replicas("many")} == {fleet}


def answers(korea: Yard) -> bool:
    return "simulated" in korea.run("chat", "many", "Who is left?").stdout


def test_a_node_that_vanishes_is_lost_and_its_replicas_start_anew_when_it_is_back(
    korea: Yard,
) -> None:
    before = ready(korea)
    mine = {name for name, (node, _) in before.items() if node == "rngd-1"}
    assert len(mine) == 8
    vanish(korea, "rngd-1", 3600)
    korea.until_phase("node", "rngd-1", "lost")
    assert "node/rngd-1" in korea.run("doctor").stdout
    korea.until("who is left answers", lambda: answers(korea))
    vanish(korea, "rngd-1", 0)
    korea.until_phase("node", "rngd-1", "ready")

    def replaced() -> bool:
        now = ready(korea)
        return len(now) == REPLICAS and all(now[name][1] > before[name][1] for name in mine)

    korea.until("its replicas have started anew", replaced)
    after = ready(korea)
    assert {n: after[n] for n in before.keys() - mine} == {
        n: before[n] for n in before.keys() - mine
    }


def test_a_fleet_home_stays_one_and_ends_with_down(
    korea: Yard, new_yard: Callable[[str], Yard]
) -> None:
    other = KOREA.with_name("openb.yaml")
    refused = korea.run("up", "--fleet", str(other))
    assert (refused.returncode, "korea.yaml" in refused.stderr) == (2, True)
    korea.json("down")
    korea.up()
    assert korea.told["simulated"]["nodes"] == 40
    korea.until("all are ready again", lambda: len(ready(korea)) == REPLICAS)
    real = new_yard("real")
    real.home.mkdir()
    (real.home / "state.db").touch()
    refused = real.run("up", "--fleet", str(KOREA))
    assert (refused.returncode, "home of real nodes" in refused.stderr) == (2, True)
