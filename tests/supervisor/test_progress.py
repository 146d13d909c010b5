"""What ranks say of their progress: read whatever they do to it, judged by their own pace."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.supervisor import progress
from madang.supervisor.gang import Gang
from madang.supervisor.progress import Pace, ProgressFile
from madang.supervisor.protocol import LaunchPlan, Patience, RankPlan

PATIENCE = Patience(first_s=1800, least_s=60, steps=5)


def said(pace: Pace, at: float, **line: Any) -> bool:
    return pace.take([json.dumps(line).encode()], 0, at)


def stalled_at(pace: Pace, at: float, patience: Patience = PATIENCE) -> bool:
    pace.judge(at, patience)
    return pace.stalled


def stepping(step_s: float, steps: int = 40) -> Pace:
    """A rank whose last step of so many was seen at `step_s * steps`."""
    pace = Pace()
    for step in range(1, steps + 1):
        said(pace, step * step_s, step=step)
    return pace


# --- judging -------------------------------------------------------------------------------------


def test_a_rank_that_never_steps_is_stalled_after_its_first_allowance():
    pace = Pace()
    assert not stalled_at(pace, 1800)
    assert stalled_at(pace, 1800.1)


def test_a_rank_that_may_take_for_ever_to_begin_is_never_stalled_before():
    assert not stalled_at(Pace(), 1e9, Patience(first_s=0))


def test_quick_steps_leave_a_minute_slow_ones_five_of_them():
    quick, slow = stepping(0.4), stepping(30.0)
    assert not stalled_at(quick, 16 + 60)
    assert stalled_at(quick, 16 + 60.1)
    assert not stalled_at(slow, 1200 + 150)
    assert stalled_at(slow, 1200 + 150.1)


def test_a_stall_ends_with_the_next_step_and_both_are_news():
    pace = stepping(1.0)
    assert not pace.judge(50, PATIENCE)
    assert pace.judge(200, PATIENCE)
    assert not pace.judge(201, PATIENCE)
    said(pace, 202, step=41)
    assert pace.judge(202, PATIENCE)
    assert not pace.stalled


def test_a_fixed_limit_replaces_what_was_learnt_but_not_the_first_allowance():
    fixed = Patience(fixed_s=600)
    assert not stalled_at(Pace(), 1700, fixed)
    assert not stalled_at(stepping(0.4), 16 + 600, fixed)
    assert stalled_at(stepping(0.4), 16 + 600.1, fixed)


def test_after_one_step_the_way_to_it_is_the_measure():
    pace = Pace()
    said(pace, 100, step=1)
    assert not stalled_at(pace, 100 + 500)
    assert stalled_at(pace, 100 + 500.1)


def test_the_median_of_the_last_32_steps_counts_each_of_those_seen_at_once():
    pace = Pace()
    said(pace, 5, step=10)
    said(pace, 6, step=20)
    assert pace.step_s == pytest.approx(0.1)
    for step in range(21, 53):
        said(pace, step, step=step)
    assert pace.step_s == 1.0


def test_a_phase_counts_as_progress_and_may_take_its_time_the_first_time():
    pace = stepping(1.0)
    said(pace, 90, phase="evaluation")
    assert not stalled_at(pace, 90 + 1800)
    assert stalled_at(pace, 90 + 1800.1)


def test_a_phase_that_was_seen_to_end_may_take_five_times_as_long_as_it_took():
    pace = stepping(1.0)
    said(pace, 40, phase="checkpoint")
    said(pace, 60, phase="")
    said(pace, 61, step=41)
    said(pace, 61, phase="checkpoint")
    assert not stalled_at(pace, 61 + 100)
    assert stalled_at(pace, 61 + 100.1)
    assert pace.step_s == 1.0, "what a phase takes is no time of a step"


def test_after_a_phase_the_measure_is_that_of_steps_again():
    pace = stepping(1.0)
    said(pace, 40, phase="checkpoint")
    said(pace, 60, phase="")
    assert stalled_at(pace, 60 + 60.1)


def test_what_comes_after_the_last_step_may_take_as_long_as_what_came_before_the_first():
    pace = stepping(1.0)
    said(pace, 41, step=41, total=41)
    assert not stalled_at(pace, 41 + 1800)
    assert stalled_at(pace, 41 + 1800.1)


def test_a_checkpoint_counts_as_progress_and_is_news_once():
    pace = stepping(1.0)
    assert said(pace, 90, checkpoint="step-000040", step=40)
    assert not said(pace, 91, checkpoint="step-000040", step=40)
    assert not stalled_at(pace, 91 + 60)


def test_the_first_step_is_news_and_the_others_are_not():
    pace = Pace()
    assert [said(pace, step, step=step) for step in range(3)] == [True, False, False]


# --- lines ---------------------------------------------------------------------------------------


def test_steps_only_go_forward_but_a_checkpoint_may_be_of_an_earlier_one():
    pace = stepping(1.0)
    said(pace, 41, step=7)
    assert (pace.step, pace.bad_lines) == (40, 1)
    said(pace, 42, checkpoint="step-000007", step=7)
    assert (pace.step, pace.checkpoint, pace.bad_lines) == (40, "step-000007", 1)


def test_the_last_value_of_each_metric_is_kept_and_16_of_them():
    pace = Pace()
    said(pace, 1, step=1, metrics={"loss": 2, "lr": 1})
    said(pace, 2, step=2, metrics={"loss": 0.25} | {f"m{n}": n for n in range(20)})
    assert pace.metrics["loss"] == 0.25
    assert pace.metrics["lr"] == 1.0
    assert len(pace.metrics) == 16


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b"7", b"\xff", b"[" * 9000, b'{"step": "7"}', b'{"step": true}', b'{"step": -1}',
     b'{"step": 1.5}', b'{"step": 1e999}', b'{"step": 99999999999999999999}', b'{"total": -1}',
     b'{"metrics": 1}', b'{"metrics": {"a": NaN}}', b'{"metrics": {"a": 1e999}}',
     b'{"metrics": {"a": "1"}}', b'{"metrics": {"a": ' + b"9" * 400 + b"}}",
     b'{"metrics": {"' + b"a" * 65 + b'": 1}}', b'{"phase": 1}', b'{"phase": "a\\u0007"}',
     b'{"phase": "' + b"a" * 65 + b'"}', b'{"checkpoint": 1}', b'{"checkpoint": ""}',
     b'{"checkpoint": "../x"}', b'{"checkpoint": ".x"}', b'{"checkpoint": "a/b"}',
     b'{"checkpoint": "' + b"a" * 65 + b'"}'],
)  # fmt: skip
def test_a_line_that_is_none_is_counted_and_changes_nothing(line):
    pace = Pace()
    assert not pace.take([line], 0, 5.0)
    assert pace.bad_lines == 1
    assert (pace.step, pace.total, pace.metrics) == (-1, 0, {})
    assert (pace.phase, pace.checkpoint) == ("", "")
    pace.judge(6.0, PATIENCE)
    assert pace.quiet_s == 6.0


def test_a_line_of_a_later_version_is_read_as_far_as_it_is_known():
    pace = Pace()
    said(pace, 1, step=1, colour="blue")
    said(pace, 1, colour="blue")
    assert (pace.step, pace.bad_lines) == (1, 0)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
LINES = st.dictionaries(
    st.sampled_from(["step", "total", "metrics", "phase", "checkpoint"]),
    VALUES | st.dictionaries(st.text(max_size=9), VALUES, max_size=3),
)


@given(st.lists(st.binary(max_size=30) | LINES.map(lambda line: json.dumps(line).encode())))
def test_whatever_is_said_steps_go_forward_and_numbers_stay_numbers(lines):
    pace, step = Pace(), -1
    for now, line in enumerate(lines):
        pace.take([line], 0, float(now))
        pace.judge(float(now), PATIENCE)
        assert pace.step >= step
        step = pace.step
    told = [pace.step_s, pace.quiet_s, pace.total, *pace.metrics.values()]
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert pace.quiet_s >= 0


# --- reading -------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "progress-0.jsonl"


def append(path: Path, text: bytes) -> None:
    with path.open("ab") as file:
        file.write(text)


def test_a_line_is_read_once_it_is_whole(path):
    reader = ProgressFile(str(path))
    assert reader.read() == ([], 0)
    append(path, b'{"step": 1}\n{"st')
    assert reader.read() == ([b'{"step": 1}'], 0)
    assert reader.read() == ([], 0)
    append(path, b'ep": 2}\n\n')
    assert reader.read() == ([b'{"step": 2}'], 0)


def test_a_line_that_was_torn_costs_itself_and_no_other(path):
    """A writer that comes after it begins with an end of line."""
    reader, pace = ProgressFile(str(path)), Pace()
    append(path, b'{"step": 1}\n{"step": 2, "met')
    append(path, b'\n{"step": 3}\n')
    pace.take(*reader.read(), 1.0)
    assert (pace.step, pace.bad_lines) == (3, 1)


@pytest.mark.parametrize("length", [(64 << 10) + 1, 300 << 10, (1 << 20) - 1, 5 << 20])
def test_a_line_that_is_too_long_is_skipped_and_counted_once(path, length):
    reader = ProgressFile(str(path))
    append(path, b'{"step": 1}\n' + b"x" * length)
    found, bad = reader.read()
    for _ in range(8):
        lines, more = reader.read()
        found, bad = found + lines, bad + more
    append(path, b'x\n{"step": 2}\n')
    lines, more = reader.read()
    assert (found + lines, bad + more) == ([b'{"step": 1}', b'{"step": 2}'], 1)


def test_one_look_reads_a_megabyte_and_the_next_goes_on(path):
    line = b'{"step": 1}' + b" " * 1000 + b"\n"
    append(path, line * 2500)
    reader = ProgressFile(str(path))
    counts = [len(reader.read()[0]) for _ in range(4)]
    assert sum(counts) == 2500
    assert max(counts) * len(line) <= 1 << 20


def test_a_file_that_is_begun_anew_is_read_from_its_start(path):
    reader = ProgressFile(str(path))
    append(path, b'{"step": 1}\n{"step": 2}\n')
    reader.read()
    path.write_bytes(b'{"step": 3}\n')
    assert reader.read() == ([b'{"step": 3}'], 0)


def test_nothing_but_a_plain_file_is_read_and_nobody_waits_for_it(path, tmp_path):
    (tmp_path / "secret").write_bytes(b'{"step": 1}\n')
    for make in (
        lambda: path.symlink_to(tmp_path / "secret"),
        lambda: os.mkfifo(path),
        path.mkdir,
        lambda: path.symlink_to(path),
    ):
        make()
        assert ProgressFile(str(path)).read() == ([], 0)
        assert progress.lines_from(str(path), 0) == ([], 0)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_what_is_told_of_a_file_are_whole_lines_from_where_the_last_ended(path):
    append(path, b"".join(b'{"step": %d}\n' % step for step in range(30_000)) + b'{"st')
    steps, after = [], 0
    while True:
        lines, following = progress.lines_from(str(path), after)
        if not lines:
            break
        assert following - after <= progress.TOLD_BYTES_MAX
        steps += [json.loads(line)["step"] for line in lines]
        after = following
    assert steps == list(range(30_000))
    assert following == path.stat().st_size - len(b'{"st')
    assert progress.lines_from(str(path), 1 << 70) == ([], 1 << 70)


def test_a_line_without_end_does_not_stop_what_is_told(path):
    append(path, b"x" * (200 << 10) + b'\n{"step": 1}\n')
    lines, after = progress.lines_from(str(path), 0)
    assert lines == []
    assert progress.lines_from(str(path), after) == (['{"step": 1}'], path.stat().st_size)


# --- of real ranks -------------------------------------------------------------------------------

TELL = 'tell() { printf "%s\\n" "$1" >> $PROGRESS/progress-$RANK.jsonl; }; '


def train(node, tmp_path, program: str, **patience: float) -> Path:
    folder = tmp_path / "progress" / "1"
    env = {"PATH": os.environ["PATH"], "PROGRESS": str(folder)}
    node.gang("a", "sh", "-c", TELL + program, env=env, cwd=str(tmp_path), progress=str(folder),
              patience={"first_s": 1000, **patience})  # fmt: skip
    return folder


def test_what_each_rank_says_is_told_of_it(running, tmp_path):
    lines = '\'{"step": 3, "total": 9, "metrics": {"loss": 0.5}}\''
    folder = train(running, tmp_path, f"tell {lines}; tell nonsense; sleep 1000")
    ranks = running.until_ranks("a", lambda ranks: all("step" in rank for rank in ranks))
    for rank in ranks:
        assert (rank["step"], rank["total"], rank["metrics"]) == (3, 9, {"loss": 0.5})
    running.until_ranks("a", lambda ranks: all(rank.get("bad_lines") == 1 for rank in ranks))
    assert folder.stat().st_mode & 0o777 == 0o700
    told = running.ask("progress", uid="a", epoch=1, rank=1, after=0)
    assert told["lines"] == ['{"step": 3, "total": 9, "metrics": {"loss": 0.5}}', "nonsense"]
    assert running.ask("progress", uid="a", epoch=1, rank=1, after=told["next"])["lines"] == []


def test_only_what_control_should_know_at_once_is_a_change(running, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    steps = f'while read line; do tell "$line"; done < {gate}'
    train(running, tmp_path, "[ $RANK = 0 ] || exec sleep 1000; " + steps)
    running.pids("a")
    with gate.open("w") as way:

        def say(line: str, holds) -> int:
            way.write(line + "\n")
            way.flush()
            running.until_ranks("a", lambda ranks: holds(ranks[0]))
            return running.observe()["seq"]

        began = running.observe()["seq"]
        first = say('{"step": 1}', lambda rank: rank.get("step") == 1)
        later = say('{"step": 2, "metrics": {"loss": 1}}', lambda rank: rank.get("step") == 2)
        phase = say('{"phase": "evaluation"}', lambda rank: rank.get("phase"))
        claim = say('{"checkpoint": "step-2", "step": 2}', lambda rank: rank.get("checkpoint"))
        ended = say('{"step": 3}', lambda rank: rank.get("step") == 3)
    assert (first - began, later - first, phase - later, claim - phase) == (1, 0, 0, 1)
    assert ended == claim


def test_a_rank_that_is_stopped_is_found_stalled_and_named_as_stopped(running, tmp_path):
    """Both stand still where they wait for each other: the one that is stopped is the cause."""
    steps = "n=0; while [ $n -lt 20 ]; do n=$((n+1)); tell '{\"step\": '$n'}'; sleep 0.02; done; "
    train(running, tmp_path, steps + "sleep 1000", fixed_s=0.5)
    pids = running.pids("a")
    running.until_ranks("a", lambda ranks: all("step" in rank for rank in ranks))
    os.kill(pids[1], signal.SIGSTOP)
    ranks = running.until_ranks("a", lambda ranks: all(rank.get("stalled") for rank in ranks))
    assert [rank.get("halted") for rank in ranks] == [None, True]
    assert all(0.5 <= rank["quiet_s"] < 20 for rank in ranks)
    running.ask("stop", uid="a", epoch=1, grace_s=0)
    running.until("a", lambda found: not found)


def test_a_rank_that_never_says_anything_is_found_stalled(running, tmp_path):
    train(running, tmp_path, "sleep 1000", first_s=0.2)
    ranks = running.until_ranks("a", lambda ranks: all(rank.get("stalled") for rank in ranks))
    assert all("step" not in rank for rank in ranks)


def test_the_last_that_a_rank_says_is_told_with_its_end(running, tmp_path):
    train(running, tmp_path, 'tell \'{"step": 7}\'; tell \'{"checkpoint": "last"}\'; kill -9 $$')
    found = running.until("a", lambda found: found[0]["state"] == "exited")
    assert [(r["step"], r["checkpoint"], r["exit_code"]) for r in found["ranks"]] == [
        (7, "last", -9)
    ] * 2


def test_a_folder_for_progress_that_cannot_be_made_is_the_answer_to_the_start(running, tmp_path):
    (tmp_path / "file").write_text("")
    refused = running.gang("a", "true", progress=str(tmp_path / "file" / "progress"))
    assert refused["error"]["code"] == "supervisor.spawn-failed"
    assert "Not a directory" in refused["error"]["values"]["cause"]
    assert running.find("a") == []


def test_progress_of_what_is_not_there_is_unknown_and_of_a_silent_rank_empty(running):
    ask = lambda **which: running.ask("progress", after=0, **which)  # noqa: E731
    running.start("plain", "sleep", "1000")
    running.gang("a", "sleep", "1000")
    for which in ({"uid": "b", "epoch": 1}, {"uid": "a", "epoch": 2}, {"uid": "plain", "epoch": 1}):
        assert ask(rank=0, **which)["error"]["code"] == "supervisor.unknown-process"
    assert ask(uid="a", epoch=1, rank=0) == {"lines": [], "next": 0}
    assert ask(uid="a", epoch=1, rank="0")["error"]["code"] == "supervisor.bad-order"


def test_while_the_whole_machine_stands_still_nobody_counts_as_quiet(tmp_path, monkeypatch):
    """A laptop that was closed, a supervisor that was stopped: the next look comes late."""
    monkeypatch.chdir(tmp_path)
    gang = Gang(LaunchPlan("a", 1, ("train",), ranks=(RankPlan(0),)), 1 << 20)
    gang.hear(b'{"rank": 0, "pid": 8388608}\n')
    gang.look(1000.0)
    before = gang.ranks()[0].quiet_s
    assert not gang.look(900_000.0)
    assert gang.ranks()[0].quiet_s == before + 5
    assert not gang.ranks()[0].stalled
