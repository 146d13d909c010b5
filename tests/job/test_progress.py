"""What a program tells by `madang.job`: few whole lines, and never at the cost of training."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from madang import job

from .conftest import UID, Place


def test_steps_in_between_merge_into_at_most_four_lines_a_second(place: Place) -> None:
    run = place.start(total=1001)
    for step in run.steps():
        place.now += 0.01
        run.step(step, loss=1 / step)
    told = [line["step"] for line in place.lines()]
    assert told[0] == 1
    assert told[-1] == 1001
    assert told == sorted(set(told))
    assert 10 * job.LINES_PER_S / 2 < len(told) <= 10 * job.LINES_PER_S + 2


def test_slow_steps_are_told_one_by_one_with_their_numbers(place: Place) -> None:
    run = place.start(total=3)
    for step in run.steps():
        place.now += 1
        run.step(step, loss=0.5, rate=step)
    assert place.lines() == [
        {"step": step, "total": 3, "metrics": {"loss": 0.5, "rate": step}} for step in (1, 2, 3)
    ]


def test_a_number_of_a_merged_step_is_told_once_with_the_next_line(place: Place) -> None:
    run = place.start(total=4)
    run.step(1)
    run.step(2, score=7)
    run.step(3)
    place.now += 1
    run.step(3, loss=2)
    run.step(4)
    assert [line.get("metrics") for line in place.lines()] == [None, {"score": 7, "loss": 2}, None]


def test_what_was_merged_is_told_before_anything_else_is(place: Place) -> None:
    run = place.start()
    run.step(1)
    run.step(2)
    with run.phase("evaluation"), run.phase("sampling"):
        pass
    run.step(3)
    run.done()
    run.done()
    phases = ["evaluation", "sampling", "evaluation", ""]
    assert place.lines() == [
        {"step": 1, "total": 10}, {"step": 2, "total": 10},
        *({"phase": name} for name in phases), {"step": 3, "total": 10},
    ]  # fmt: skip


def test_a_phase_that_fails_is_over_all_the_same(place: Place) -> None:
    with pytest.raises(KeyError), place.start().phase("evaluation"):
        raise KeyError
    assert place.lines()[-1] == {"phase": ""}


def test_steps_never_go_back(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    run = place.start()
    for step in (5, 4, 3):
        place.now += 1
        run.step(step)
    assert [line["step"] for line in place.lines()] == [5]
    assert capfd.readouterr().err == "madang.job: step 4 came after step 5, and is not told\n"


def test_what_is_no_number_is_left_out_and_said_once(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    run = place.start()
    for step in (1, 2):
        place.now += 1
        run.step(step, loss=float("nan"), rate=float("inf"), name="x", ratio=10**400, good=1)
    assert [line["metrics"] for line in place.lines()] == [{"good": 1}, {"good": 1}]
    said = capfd.readouterr().err.splitlines()
    assert [line.split()[1] for line in said] == ["loss", "rate", "name", "ratio"]
    assert "nan at step 1" in said[0]


def test_no_line_grows_beyond_what_a_reader_takes(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    run = place.start()
    run.step(1, **{f"{number:02d}" + "가" * 1000: number for number in range(40)})
    with run.phase("가" * 100_000):
        pass
    assert len(place.lines()[0]["metrics"]) == job.METRICS_MAX
    assert max(map(len, place.progress().read_bytes().splitlines())) < 64 << 10
    assert capfd.readouterr().err.count("\n") == 1


def test_a_torn_line_does_not_swallow_the_next(place: Place) -> None:
    place.progress().write_bytes(b'{"step": 1}\n{"st')
    place.start().step(2)
    lines = place.progress().read_bytes().split(b"\n")
    assert lines[1:] == [b'{"st', b'{"step":2,"total":10}', b""]


@contextmanager
def room_for(size_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond this size: as a full disk, a short write first."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_lines_and_one_warning_but_no_step(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    run = place.start(total=40)
    with room_for(500):
        for step in range(1, 40):
            place.now += 1
            run.step(step, loss=0.5)
    place.now += 1
    run.step(40)
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "training goes on" in said
    *whole, torn, last, rest = place.progress().read_text().split("\n")
    assert [json.loads(line)["step"] for line in whole] == list(range(1, len(whole) + 1))
    assert 5 < len(whole) < 20
    assert torn.startswith('{"s'), "a short write had come before the error"
    with pytest.raises(ValueError, match=r".*"):
        json.loads(torn)
    assert json.loads(last)["step"] == 40
    assert rest == ""


def test_a_missing_folder_costs_one_warning_and_is_used_once_it_is_there(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    path = place.root / "gone" / "progress"
    run = place.start(MADANG_PROGRESS=str(path))
    run.step(1)
    with run.phase("evaluation"):
        path.parent.mkdir()
    assert capfd.readouterr().err.count("\n") == 1
    assert path.read_text() == '{"phase":""}\n'


def test_a_link_is_not_followed(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    (place.root / "elsewhere").touch()
    place.progress().symlink_to(place.root / "elsewhere")
    place.start().step(1)
    assert (place.root / "elsewhere").read_bytes() == b""
    assert "can't be told" in capfd.readouterr().err


def test_two_writers_of_one_file_never_mix(place: Place) -> None:
    writers = []
    for rank in range(2):
        if (pid := os.fork()) == 0:
            run = place.start(total=0, rank=rank, MADANG_PROGRESS=str(place.progress()))
            for step in range(1, 2001):
                place.now += 1
                run.step(step, **{f"rank{rank}": step}, filler=1 / 3)
            os._exit(0)
        writers.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in writers] == [0, 0]
    lines = place.lines()
    for rank in range(2):
        own = [line["step"] for line in lines if f"rank{rank}" in line["metrics"]]
        assert own == list(range(1, 2001))


def test_outside_of_madang_progress_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    run = job.start(total=2, environ={})
    assert signal.getsignal(signal.SIGTERM) is before
    for step in run.steps():
        run.step(step, loss=0.25)
        if run.should_save(step):
            with run.checkpoint(step) as folder:
                (folder / "model").write_text("weights")
    run.done()
    assert capfd.readouterr().err.splitlines() == [
        "step 1/2  loss 0.25", "step 2/2  loss 0.25", "checkpoint …", "checkpoint step-000002",
    ]  # fmt: skip
    assert job.fault_of(tmp_path / "checkpoints" / "step-000002") == ""
    job.Run(2, 0, {"RANK": "1"}, lambda: 0.0).step(1)
    assert capfd.readouterr().err == "", "one rank is enough to look at"


def test_the_wish_to_stop_comes_by_signal_or_by_file(place: Place) -> None:
    run = place.start()
    assert not run.should_stop()
    (place.root / "stop").touch()
    assert run.should_stop()
    (place.root / "stop").unlink()
    before = signal.getsignal(signal.SIGTERM)
    try:
        run.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        assert run.should_stop()
        if (pid := os.fork()) == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == signal.SIGTERM, "a forked helper ends as ever"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_all_ranks_agree_on_what_one_was_told(place: Place) -> None:
    run = place.start()
    assert run.agree(False, lambda mine: mine + 1.0)
    assert run.agree(True, lambda mine: mine + 0.0)
    assert not run.agree(False, lambda mine: mine + 0.0)


def test_a_rank_that_leaves_tells_its_last_step_and_its_status_says_why(place: Place) -> None:
    run = place.start()
    run.step(1)
    run.step(2)
    with pytest.raises(SystemExit) as left:
        run.leave()
    assert left.value.code == 75
    assert place.lines()[-1]["step"] == 2


def test_it_saves_when_it_is_time_and_on_the_first_rank_only(place: Place) -> None:
    run = place.start(total=9, MADANG_CHECKPOINT_EVERY_S="60.5")
    assert [step for step in run.steps() if run.should_save(step)] == [9]
    place.now += 61
    assert run.should_save(1)
    run.note("step-000001", 1)
    assert not run.should_save(2)
    place.now += 61
    assert not place.start(total=9, rank=1).should_save(9)
    by_steps = job.Run(9, 4, {}, lambda: 0.0)
    assert [step for step in by_steps.steps() if by_steps.should_save(step)] == [4, 8, 9]


def test_without_a_total_it_goes_on_forever(place: Place) -> None:
    run = place.start(total=0)
    steps = run.steps()
    assert [next(steps) for _ in range(3)] == [1, 2, 3]
    run.step(1)
    assert place.lines() == [{"step": 1}]


def test_a_number_that_is_none_is_named(place: Place) -> None:
    with pytest.raises(ValueError, match="WORLD_SIZE is 'two'"):
        place.start(WORLD_SIZE="two")


def test_the_file_alone_is_all_a_program_needs(tmp_path: Path) -> None:
    shutil.copy(job.__file__, tmp_path / "job.py")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import job; job.start(3).step(1)"
    env = {"MADANG_JOB_UID": UID, "MADANG_PROGRESS": str(tmp_path / "progress")}
    subprocess.run([sys.executable, "-I", "-S", "-c", program], env=env, check=True)
    assert (tmp_path / "progress").read_text() == '{"step":1,"total":3}\n'
