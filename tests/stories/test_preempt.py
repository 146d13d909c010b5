"""Jobs that make way: asked to save, ended, and gone on with, as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Yard

pytestmark = [pytest.mark.story, pytest.mark.timeout(240)]

TRAIN = """
import os, pathlib, socket, time
from madang import job

run = job.start(total=80, save_every_steps=10)
rank, state = int(os.environ["RANK"]), 1
place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
if rank == 0:
    other = socket.create_server(place).accept()[0]
else:
    while True:
        try:
            other = socket.create_connection(place)
            break
        except OSError:
            time.sleep(0.05)
def add(number):
    other.sendall(bytes([int(number)]))
    return number + other.recv(1)[0]
if run.resume_from:
    state = int(pathlib.Path(run.resume_from, "state").read_text())
for step in run.steps():
    time.sleep(0.05)
    state = (state * 6364136223846793005 + step) % 2**64
    run.step(step, loss=1 / step)
    asked = run.agree(run.should_stop(), add)
    if rank == 0 and (asked or run.should_save(step)):
        with run.checkpoint(step) as folder:
            pathlib.Path(folder, "state").write_text(str(state))
    if asked:
        run.leave()
print("the end is", state, flush=True)
run.done()
"""
"""Two ranks in step; their end tells whether any step was left out or done twice."""


def end() -> str:
    state = 1
    for step in range(1, 81):
        state = (state * 6364136223846793005 + step) % 2**64
    return f"the end is {state}"


def status(yard: Yard, name: str) -> Any:
    return yard.get("job", name)["status"]


def test_a_suspended_job_loses_one_step_at_most_and_ends_the_same(running: Yard) -> None:
    done = running.run("submit", "--name", "rest", "--ranks", "2", "--", "python3", "-c", TRAIN)
    assert done.returncode == 0, done.stderr
    running.until("a checkpoint is kept", lambda: bool(status(running, "rest")["checkpoints"]))
    running.json("suspend", "job/rest")
    running.until_phase("job", "rest", "waiting")
    rested = status(running, "rest")
    assert rested["checkpoints"][-1]["step"] >= rested["step"] - 1
    assert (rested["preempted"], rested["next_try"]) == (1, None)
    assert "madang resume job/rest" in running.run("explain", "job/rest").stdout
    assert [a["status"]["outcome"] for a in running.json("get", "attempt")] == ["preempted"]
    running.json("resume", "job/rest")
    assert running.run("watch", "job/rest").returncode == 0
    _, second = running.json("get", "attempt")
    assert second["spec"]["first_step"] == rested["checkpoints"][-1]["step"]
    for rank in ("0", "1"):
        assert end() in running.run("logs", "job/rest", "--rank", rank).stdout
    running.json("delete", "job/rest")
    running.until("it is gone", lambda: running.json("get", "job") == [])


FLEET = """
accelerators: {nvidia/h100: {memory: 80GB, start: 1s}}
sites:
  - name: seoul
    pools:
      - name: training
        nodes: [{name: h, count: 4, cores: 64, memory: 512GB, accelerators: {nvidia/h100: 4}}]
"""


def test_a_node_of_a_fleet_is_emptied_and_all_that_was_there_goes_on(
    new_yard: Callable[[str], Yard], tmp_path: Path
) -> None:
    yard, fleet = new_yard("fleet"), tmp_path / "fleet.yaml"
    fleet.write_text(FLEET)
    yard.json("up", "--port", "0", "--fleet", str(fleet))
    yard.fake("talker", words="I am simulated.")
    yard.apply(kind="service", name="talk", model="talker", scale=3,
               needs={"accelerator": "nvidia/h100", "memory": "80GB"})  # fmt: skip
    drill = json.dumps({"steps": 100_000, "step_s": 0.1, "save_every": 100_000})
    yard.run("submit", "--name", "gang", "--nodes", "2", "--accelerator", "nvidia/h100",
             "--", "madang-drill", drill)  # fmt: skip
    yard.until("all serve", lambda: yard.get("service", "talk")["status"]["ready"] == 3)
    yard.until("the gang runs", lambda: bool(nodes_of(yard, "gang-1", "running")))
    node = nodes_of(yard, "gang-1", "running")[0]
    assert "takes nothing new" in yard.run("drain", f"node/{node}").stdout
    yard.until("the gang runs elsewhere", lambda: bool(nodes_of(yard, "gang-2", "running")))
    assert node not in nodes_of(yard, "gang-2", "running")
    first, second = yard.get("attempt", "gang-1"), yard.get("attempt", "gang-2")
    assert first["status"]["outcome"] == "preempted"
    assert second["spec"]["first_step"] >= first["status"]["step"] - 1
    yard.until("it is empty", lambda: is_empty(yard, node))
    assert yard.get("service", "talk")["status"]["ready"] == 3
    assert "emptied" in yard.run("get", "node").stdout
    yard.json("uncordon", f"node/{node}")
    yard.until("it is used again", lambda: yard.get("node", node)["status"]["reason"] is None)


def nodes_of(yard: Yard, attempt: str, phase: str) -> list[str]:
    """Return where an attempt is, if it is there yet and in that phase."""
    found = [a for a in yard.json("get", "attempt") if a["name"] == attempt]
    return [
        p["node"] for a in found if a["status"]["phase"] == phase for p in a["status"]["places"]
    ]


def is_empty(yard: Yard, node: str) -> bool:
    reason = yard.get("node", node)["status"]["reason"]
    return bool(reason) and reason["code"] == "node.drained"
