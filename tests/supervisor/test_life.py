"""A node's root process: who may be it, what lives and dies with it."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tests import living

from madang.supervisor import processes
from madang.supervisor.loop import Loop

SLEEP = ("sleep", "1000")
FAMILY = ("sh", "-c", "sleep 1000 & echo $!; setsid sleep 1000 & echo $!; wait")
"""A process with two of its own, of which one leaves the session."""


def boot(home: Path, *plans: dict[str, object]) -> None:
    (home / "run").mkdir(parents=True)
    (home / "run" / "boot.json").write_text(json.dumps(plans))


def test_of_ten_starts_at_once_one_runs_and_nine_say_so(node):
    started = [node.popen() for _ in range(10)]
    said = []
    for _, reader in started:
        with os.fdopen(reader) as ready:
            said.append(json.loads(ready.readline()))
    winners = [line for line in said if "ready" in line]
    assert len(winners) == 1
    held = [line["error"] for line in said if "error" in line]
    assert {error["code"] for error in held} == {"supervisor.held"}
    node.process = next(p for p, _ in started if p.pid == winners[0]["pid"])
    assert [p.wait() for p, _ in started if p is not node.process] == [3] * 9
    assert node.observe()["processes"] == []
    assert (node.home / "supervisor.lock").read_text().strip() == str(node.process.pid)


def test_it_also_runs_as_a_module(node, tmp_path):
    source = str(Path(processes.__file__).parents[2])
    code = "import runpy; runpy.run_module('madang.supervisor', run_name='__main__')"
    argv = [sys.executable, "-c", code, str(node.home)]
    node.up()
    second = subprocess.run(argv, capture_output=True, env={"PYTHONPATH": source}, check=False)
    assert second.returncode == 3
    assert b"supervisor.held" in second.stderr


def test_a_home_with_a_very_long_path_works(node, tmp_path):
    node.home = tmp_path / ("long-" * 20) / ("longer-" * 20)
    assert "ready" in node.up()
    assert node.start("a", *SLEEP)["state"] == "running"


def test_a_home_that_cannot_be_used_is_said_in_one_line(node, tmp_path):
    (tmp_path / "file").write_text("")
    node.home = tmp_path / "file" / "home"
    said = node.up()
    assert said["error"]["code"] == "supervisor.failed"
    assert "Not a directory" in said["error"]["values"]["cause"]
    assert node.process.wait() == 1


def test_nobody_else_may_come_near_the_socket(running):
    folder = (running.home / "run").stat()
    door = (running.home / "run" / "supervisor.sock").stat()
    assert stat.S_IMODE(folder.st_mode) == 0o700
    assert stat.S_IMODE(door.st_mode) == 0o600


def test_kill_9_of_the_supervisor_ends_its_children(running, ended):
    pids = [running.start(uid, *SLEEP)["pid"] for uid in ("a", "b")]
    running.kill()
    for pid in pids:
        ended(pid)


def test_what_a_killed_supervisor_left_is_ended_before_anything_starts(running, ended, alive):
    running.start("a", "sh", "-c", "sleep 1000 & echo $!; wait")
    left = int(running.printed("a", 1)[0])
    running.kill()
    assert alive(left)
    running.up()
    assert not alive(left)
    assert running.observe()["processes"] == []


def test_what_left_its_session_and_its_parent_is_still_known_as_ours(running, ended, alive):
    """A daemon that an engine leaves behind holds its accelerator: by its mark it is found."""
    leave = "(setsid sleep 1000 & echo $!)"
    running.start("a", "sh", "-c", f"{leave}; exec sleep 1000")
    running.start("b", "sh", "-c", f"{leave}; exec sleep 1000")
    (of_a,), (of_b,) = running.printed("a", 1), running.printed("b", 1)
    running.ask("stop", uid="a", epoch=1, grace_s=10)
    running.until("a", lambda found: not found)
    assert not alive(int(of_a))
    assert alive(int(of_b)), "it belongs to another"
    running.kill()
    assert alive(int(of_b))
    running.up()
    assert not alive(int(of_b))


def test_a_stranger_with_a_journaled_number_is_left_alone(node, alive):
    stranger = subprocess.Popen(SLEEP, start_new_session=True)
    (node.home / "supervisor").mkdir(parents=True)
    entry = {"uid": "a", "epoch": 1, "pid": stranger.pid, "start_ticks": 1, "accelerators": []}
    journal = {"boot_id": processes.boot_id(), "processes": [entry]}
    (node.home / "supervisor" / "journal.json").write_text(json.dumps(journal))
    assert "ready" in node.up()
    assert alive(stranger.pid)
    stranger.kill()
    stranger.wait()


def test_a_journal_cut_short_by_a_power_failure_is_no_hindrance(node):
    (node.home / "supervisor").mkdir(parents=True)
    (node.home / "supervisor" / "journal.json").write_text('{"boot_id": "')
    assert "ready" in node.up()


def test_nothing_runs_that_is_not_in_the_journal(running, tmp_path):
    (running.home / "supervisor" / "journal.json.new").mkdir()
    refused = running.start("a", "touch", str(tmp_path / "ran"))
    assert refused["error"]["code"] == "supervisor.spawn-failed"
    (running.home / "supervisor" / "journal.json.new").rmdir()
    running.start("b", "true")
    running.until("b", lambda found: found[0]["state"] == "exited")
    assert not (tmp_path / "ran").exists()


def test_no_descriptors_left_is_an_answer_and_passes(running):
    pid = running.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    client = running.client()
    client.ask("observe", after=0, wait_s=0)
    used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 4, limits[1]))
    plan = {"uid": "a", "epoch": 1, "argv": SLEEP, "env": {"PATH": os.environ["PATH"]}}
    refused = client.ask("start", plan=plan)["error"]
    assert (refused["code"], refused["values"]["cause"]) == (
        "supervisor.spawn-failed",
        "Too many open files",
    )
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert client.ask("start", plan=plan)["ok"]["state"] == "running"


def test_without_descriptors_nothing_is_taken_for_gone(running, alive, ended):
    """A stop, a tail and a start meet EMFILE, and nobody dies of it."""
    stopped = running.start("a", *FAMILY)["pid"]
    crashed = running.start("b", "sh", "-c", "sleep 1000 & echo $!; wait")["pid"]
    below = [int(line) for line in [*running.printed("a", 2), *running.printed("b", 1)]]
    client = running.client()
    client.ask("observe", after=0, wait_s=0)
    pid = running.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    assert "cannot read" in client.ask("tail", uid="a", lines=1)["ok"]["lines"][0]
    client.ask("stop", uid="a", epoch=1, grace_s=0)
    os.kill(crashed, signal.SIGKILL)
    ended(crashed)
    seen = client.ask("observe", after=0, wait_s=0)["ok"]["processes"]
    assert [process["pid"] for process in seen] == [stopped, crashed]
    assert all(alive(pid) for pid in [stopped, *below])
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    running.until("a", lambda found: not found)
    for pid in below:
        ended(pid)


def test_children_get_the_limit_of_open_files_that_was_there_before(node):
    low = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 60))  # noqa: E731
    node.up(preexec_fn=low)
    assert resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE) == (60, 60)
    node.start("a", "sh", "-c", "ulimit -Sn; ulimit -Hn; umask")
    assert node.printed("a", 3) == ["40", "60", "0077"]


def test_every_file_of_the_home_is_for_its_owner_alone(running):
    running.start("a", "echo", "hello")
    running.printed("a", 1)
    modes = living.every(running.home, lambda path: path.lstat().st_mode)
    assert [path for path, mode in modes.items() if mode & 0o077] == []


def test_sigterm_stops_everything_and_exits_with_zero(running, ended):
    pids = [running.start("a", *FAMILY)["pid"], running.start("b", *SLEEP)["pid"]]
    pids += [int(line) for line in running.printed("a", 2)]
    assert running.down() == 0
    for pid in pids:
        ended(pid)
    assert not (running.home / "run" / "supervisor.sock").exists()


def test_nothing_new_starts_while_it_closes(running):
    running.start("a", "sh", "-c", "trap '' TERM; echo ready; sleep 1000", grace_s=1)
    running.printed("a", 1)
    client = running.client()
    client.ask("observe", after=0, wait_s=0)
    running.process.terminate()
    closing, epoch = False, 0
    while not closing:
        epoch += 1
        plan = {"uid": "b", "epoch": epoch, "argv": ["true"], "env": {"PATH": os.environ["PATH"]}}
        answer = client.ask("start", plan=plan)
        closing = answer.get("error", {}).get("code") == "supervisor.closing"
        client.ask("stop", uid="b", epoch=epoch, grace_s=0)
    assert running.process.wait() == 0


def test_the_grandchildren_of_a_stopped_process_are_gone_before_it_is(running, alive):
    running.start("a", *FAMILY)
    family = [int(line) for line in running.printed("a", 2)]
    running.ask("stop", uid="a", epoch=1, grace_s=10)
    running.until("a", lambda found: not found)
    assert not any(alive(pid) for pid in family)


def test_the_grandchildren_of_a_crashed_process_are_gone_before_it_has_ended(running, alive):
    pid = running.start("a", "sh", "-c", "sleep 1000 & echo $!; wait", accelerators=["gpu0"])["pid"]
    below = int(running.printed("a", 1)[0])
    os.kill(pid, signal.SIGKILL)
    found = running.until("a", lambda found: found[0]["state"] == "exited")
    assert found["exit_code"] == -signal.SIGKILL
    assert not alive(below)


def test_a_child_gets_three_streams_and_the_ready_pipe_and_nothing_else(node):
    extra = os.open("/dev/null", os.O_RDONLY)
    node.up(pass_fds=(extra,))
    os.close(extra)
    look = "for n in $(seq 0 99); do [ -e /proc/$$/fd/$n ] && echo $n; done; env"
    node.start("a", "sh", "-c", look)
    node.until("a", lambda found: found[0]["state"] == "exited")
    lines = node.ask("tail", uid="a", lines=99)["lines"]
    assert [line for line in lines if line.isdigit()] == ["0", "1", "2", "3"]
    names = {line.partition("=")[0] for line in lines if not line.isdigit()}
    told = {"PATH", "MADANG_READY_FD", "MADANG_PROCESS"}
    assert told <= names <= told | {"PWD"}


def test_a_child_starts_with_every_signal_as_it_should_be(running):
    running.start("a", "grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")
    masks = [int(line.split()[1], 16) for line in running.printed("a", 2)]
    c_library = 0b11 << 31  # 32 and 33 are its own: no program can change what it inherited
    assert [mask & ~c_library for mask in masks] == [0, 0]


def test_boot_plans_start_at_once_and_come_back_after_a_crash(node):
    plan = {"uid": "control", "epoch": 1, "argv": SLEEP, "restart": "always"}
    boot(node.home, {**plan, "env": {"PATH": os.environ["PATH"]}})
    node.up()
    first = node.find("control")[0]
    os.kill(first["pid"], signal.SIGKILL)
    second = node.until("control", lambda found: found[0].get("pid", 0) not in (0, first["pid"]))
    assert (second["state"], second["restarts"], second["epoch"]) == ("running", 1, 1)


def test_a_boot_plan_whose_program_is_missing_waits_for_it(node, tmp_path):
    program = tmp_path / "later"
    boot(node.home, {"uid": "control", "epoch": 1, "argv": [str(program)], "restart": "always"})
    assert "ready" in node.up()
    assert node.find("control")[0]["state"] == "waiting"
    program.write_text("#!/bin/sh\nsleep 1000\n")
    program.chmod(0o700)
    node.until("control", lambda found: found[0]["state"] == "running")


def test_a_boot_file_that_cannot_be_read_is_said_in_one_line(node):
    boot(node.home, {"uid": "control"})
    said = node.up()
    assert said["error"]["code"] == "supervisor.failed"
    assert node.process.wait() == 1


def test_it_stays_small(running):
    for number in range(20):
        running.start(f"a{number}", "true")
    running.until("a19", lambda found: found[0]["state"] == "exited")
    pages = int(Path(f"/proc/{running.process.pid}/statm").read_text().split()[1])
    assert pages * resource.getpagesize() < 16 << 20


def test_while_everything_is_ended_on_purpose_nobody_is_told_of_ends(node):
    node.up()
    node.start("slow", "sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done")
    node.printed("slow", 1)
    node.process.send_signal(signal.SIGTERM)
    while "processes" in (seen := node.observe()):
        assert seen["processes"][0]["state"] == "running", "an end that was asked for"
    assert seen["error"]["code"] == "supervisor.closing"


def test_what_each_process_uses_and_whether_it_is_stopped_is_told_at_every_look(running):
    spin = "while :; do :; done & while :; do :; done"
    running.start("busy", "sh", "-c", spin)
    busy = running.until("busy", lambda found: found and found[0].get("cpu_s", 0) > 0.2)
    assert busy["rss_bytes"] > 0
    os.kill(busy["pid"], signal.SIGSTOP)
    assert running.until("busy", lambda found: found[0].get("halted"))["pid"] == busy["pid"]
    os.kill(busy["pid"], signal.SIGCONT)
    running.until("busy", lambda found: not found[0].get("halted"))


@pytest.mark.parametrize(
    "kept", ["", "[]", "{", "null", '{"boot_id": "b", "processes": [{"pid": "x"}]}', '"\\ud800"']
)
def test_a_damaged_journal_is_set_aside_and_keeps_nobody_from_starting(node, kept):
    folder = node.home / "supervisor"
    folder.mkdir(parents=True)
    (folder / "journal.json").write_text(kept)
    assert "ready" in node.up()
    assert (folder / "journal.corrupt").read_text() == kept
    node.start("a", "sleep", "1000")
    assert json.loads((folder / "journal.json").read_text())["processes"][0]["uid"] == "a"


def test_a_journal_of_a_newer_version_is_refused_and_stays(node):
    folder = node.home / "supervisor"
    folder.mkdir(parents=True)
    newer = '{"form": 2, "processes": "of another kind"}'
    (folder / "journal.json").write_text(newer)
    error = node.up()["error"]
    assert error["code"] == "file.newer"
    assert error["values"]["subject"] == str(folder / "journal.json")
    assert [path.name for path in folder.iterdir()] == ["journal.json"]
    assert (folder / "journal.json").read_text() == newer


def test_what_it_keeps_bears_its_form(running):
    running.start("a", "sleep", "1000")
    assert json.loads((running.home / "supervisor" / "journal.json").read_text())["form"] == 1


def test_without_memory_nothing_else_ends_and_an_end_is_seen_once_there_is_some(running, ended):
    stays, ends = (running.start(uid, "sleep", "1000")["pid"] for uid in ("stays", "ends"))
    pid = running.process.pid
    clients = [running.client() for _ in range(20)]
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (1 << 20, before[1]))
    for client in clients:
        with suppress(OSError):
            client.send(b"x" * (256 << 10))
    os.kill(ends, signal.SIGKILL)
    ended(ends)
    resource.prlimit(pid, resource.RLIMIT_AS, before)
    running.until("ends", lambda found: found and found[0]["state"] == "exited")
    assert [found["pid"] for found in running.find("stays")] == [stays]
    assert running.process.poll() is None


def test_what_finds_no_memory_is_tried_again_and_named_once(capsys):
    loop, tries = Loop(), []

    def starved():
        tries.append(1)
        if len(tries) < 3:
            raise MemoryError

    reader, writer = socket.socketpair()
    with reader, writer:
        writer.send(b"x")
        loop.alarm("a", 0, starved)
        loop.watch(reader.fileno(), lambda: (_ for _ in ()).throw(MemoryError))
        loop.run_until(lambda: len(tries) == 3)
    assert capsys.readouterr().err.count("memory has run out") == 1
