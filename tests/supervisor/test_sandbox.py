"""What ranks see of their machine in a sandbox, and that nothing of them is left there either."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from madang.supervisor import sandbox
from madang.supervisor.gang import Gang
from madang.supervisor.protocol import LaunchPlan, RankPlan, Sandbox

PYTHON = (os.path.realpath(getattr(sys, "_base_executable", sys.executable)), "-I", "-S", "-c")
NUMBER = 61_001
MISSING = subprocess.run(
    ["sh", "-c", '"$@"', "sh", *sandbox.probe()], capture_output=True, text=True, check=False
).stderr  # fmt: skip
needs_bubblewrap = pytest.mark.skipif(bool(MISSING), reason=f"no sandbox here: {MISSING[-200:]}")


def enclosed(node: Any, program: str, writes: tuple[Path, ...], **more: Any) -> None:
    """Start a member of two ranks in a sandbox."""
    box = {"writes": [str(path) for path in writes], **more.pop("sandbox", {})}
    env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "KEY": "very-secret"}
    node.gang("a", *PYTHON, program, sandbox=box, env=env, **more)


def exited(node: Any) -> dict[str, Any]:
    found: dict[str, Any] = node.until("a", lambda found: found[0]["state"] == "exited")
    return found


def told(node: Any, rank: int = 0) -> Any:
    """Return what a rank has printed, one JSON value."""
    lines = node.ask("tail", uid="a", rank=rank, lines=50)["lines"]
    try:
        return json.loads(lines[-1])
    except (ValueError, IndexError):
        raise AssertionError((lines, node.ask("tail", uid="a", lines=50))) from None


@needs_bubblewrap
def test_a_folder_is_seen_at_the_place_it_is_given(running, tmp_path):
    for name in ("code", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "code" / "said").write_text("hello")
    program = (
        "import json, os\n"
        "said = open('/code/said').read()\n"
        "open('/data/heard', 'w').write(said)\n"
        "try:\n    open('/code/more', 'w')\n"
        "except OSError as error:\n    print(json.dumps([said, error.strerror]))\n"
    )
    mounts = [
        {"source": str(tmp_path / "code"), "place": "/code"},
        {"source": str(tmp_path / "data"), "place": "/data", "is_writable": True},
    ]
    enclosed(running, program, (), sandbox={"mounts": mounts})
    exited(running)
    assert told(running) == ["hello", "Read-only file system"]
    assert (tmp_path / "data" / "heard").read_text() == "hello"


@pytest.mark.parametrize("place", ["/", "/usr/lib", "/proc", "/etc/passwd", "data", "/a/../usr"])
def test_nothing_is_seen_in_place_of_the_system(running, tmp_path, place):
    mounts = [{"source": str(tmp_path), "place": place}]
    answer = running.gang("a", *PYTHON, "", sandbox={"mounts": mounts})
    assert answer["error"]["code"] == "supervisor.bad-order"
    assert running.find("a") == []


LOOK = """
import json, os
def writable(path):
    try:
        with open(path + "/probe", "w") as file:
            file.write("x")
        os.unlink(path + "/probe")
        return True
    except OSError:
        return False
places = ["/", "/dev", "/usr", "/tmp", "/dev/shm", "/run", HOME, OUT]
with open("/proc/self/status") as file:
    status = dict(line.split(":", 1) for line in file)
with open("/proc/net/dev") as file:
    devices = [line.split(":")[0].strip() for line in file.readlines()[2:]]
print(json.dumps({
    "writable": [path for path in places if writable(path)],
    "there": [path for path in (HOME, OUT, "/home", "/sys", "/etc/passwd") if os.path.exists(path)],
    "environment": sorted(os.environ), "capabilities": status["CapEff"].strip(),
    "devices": devices, "open": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
    "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
}))
"""


@needs_bubblewrap
def test_a_rank_sees_what_it_was_given_and_nothing_of_madang_or_of_others(running, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    program = LOOK.replace("HOME", repr(str(running.home))).replace("OUT", repr(str(out)))
    enclosed(running, program, (out,), ranks=1, cwd=str(out))
    assert exited(running)["exit_code"] == 0
    seen = told(running)
    assert seen["writable"] == ["/tmp", "/dev/shm", str(out)]
    assert seen["there"] == [str(out)]
    assert seen["environment"] == ["KEY", "LANG", "MADANG_PROCESS", "PATH", "RANK"]
    assert int(seen["capabilities"], 16) == 0
    assert seen["devices"] == ["lo"]
    assert (seen["open"], seen["processes"]) == ([0, 1, 2], 2)


@needs_bubblewrap
def test_ranks_of_one_member_share_their_loopback_and_nobody_elses(running, tmp_path):
    program = """
import os, socket, time
if os.environ["RANK"] == "0":
    with socket.create_server(("127.0.0.1", PORT)) as server:
        server.accept()[0].sendall(b"from rank 0")
else:
    while True:
        try:
            with socket.create_connection(("127.0.0.1", PORT)) as client:
                print(repr(client.recv(99).decode()).replace("'", '"'), flush=True)
                break
        except ConnectionRefusedError:
            time.sleep(0.01)
"""
    with socket.create_server(("127.0.0.1", 0)) as server:  # the same port is taken outside
        enclosed(running, program.replace("PORT", str(server.getsockname()[1])), ())
        assert exited(running)["exit_code"] == 0
    assert told(running, 1) == "from rank 0"


@needs_bubblewrap
def test_calls_that_reach_beyond_a_sandbox_are_refused_and_the_usual_ones_are_not(running):
    program = """
import ctypes, errno, json, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(*words):
    return errno.errorcode.get(ctypes.get_errno(), "") if libc.syscall(*words) < 0 else ""
def connect(family):
    try:
        socket.socket(family).close()
        return ""
    except OSError as error:
        return errno.errorcode[error.errno]
sockets = [connect(40), connect(socket.AF_INET)]
print(json.dumps([call(number, 0, 0, 0) for number in REFUSED] + sockets))
"""
    refused = sandbox.MACHINES[os.uname().machine][2]
    enclosed(running, program.replace("REFUSED", repr(refused)), (), ranks=1)
    exited(running)
    assert told(running) == ["EPERM"] * (len(refused) + 1) + [""]


@needs_bubblewrap
def test_a_stop_gives_ranks_in_a_sandbox_their_grace(running, tmp_path):
    heed = """
import os, signal, sys, time
def heard(*_):
    open(f"heard-{os.environ['RANK']}", "w").close()
    sys.exit(75)
signal.signal(signal.SIGTERM, heard)
open(f"ready-{os.environ['RANK']}", "w").close()
while True:
    time.sleep(1000)
"""
    enclosed(running, heed, (tmp_path,), cwd=str(tmp_path))
    running.until("a", lambda found: all((tmp_path / f"ready-{n}").exists() for n in range(2)))
    running.ask("signal", uid="a", epoch=1, signal="SIGTERM")
    found = exited(running)
    assert (found["exit_code"], [rank["exit_code"] for rank in found["ranks"]]) == (75, [75, 75])
    assert sorted(path.name for path in tmp_path.glob("heard-*")) == ["heard-0", "heard-1"]


HIDE = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve(PYTHON[0], [*PYTHON, "import time; time.sleep(1000)", "hidden-MARK"], {})
    os._exit(0)
os.wait()
time.sleep(1000)
"""


def hidden(mark: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().endswith(f"hidden-{mark}\0".encode()):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@needs_bubblewrap
@pytest.mark.parametrize("end", ["stop", "kill the supervisor", "kill the leader"])
def test_nothing_of_a_sandbox_is_left(running, tmp_path, ended, end):
    mark = tmp_path.name
    enclosed(running, HIDE.replace("PYTHON", repr(list(PYTHON))).replace("MARK", mark), (), ranks=1)
    running.until("a", lambda found: hidden(mark))
    pids = [*running.pids("a"), *hidden(mark)]
    if end == "stop":
        running.ask("stop", uid="a", epoch=1, grace_s=0)
        running.until("a", lambda found: not found)
    elif end == "kill the supervisor":
        running.kill()
    else:
        os.kill(running.find("a")[0]["pid"], signal.SIGKILL)
        assert [rank["exit_code"] for rank in exited(running)["ranks"]] == [-9]
    for pid in pids:
        ended(pid)


@needs_bubblewrap
def test_the_processes_told_of_a_sandbox_are_those_of_the_machine(running, tmp_path):
    enclosed(running, "import time; time.sleep(1000)", ())
    pids = running.pids("a")
    os.kill(pids[1], signal.SIGKILL)
    ranks = running.until_ranks("a", lambda ranks: "exit_code" in ranks[1])
    assert (ranks[0]["pid"], ranks[1]["exit_code"]) == (pids[0], -9)


@needs_bubblewrap
def test_progress_comes_out_of_a_sandbox_without_being_named(running, tmp_path):
    folder = tmp_path / "progress"
    tell = f"""
import os, time
with open({str(folder)!r} + "/progress-" + os.environ["RANK"] + ".jsonl", "w") as file:
    file.write('{{"step": 4}}\\n')
time.sleep(1000)
"""
    enclosed(running, tell, (), progress=str(folder))
    running.until_ranks("a", lambda ranks: all(rank.get("step") == 4 for rank in ranks))


@needs_bubblewrap
def test_memory_and_the_length_of_files_have_limits(running, tmp_path):
    program = """
import json
said = []
try:
    block = bytearray(200 << 20)
except MemoryError:
    said.append("memory")
try:
    with open("/tmp/long", "wb") as file:
        file.write(bytes(2 << 20))
except OSError as error:
    said.append(error.strerror)
print(json.dumps(said))
"""
    box = {"data_bytes": 100 << 20, "file_bytes": 1 << 20}
    enclosed(running, program, (), ranks=1, sandbox=box)
    exited(running)
    assert told(running) == ["memory", "File too large"]


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root gives numbers away")


@needs_bubblewrap
@needs_root
def test_a_member_may_have_a_number_of_its_own_and_as_many_processes(running, tmp_path):
    """And none of what it is given needs to be within that number's reach."""
    tmp_path.chmod(0o700)
    out = tmp_path / "out"
    out.mkdir(mode=0o700)
    os.chown(out, NUMBER, NUMBER)
    (tmp_path / "said").write_text("hello")
    (tmp_path / "said").chmod(0o644)
    program = f"cat /said >{out}/file; for n in $(seq 60); do sleep 1000 & done; echo too many"
    mounts = [{"source": str(tmp_path / "said"), "place": "/said"}]
    box = {"uid": NUMBER, "processes": 40, "writes": [str(out)], "mounts": mounts}
    progress = tmp_path / "progress"
    running.gang("a", "sh", "-c", program, ranks=1, sandbox=box, progress=str(progress))
    assert exited(running)["exit_code"] == 2
    assert [line[-11:] for line in running.ask("tail", uid="a", lines=9)["lines"]] == [
        "Cannot fork"
    ]
    assert ((out / "file").read_text(), (out / "file").stat().st_uid) == ("hello", NUMBER)
    assert progress.stat().st_uid == NUMBER


@needs_bubblewrap
@needs_root
def test_members_of_other_numbers_cannot_read_each_other(running, tmp_path):
    (tmp_path / "mine").mkdir(mode=0o700)
    (tmp_path / "mine" / "said").write_text("hello")
    os.chown(tmp_path / "mine", NUMBER, NUMBER)
    for uid, number, code in (("a", NUMBER + 1, 2), ("b", NUMBER, 0)):
        mounts = [{"source": str(tmp_path / "mine"), "place": "/mine"}]
        box = {"uid": number, "mounts": mounts}
        running.gang(uid, "ls", "/mine", ranks=1, sandbox=box)
        found = running.until(uid, lambda found: found[0]["state"] == "exited")
        assert found["exit_code"] == code


@needs_bubblewrap
def test_a_sandbox_that_cannot_be_built_is_told_of_each_rank(running, tmp_path):
    enclosed(running, "", (tmp_path / "missing",))
    found = exited(running)
    assert found["exit_code"] == 1
    for rank in found["ranks"]:
        assert rank["error"].startswith("bwrap: Can't find source path")
        assert rank["exit_code"] == 127


def test_where_bubblewrap_is_missing_the_start_is_refused_and_nothing_runs_bare(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sandbox, "PROGRAM", "no-such-bwrap")
    plan = LaunchPlan("a", 1, ("true",), ranks=(RankPlan(0),), sandbox=Sandbox())
    before = sorted(Path("/proc/self/fd").iterdir())
    with pytest.raises(OSError, match="bubblewrap is not installed"):
        Gang(plan, 1 << 20).spawn(lambda pid: pytest.fail("it was started"))
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_the_filter_of_calls_refuses_what_it_names_on_every_machine():
    for machine, (name, making, refused) in sandbox.MACHINES.items():
        program = sandbox.call_filter(machine)
        call = lambda number, first=0, arch=name: run(program, number, arch, first)  # noqa: B023, E731
        assert {call(number) for number in refused} == {"EPERM"}
        assert call(0) == call(making) == call(making, 2) == "allowed"
        assert call(making, 40) == call(0, arch=1) == "EPERM"
        assert (call(0x40000000 + 1) == "EPERM") == (machine == "x86_64")


def run(program: bytes, number: int, arch: int, first: int) -> str:
    """Carry out a classic BPF program on one call, as the kernel does."""
    steps = [struct.unpack_from("HBBI", program, at) for at in range(0, len(program), 8)]
    data = {0: number, 4: arch, 16: first}
    at = value = 0
    while True:
        code, true, false, word = steps[at]
        at += 1
        if code == 0x20:
            value = data[word]
        elif code == 0x06:
            return {0x7FFF0000: "allowed", 0x00050001: "EPERM"}[word]
        else:
            holds = value == word if code == 0x15 else value >= word
            at += true if holds else false


@needs_bubblewrap
def test_what_a_member_holds_in_its_sandbox_is_bounded_too(running, tmp_path):
    program = "import os, time\nos.fork()\nheld = bytearray(os.urandom(80_000_000))\ntime.sleep(99)"
    enclosed(running, program, (tmp_path,), memory_bytes=200_000_000)
    found = exited(running)
    assert found["over_bytes"] > 200_000_000
    assert [rank["exit_code"] for rank in found["ranks"]] == [-9, -9]
