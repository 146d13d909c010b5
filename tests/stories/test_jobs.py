"""Jobs on one machine: real ranks, killed as they come; every word as a user types it."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import Yard, kill

pytestmark = pytest.mark.story

TRAIN = """
import os, pathlib, time
import job

run = job.start(total=80, save_every_steps=10)
rank, state = int(os.environ["RANK"]), 1
if run.resume_from:
    state = int(pathlib.Path(run.resume_from, "state").read_text())
for step in run.steps():
    time.sleep(0.2)
    state = (state * 6364136223846793005 + step) % 2**64
    run.step(step, loss=1 / step)
    if run.should_save(step) and rank == 0:
        with run.checkpoint(step) as folder:
            pathlib.Path(folder, "state").write_text(str(state))
print("the end is", state, flush=True)
run.done()
"""
"""A program whose end tells whether any step was left out or done twice."""


def end() -> str:
    state = 1
    for step in range(1, 81):
        state = (state * 6364136223846793005 + step) % 2**64
    return f"the end is {state}"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return a program that goes along with its job, under a name that no other process has."""
    import madang.job

    (tmp_path / "job.py").write_text(Path(madang.job.__file__).read_text())
    found = tmp_path / f"train-{secrets.token_hex(4)}.py"
    found.write_text(TRAIN)
    return found


def submit(yard: Yard, *arguments: str) -> None:
    """Type it; what follows -- is the program's, so nothing may be put behind it."""
    done = yard.run("submit", *arguments)
    assert done.returncode == 0, done.stderr


def course(yard: Yard, name: str) -> Any:
    """Return what is known of a job."""
    return yard.get("job", name)["status"]


def ranks(program: Path) -> list[int]:
    """Return the processes that run this program, whoever started them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"python3") and program.name.encode() in words:
            found.append(int(process.name))
    return sorted(found)


def test_a_job_outlives_a_killed_rank_and_a_killed_control_and_ends_the_same(
    running: Yard, program: Path
) -> None:
    folder = ("--code", str(program.parent))
    submit(running, "--name", "train", "--ranks", "2", *folder, "--", "python3", program.name)
    running.until("a checkpoint is kept", lambda: bool(course(running, "train")["checkpoints"]))
    control, alive = running.pid("control"), ranks(program)
    assert len(alive) == 2
    kill(control)
    running.until("control is back", lambda: running.run("status").returncode == 0)
    assert ranks(program) == alive, "losing control costs a job nothing"
    kill(alive[1])
    watched = running.run("watch", "job/train")
    assert watched.returncode == 0, watched.stdout + watched.stderr
    first, *_, last = running.json("get", "attempt")
    assert (first["status"]["outcome"], last["status"]["outcome"]) == ("fault", "succeeded")
    assert last["spec"]["first_step"] >= 10, "it went on from a checkpoint"
    assert course(running, "train")["step"] == 80
    for rank in ("0", "1"):
        told = running.run("logs", "job/train", "--rank", rank)
        assert end() in told.stdout
    assert not ranks(program)
    running.json("delete", "job/train")
    running.until("it is gone", lambda: running.json("get", "job") == [])
    left = [path for path in (running.home / "jobs").iterdir() if path.name[:8] != "library-"]
    assert left == [], "nothing of it is left on the disk"


def shells(mark: str) -> list[int]:
    """Return the shells that were given this word."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"sh") and mark.encode() in words:
            found.append(int(process.name))
    return found


def test_a_cancelled_job_leaves_no_process_however_it_hides(running: Yard, tmp_path: Path) -> None:
    mark = f"hides-{secrets.token_hex(4)}"
    (tmp_path / "hide.sh").write_text(
        "trap '' TERM HUP\n"
        "(setsid nohup env -i /bin/sh -c 'trap \"\" TERM HUP; while :; do sleep 1; done' $1 &)\n"
        "while :; do sleep 1; done\n"
    )
    submit(running, "--name", "hide", "--code", str(tmp_path), "--", "sh", "hide.sh", mark)
    running.until("it hides", lambda: len(shells(mark)) == 2)
    running.json("cancel", "job/hide")
    running.until_phase("job", "hide", "cancelled")
    assert shells(mark) == []
    assert "is over" not in running.run("explain", "job/hide").stdout
    running.json("delete", "job/hide")


def test_a_program_that_is_not_there_fails_at_once_and_is_named(running: Yard) -> None:
    began = time.monotonic()
    submit(running, "--name", "typo", "--", "pyhton3", "train.py")
    running.until_phase("job", "typo", "failed")
    told = running.run("explain", "job/typo")
    assert "could not be started" in told.stdout
    assert len([a for a in running.json("get", "attempt") if a["spec"]["job"] == "typo"]) == 1
    assert time.monotonic() - began < 60
    running.json("delete", "job/typo")


def test_a_missing_module_is_named_as_the_cause_with_the_last_lines(running: Yard) -> None:
    submit(running, "--name", "module", "--", "python3", "-c", "import torhc")
    running.until_phase("job", "module", "failed")
    told = running.run("explain", "job/module").stdout
    assert "torhc" in told
    assert "ModuleNotFoundError" in told
    running.json("delete", "job/module")


def test_one_job_comes_after_another(running: Yard) -> None:
    submit(running, "--name", "first", "--", "sleep", "15")
    submit(running, "--name", "second", "--after", "first", "--", "true")
    told = running.run("explain", "job/second").stdout
    assert "job/first" in told or "comes after job first" in told
    running.until_phase("job", "second", "succeeded")
    lines = [
        json.loads(line)
        for line in running.run("watch", "job/second", "--json").stdout.splitlines()
    ]
    assert lines[-1]["phase"] == "succeeded"
    for name in ("second", "first"):
        running.json("delete", f"job/{name}")


def test_a_sweep_tries_every_combination_and_tells_which_was_the_best(running: Yard) -> None:
    program = (
        "import os, sys; from madang import job; run = job.start(total=2)\n"
        "assert os.environ['MADANG_SWEEP_LR'] == sys.argv[1]\n"
        "for step in run.steps(): run.step(step, loss=float(sys.argv[1]) * int(sys.argv[2]))\n"
        "run.done()"
    )
    swept = ("--sweep", "lr=0.5,0.1", "--sweep", "seed=1,2", "--parallel", "2")
    submit(running, "--name", "grid", *swept, "--", "python3", "-c", program, "{lr}", "{seed}")
    watched = running.run("watch", "job/grid", "--best", "loss")
    assert watched.returncode == 0, watched.stderr
    listed = [line.split()[0] for line in watched.stdout.splitlines() if line.startswith("  grid-")]
    assert listed[-4:] == ["grid-3", "grid-4", "grid-1", "grid-2"]
    assert "grid-1" not in running.run("get", "job").stdout
    assert "grid-1" in running.run("get", "job", "--all").stdout
    refused = running.run("suspend", "job/grid-1")
    assert refused.returncode != 0
    assert "sweep" in refused.stderr
    running.json("delete", "job/grid")
    running.until("it is gone", lambda: running.json("get", "job") == [])
