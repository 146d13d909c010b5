"""Accelerators break under a job and a service, on a simulated fleet: both go on elsewhere."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from madang.launchers.simulated import FleetLine

from .conftest import Yard

pytestmark = [pytest.mark.story, pytest.mark.timeout(240)]

FLEET = """
accelerators:
  nvidia/h100: {memory: 80GB, start: 100ms}
sites:
  - name: seoul
    pools:
      - name: training
        nodes:
          - {name: h100, count: 5, cores: 64, memory: 1TB, accelerators: {nvidia/h100: 4},
             ails: [{after: 0s, accelerator: gpu3, hot: true}]}
"""
"""Twenty accelerators: a fifth of them are four. The last of each node is hot from the start."""
DRILL = {
    "steps": 60, "step_s": 0.1, "save_every": 10,
    "fail": {"rank": 0, "step": 25, "exit_code": 1, "xid": 79, "attempt": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("ill")
    (folder / "fleet.yaml").write_text(FLEET)
    yard = Yard(folder / "home")
    yard.told = yard.json("up", "--port", "0", "--fleet", str(folder / "fleet.yaml"))
    yard.fake("talker", words="I am simulated.")
    yield yard
    yard.run("down")


def ail(yard: Yard, accelerator: str, **shows: Any) -> None:
    """Let an accelerator fall ill, or be well again."""
    node, _, device = accelerator.rpartition("-")

    async def order() -> None:
        line = FleetLine(yard.home / "run" / "fleet.sock", 0)
        await line.ask(node, "ail", accelerator=device, shows=shows)  # type: ignore[arg-type]
        await line.close()

    asyncio.run(order())


def health(yard: Yard, accelerator: str) -> Any:
    return yard.get("accelerator", accelerator)["status"]


def until(yard: Yard, accelerator: str, phase: str) -> Any:
    yard.until_phase("accelerator", accelerator, phase)
    return health(yard, accelerator)


def row(yard: Yard, accelerator: str) -> str:
    lines = yard.run("get", "accelerator").stdout.splitlines()
    return next(line for line in lines if line.split()[0] == accelerator)


def broken_by_job(yard: Yard) -> str:
    """Return the accelerator that the first attempt had."""
    cause = yard.get("attempt", "train-1")["status"]["cause"]
    assert cause["code"] == "attempt.accelerator"
    return str(cause["values"]["accelerator"])


def test_a_job_goes_on_elsewhere_and_everything_says_why(fleet: Yard) -> None:
    fleet.apply(
        kind="job", name="train", needs={"accelerator": "nvidia/h100", "count": 1},
        command=f"madang-drill '{json.dumps(DRILL)}'",
    )  # fmt: skip
    fleet.until_phase("job", "train", "succeeded")
    broken = broken_by_job(fleet)
    first = fleet.get("attempt", "train-1")["status"]
    second = fleet.get("attempt", "train-2")["status"]
    assert (first["outcome"], second["outcome"]) == ("fault", "succeeded")
    assert fleet.get("attempt", "train-2")["spec"]["resume_from"], "it lost no more than it had to"
    assert fleet.get("job", "train")["status"]["fruitless"] == 0
    shown = row(fleet, broken)
    assert "fenced" in shown
    assert f"sim-{broken}" in shown
    assert "fallen off the bus" in shown
    told = fleet.run("events", "--all").stdout
    assert f"accelerator/{broken} is fenced" in told
    assert f"serial sim-{broken}" in told
    assert "restart node" in told, "and the next step"
    assert f"accelerator/{broken} is fenced" in fleet.run("doctor").stdout
    assert "XID 79" in fleet.run("explain", f"accelerator/{broken}").stdout


def test_a_service_goes_on_elsewhere(fleet: Yard) -> None:
    fleet.apply(kind="service", name="bot", model="talker", needs={"memory": "80GB"})
    fleet.until_phase("service", "bot", "ready")
    (old,) = fleet.replicas("bot")
    (its,) = old["status"]["accelerators"]
    ail(fleet, its, xid=48)
    until(fleet, its, "fenced")
    fleet.until(
        "another one is ready",
        lambda: (
            [r["status"]["phase"] for r in fleet.replicas("bot")] == ["ready"]
            and fleet.replicas("bot")[0]["name"] != old["name"]
        ),
    )
    assert its not in fleet.replicas("bot")[0]["status"]["accelerators"]
    assert "simulated" in fleet.run("chat", "bot", "Are you there?").stdout


def test_what_is_hot_from_the_start_gets_nothing(fleet: Yard) -> None:
    assert until(fleet, "h100-1-gpu3", "impaired")["reason"]["code"] == "accelerator.hot"
    held = {name for r in fleet.json("get", "attempt") for p in r["status"]["places"]
            for name in p["accelerators"]}  # fmt: skip
    held |= {name for r in fleet.json("get", "replica") for name in r["status"]["accelerators"]}
    assert not any(name.endswith("gpu3") for name in held)


def test_a_users_own_error_leaves_its_accelerator_alone(fleet: Yard) -> None:
    wrong = {**DRILL, "fail": {"rank": 0, "step": 1, "exit_code": 1, "xid": 31}}
    fleet.apply(
        kind="job", name="wrong", needs={"accelerator": "nvidia/h100", "count": 1},
        resume={"attempts": 1}, command=f"madang-drill '{json.dumps(wrong)}'",
    )  # fmt: skip
    fleet.until_phase("job", "wrong", "failed")
    assert fleet.get("attempt", "wrong-1")["status"]["outcome"] == "error"
    phases = {a["name"]: a["status"]["phase"] for a in fleet.json("get", "accelerator")}
    assert sorted(phases.values()).count("fenced") == 2, "those of the stories before"


def test_the_second_failure_of_a_day_is_quarantine_until_somebody_has_looked(fleet: Yard) -> None:
    broken = broken_by_job(fleet)
    assert fleet.run("release", f"accelerator/{broken}").returncode == 0
    until(fleet, broken, "ok")
    ail(fleet, broken, xid=95, remap="failed")
    assert until(fleet, broken, "quarantined")["serial"] == f"sim-{broken}"
    refused = fleet.run("release", broken)
    assert refused.returncode != 0
    assert "could not be replaced" in refused.stderr
    control = fleet.pid("control")
    fleet.run("down")
    fleet.json("up")
    assert fleet.pid("control") != control
    assert health(fleet, broken)["phase"] == "quarantined", "it is not forgotten"
    ail(fleet, broken)
    fleet.until("it may be released", lambda: fleet.run("release", broken).returncode == 0)
    until(fleet, broken, "ok")
    assert fleet.run("release", broken).returncode == 0, "again is no mistake"


def test_the_fleet_file_knows_what_a_node_has(tmp_path: Path, fleet: Yard) -> None:
    assert fleet.run("status").returncode == 0
    wrong = tmp_path / "fleet.yaml"
    wrong.write_text(FLEET.replace("accelerator: gpu3", "accelerator: gpu7"))
    done = Yard(tmp_path / "home").run("up", "--port", "0", "--fleet", str(wrong))
    assert done.returncode != 0
    assert "gpu7" in done.stderr
