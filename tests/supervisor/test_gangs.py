"""Members of gangs: one leader, many ranks, and nothing of them left behind."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from madang.supervisor import processes
from madang.supervisor.gang import Gang
from madang.supervisor.protocol import LaunchPlan, RankPlan

SLEEP = ("sleep", "1000")
PYTHON = (sys.executable, "-I", "-S", "-c")
HIDDEN = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", BODY], {})
    os._exit(0)
os.wait()
while not os.path.exists("hidden"):
    time.sleep(0.01)
time.sleep(float(sys.argv[1]))
"""
BODY = """
import os, time
with open("/proc/self/environ") as file:
    assert file.read() == ""
with open("hidden.new", "w") as file:
    file.write(str(os.getpid()))
os.rename("hidden.new", "hidden")
time.sleep(1000)
"""


def hide(node, tmp_path, lasts_s: float = 1000) -> int:
    """Start a rank that leaves its session, its parent and its mark; return who has hidden."""
    program = HIDDEN.replace("BODY", repr(BODY))
    node.gang("a", *PYTHON, program, str(lasts_s), ranks=1, cwd=str(tmp_path))
    node.until("a", lambda found: (tmp_path / "hidden").exists())
    return int((tmp_path / "hidden").read_text())


def test_each_rank_has_an_environment_of_its_own_beyond_the_plans(running):
    env = {"PATH": os.environ["PATH"], "OF": "all", "BOTH": "plan"}
    each = [{"rank": n, "env": {"RANK": str(n), "BOTH": "rank"}} for n in (4, 5)]
    running.start("a", "env", env=env, ranks=each)
    found = running.until("a", lambda found: found[0]["state"] == "exited")
    assert (found["exit_code"], [rank["exit_code"] for rank in found["ranks"]]) == (0, [0, 0])
    for number in (4, 5):
        printed = running.ask("tail", uid="a", rank=number, lines=99)["lines"]
        told = dict(line.split("=", 1) for line in printed)
        assert told.pop("MADANG_PROCESS").endswith("/a/1/")
        assert told == {**env, "RANK": str(number), "BOTH": "rank"}


def test_nothing_that_a_rank_is_told_can_be_read_in_arguments_or_of_its_leader(running):
    secret = "very-secret"
    pid = running.gang("a", *SLEEP, env={"PATH": os.environ["PATH"], "KEY": secret})["pid"]
    running.pids("a")
    for name in ("cmdline", "environ"):
        assert secret.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()


def test_a_rank_gets_three_streams_and_starts_with_every_signal_as_it_should_be(running):
    look = "ls /proc/$$/fd; exec grep -E 'Sig(Blk|Ign)' /proc/self/status"
    running.gang("a", "sh", "-c", look, ranks=3)
    running.until("a", lambda found: found[0]["state"] == "exited")
    c_library = 0b11 << 31
    for number in range(3):
        lines = running.ask("tail", uid="a", rank=number, lines=99)["lines"]
        assert lines[:-2] == ["0", "1", "2"]
        assert [int(line.split()[1], 16) & ~c_library for line in lines[-2:]] == [0, 0]


def test_each_rank_is_a_process_group_of_its_own_in_one_session(running):
    leader = running.gang("a", *SLEEP)["pid"]
    pids = running.pids("a")
    assert [os.getpgid(pid) for pid in pids] == pids
    assert {os.getsid(pid) for pid in pids} == {leader}


def test_kill_9_of_a_rank_is_told_at_once_and_nobody_else_is_ended(running, alive):
    running.gang("a", *SLEEP, ranks=3)
    pids = running.pids("a")
    seen = running.observe()["seq"]
    os.kill(pids[1], signal.SIGKILL)
    found = running.observe(after=seen, wait_s=60)["processes"][0]
    assert found["state"] == "running"
    assert [rank.get("exit_code") for rank in found["ranks"]] == [None, -9, None]
    assert found["ranks"][1]["ended_at"] > found["started_at"] - 1
    assert [alive(pid) for pid in pids] == [True, False, True]


def test_a_member_ends_with_what_the_first_rank_that_ended_badly_returned(running, tmp_path):
    os.mkfifo(tmp_path / "gate")
    both = "[ $RANK = 0 ] && exit 3; read x < gate; kill -9 $$"
    running.gang("a", "sh", "-c", both, cwd=str(tmp_path))
    running.until_ranks("a", lambda ranks: ranks[0].get("exit_code") == 3)
    (tmp_path / "gate").write_text("go\n")
    found = running.until("a", lambda found: found[0]["state"] == "exited")
    assert found["exit_code"] == 3
    first, second = found["ranks"]
    assert (first["exit_code"], second["exit_code"]) == (3, -9)
    assert first["ended_at"] <= second["ended_at"]


def test_an_end_by_a_signal_is_128_and_its_number_for_the_whole_member(running):
    running.gang("a", "sh", "-c", "kill -9 $$", ranks=1)
    assert running.until("a", lambda found: found[0]["state"] == "exited")["exit_code"] == 137


@pytest.mark.parametrize(
    ("argv", "cause"),
    [(["no-such-program"], "No such file or directory"), (["/"], "Permission denied"),
     (["a\0b"], "null")],
)  # fmt: skip
def test_a_program_that_cannot_be_started_is_told_with_its_cause(running, argv, cause):
    running.gang("a", *argv)
    found = running.until("a", lambda found: found[0]["state"] == "exited")
    assert [rank["exit_code"] for rank in found["ranks"]] == [127, 127]
    assert all(cause in rank["error"] for rank in found["ranks"])
    assert found["exit_code"] == 127
    printed = running.ask("tail", uid="a", lines=9)
    assert [cause in line for line in printed["lines"]] == [True, True], "and no traceback"
    assert printed["ranks"] == [0, 1]


def test_a_folder_that_is_missing_is_the_answer_to_the_start(running):
    refused = running.gang("a", *SLEEP, cwd="/no/such/folder")
    assert refused["error"]["code"] == "supervisor.spawn-failed"
    assert running.find("a") == []


def test_a_stop_asks_every_rank_also_one_that_is_stopped(running, tmp_path):
    heed = "trap 'touch heard-$RANK; exit 75' TERM; touch ready-$RANK; while :; do sleep 0.05; done"
    running.gang("a", "sh", "-c", heed, cwd=str(tmp_path), grace_s=1000)
    running.until("a", lambda found: all((tmp_path / f"ready-{n}").exists() for n in range(2)))
    os.kill(running.pids("a")[1], signal.SIGSTOP)
    running.ask("stop", uid="a", epoch=1, grace_s=1000)
    running.until("a", lambda found: not found)
    assert sorted(path.name for path in tmp_path.glob("heard-*")) == ["heard-0", "heard-1"]


def test_a_warning_reaches_every_rank_and_how_they_end_is_told(running, tmp_path):
    heed = "trap 'exit 75' TERM; touch ready-$RANK; while :; do sleep 0.05; done"
    running.gang("a", "sh", "-c", heed, cwd=str(tmp_path))
    running.until("a", lambda found: all((tmp_path / f"ready-{n}").exists() for n in range(2)))
    os.kill(running.pids("a")[1], signal.SIGSTOP)  # it hears nothing until it goes on
    running.ask("signal", uid="a", epoch=1, signal="SIGTERM")
    found = running.until("a", lambda found: found[0]["state"] == "exited")
    assert (found["exit_code"], [r["exit_code"] for r in found["ranks"]]) == (75, [75, 75])


def test_a_leader_that_is_stopped_keeps_nobody_alive(running, ended):
    leader = running.gang("a", *SLEEP)["pid"]
    pids = running.pids("a")
    os.kill(leader, signal.SIGSTOP)
    running.ask("stop", uid="a", epoch=1, grace_s=0)
    running.until("a", lambda found: not found)
    for pid in (*pids, leader):
        ended(pid)


def test_ranks_that_ignore_everything_are_killed_after_their_grace(running, ended):
    deaf = "trap '' TERM INT HUP; echo deaf; while :; do sleep 1000; done"
    running.gang("a", "sh", "-c", deaf)
    pids = running.pids("a")
    running.ask("stop", uid="a", epoch=1, grace_s=0.1)
    running.until("a", lambda found: not found)
    for pid in pids:
        ended(pid)


def test_what_hides_from_us_is_gone_after_a_stop(running, tmp_path, alive):
    """Double fork, a session of its own, deaf to signals, and an environment without our mark."""
    hidden = hide(running, tmp_path)
    assert alive(hidden)
    running.ask("stop", uid="a", epoch=1, grace_s=0)
    running.until("a", lambda found: not found)
    assert not alive(hidden)


def test_what_hides_from_us_is_gone_once_its_rank_has_ended_by_itself(running, tmp_path, alive):
    hidden = hide(running, tmp_path, 0)
    found = running.until("a", lambda found: found[0]["state"] == "exited")
    assert found["exit_code"] == 0
    assert not alive(hidden)


def test_what_hides_from_us_does_not_outlive_a_killed_supervisor(running, tmp_path, ended):
    hidden = hide(running, tmp_path)
    running.kill()
    ended(hidden)


def test_a_leader_is_spared_until_it_is_alone(monkeypatch):
    """What is born while all are killed falls to it: without it, to nobody whom we know."""
    living, killed = [7, 8], []
    member = lambda pid: processes.Entry(pid, 1, 7, 0)  # noqa: E731
    monkeypatch.setattr(processes, "members", lambda *_: [member(pid) for pid in living])
    monkeypatch.setattr(processes.os, "kill", lambda pid, _: killed.append(pid))
    assert processes.kill({7}, "mark", 1, 7) == [8]
    living = [7]
    assert processes.kill({7}, "mark", 1, 7) == [7]
    assert killed == [8, 7]


def test_kill_9_of_the_supervisor_ends_leader_and_ranks(running, ended):
    leader = running.gang("a", *SLEEP)["pid"]
    pids = running.pids("a")
    running.kill()
    for pid in (leader, *pids):
        ended(pid)
    running.up()
    assert running.observe()["processes"] == []
    assert running.gang("a", *SLEEP)["state"] == "running"


def test_kill_9_of_the_leader_ends_its_ranks_and_is_told_of_each(running, ended):
    leader = running.gang("a", *SLEEP)["pid"]
    pids = running.pids("a")
    os.kill(leader, signal.SIGKILL)
    found = running.until("a", lambda found: found[0]["state"] == "exited")
    assert (found["exit_code"], [rank["exit_code"] for rank in found["ranks"]]) == (-9, [-9, -9])
    for pid in pids:
        ended(pid)


def test_an_older_attempt_is_gone_before_the_next_one_starts(running, alive):
    running.gang("a", *SLEEP)
    old = running.pids("a")
    assert running.gang("a", *SLEEP, epoch=2, ranks=3)["state"] == "waiting"
    running.until("a", lambda found: found[-1]["state"] == "running" and found[-1]["epoch"] == 2)
    assert [alive(pid) for pid in old] == [False, False]
    assert len(running.pids("a")) == 3
    refused = running.gang("a", *SLEEP)
    assert refused["error"]["code"] == "supervisor.stale-epoch"


def test_members_stand_in_the_journal_as_all_else_and_it_bears_no_secret(running):
    running.gang("a", *SLEEP, env={"PATH": os.environ["PATH"], "KEY": "very-secret"})
    text = (running.home / "supervisor" / "journal.json").read_text()
    assert [each["uid"] for each in json.loads(text)["processes"]] == ["a"]
    assert "very-secret" not in text


def test_the_memory_and_time_of_all_ranks_are_told_of_the_member(running):
    running.gang("a", "sh", "-c", "while :; do :; done")
    busy = running.until("a", lambda found: found and found[0].get("cpu_s", 0) > 0.2)
    assert busy["rss_bytes"] > 0


@pytest.fixture
def gang(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    return Gang(LaunchPlan("a", 1, ("train",), ranks=(RankPlan(0), RankPlan(1))), 1 << 20)


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b"{", b"[" * 9000, b"\xff", b'{"rank": 7, "pid": 1}', b'{"rank": [], "pid": 1}',
     b'{"rank": 0, "exit_code": 0, "ended_at": Infinity}', b'{"rank": 0, "exit_code": "0"}',
     b'{"rank": 0, "pid": 1e999}', b'{"rank":' + b"9" * 5000 + b', "pid": 1}'],
)  # fmt: skip
def test_nonsense_in_the_place_of_a_report_changes_nothing(gang, line):
    before = gang.ranks()
    assert not gang.hear(line + b"\n")
    assert gang.ranks() == before


def test_a_report_may_come_in_pieces_and_an_end_is_final(gang):
    told = b'{"rank": 1, "exit_code": -9, "ended_at": 5.0}\n{"rank": 1, "pid": 7}\n'
    assert [gang.hear(told[n : n + 1]) for n in range(len(told))].count(True) == 1
    assert [(rank.exit_code, rank.pid) for rank in gang.ranks()] == [(None, 0), (-9, 0)]
    gang.lose(1)
    assert [rank.exit_code for rank in gang.ranks()] == [-9, -9]
    assert gang.ranks()[1].ended_at == 5.0


def test_control_is_told_once_the_last_rank_has_begun(gang):
    starts = [b'{"rank": %d, "pid": %d}\n' % (n, 2**22 + n) for n in range(2)]
    assert [gang.hear(line) for line in starts] == [False, True]


def test_what_a_gang_holds_is_what_its_ranks_hold_together(node):
    node.up()
    holds = "import time; held = bytearray(40 << 20); time.sleep(1000)"
    node.gang("g", sys.executable, "-c", holds, ranks=3)
    held = node.until("g", lambda found: found and found[-1].get("rss_bytes", 0) > 120 << 20)
    assert held["rss_bytes"] < 300 << 20, "what they share counts once"


HOLD = """
import os, sys, time
held, each = bytearray(int(sys.argv[1])), int(sys.argv[2])
for page in range(0, len(held), 4096):
    held[page] = 1
for _ in range(3):
    if os.fork() == 0:
        own = bytearray(os.urandom(each)) if each else b""
        time.sleep(1000)
print("held", flush=True)
time.sleep(1000)
"""
MB = 1_000_000


def test_a_member_that_holds_more_than_it_may_is_ended_with_all_that_it_has_started(running):
    running.gang("a", *PYTHON, HOLD, "0", str(60 * MB), ranks=2, memory_bytes=200 * MB)
    found = running.until("a", lambda found: found[0]["state"] == "exited")
    assert found["over_bytes"] > 200 * MB
    assert [rank["exit_code"] for rank in found["ranks"]] == [-9, -9]


def test_what_processes_share_counts_once(running):
    running.gang("a", *PYTHON, HOLD, str(100 * MB), "0", ranks=1, memory_bytes=200 * MB)
    running.gang("b", *PYTHON, HOLD, "0", str(60 * MB), ranks=1, memory_bytes=100 * MB)
    running.until("b", lambda found: found[-1]["state"] == "exited")
    (pid,) = running.pids("a")
    assert running.printed("a", 1) == ["held"]
    pids = (pid, *processes.children(pid))
    assert len(pids) == 4
    assert processes.shared_out_bytes(pids, 10**12) > 400 * MB, "where it does not matter"
    assert 100 * MB < processes.shared_out_bytes(pids, 0) < 200 * MB
    (found,) = running.find("a")
    assert (found["state"], found.get("over_bytes", 0)) == ("running", 0)
