"""What goes wrong under a running Madang: named, told what to do, and over without a restart."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from .conftest import Yard, is_alive, kill
from .test_kill import Caller

pytestmark = [pytest.mark.story, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def served(running: Yard) -> Yard:
    """Two replicas of the fake engine."""
    running.fake("words", words="one two three four five six seven eight", token_ms=2)
    running.apply(kind="service", name="words", model="words", scale=2)
    running.until_phase("service", "words", "ready")
    return running


def unwell(yard: Yard) -> dict[str, Any]:
    """Return what doctor finds wrong, by code."""
    done = yard.run("doctor", "--json")
    items = json.loads(done.stdout)["items"]
    assert done.returncode == (0 if all(item["ok"] for item in items) else 1)
    return {item["code"]: item for item in items if not item["ok"]}


def events(yard: Yard, code: str) -> list[Any]:
    return [e for e in yard.json("events") if e["code"] == code]


def test_an_engine_that_is_stopped_is_replaced_while_the_other_serves(served: Yard) -> None:
    victim = served.replicas("words")[0]
    with Caller(served) as caller:
        os.kill(victim["status"]["pid"], signal.SIGSTOP)
        good = caller.good
        served.until("the other one serves on", lambda: caller.good > good + 3, 30)
        served.until(
            "the replica has a new process",
            lambda: (
                served.get("replica", victim["name"])["status"]["epoch"] > victim["status"]["epoch"]
            ),
        )
        served.until_phase("replica", victim["name"], "ready")
    assert caller.bad == [], "what waited on it was asked of the other one"
    assert not is_alive(victim["status"]["pid"])
    (told,) = [e for e in events(served, "replica.backed-off") if e["name"] == victim["name"]]
    assert told["values"]["reason"] == "replica.halted"


def is_bound(end: socket.socket, port: int) -> bool:
    try:
        end.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


@contextmanager
def taken(yard: Yard) -> Iterator[None]:
    """Take control's port while it is down, as somebody else might."""
    pid, port = yard.pid("control"), urlsplit(yard.told["api"]).port
    assert port
    os.kill(yard.supervisor, signal.SIGSTOP)
    try:
        kill(pid)
        other = socket.socket()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yard.until("the port is free", lambda: is_bound(other, port))
        other.listen()
    finally:
        os.kill(yard.supervisor, signal.SIGCONT)
    with other:
        yield


def test_a_port_that_was_taken_while_control_was_down_is_named_and_comes_back(
    served: Yard,
) -> None:
    with Caller(served) as caller, taken(served):
        served.until("doctor names the port", lambda: "control.port" in unwell(served))
        said = served.run("doctor").stdout
        assert "Address already in use (" in said
        assert f", pid {os.getpid()})" in said, "who holds it is named"
        assert "madang up --port N" in said
        good = caller.good
        served.until("applications are served meanwhile", lambda: caller.good > good)
    served.until("all is well again", lambda: not unwell(served))
    assert caller.bad == []


def test_a_second_control_and_a_second_gateway_are_turned_away(served: Yard) -> None:
    for part, code in (("madang.app", "store.held"), ("madang.gateway", "gateway.running")):
        argv = [sys.executable, "-m", part, str(served.home), "--port", "0"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 75
        assert code in done.stderr.splitlines()[-1]
    assert not unwell(served)


def test_a_model_file_that_changed_is_named_and_coming_back_mends_it(served: Yard) -> None:
    path = served.home.parent / "words.json"
    content, before = path.read_bytes(), path.stat()
    path.write_bytes(content.replace(b"one two", b"two one"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert unwell(served)["blob.changed"]["subject"] == "model/words@1"
    victim = served.replicas("words")[0]
    kill(victim["status"]["pid"])
    name = victim["name"]
    served.until(
        "the cause is named",
        lambda: (
            (served.get("replica", name)["status"]["reason"] or {}).get("code") == "blob.changed"
        ),
    )
    path.write_bytes(content)
    served.until_phase("replica", name, "ready")
    served.until("all is well again", lambda: not unwell(served))


def test_an_engine_secret_that_was_lost_gives_every_engine_a_new_key(served: Yard) -> None:
    before = {r["name"]: r["status"]["epoch"] for r in served.replicas("words")}
    (served.home / "secret.key").write_text("")
    assert "doctor.key-missing" in unwell(served)
    kill(served.pid("control"))
    served.until("control is back", lambda: served.run("status").returncode == 0)
    served.until(
        "every engine was started anew",
        lambda: all(
            r["status"]["phase"] == "ready" and r["status"]["epoch"] > before[r["name"]]
            for r in served.replicas("words")
        ),
        90,
    )
    served.until("it answers", lambda: served.run("chat", "words", "hi").returncode == 0)
    assert len((served.home / "secret.key").read_text().strip()) == 64


def test_whatever_is_damaged_while_nothing_runs_the_next_up_serves(
    new_yard: Callable[[str], Yard],
) -> None:
    yard = new_yard("damaged")
    yard.up()
    yard.json("down")
    for name in ("listen.json", "first-run.json", "gateway/table.json", "supervisor/journal.json"):
        (yard.home / name).write_text("{ torn")
    for name in ("usage.jsonl", "usage-1-1-ab.000001.log"):
        (yard.home / "gateway" / name).write_bytes(b"\x00\xff\n{torn")
    (yard.home / "secret.key").unlink()
    (yard.home / "admin.key").unlink()
    assert {"doctor.file-damaged", "doctor.key-missing"} <= unwell(yard).keys()
    assert yard.up()["answer"]
    assert set(unwell(yard)) == {"doctor.file-set-aside"}


def test_a_state_that_was_lost_is_made_anew_and_everything_follows_it(
    new_yard: Callable[[str], Yard],
) -> None:
    yard = new_yard("lost")
    yard.up()
    for _ in range(2):  # a term or two ahead of what comes
        control = yard.pid("control")
        kill(control)
        yard.until("control is back", lambda c=control: bool(yard.run("status").returncode == 0))
    os.kill(yard.supervisor, signal.SIGSTOP)
    kill(yard.pid("control"))
    for path in yard.home.glob("state.db*"):
        path.unlink()
    os.kill(yard.supervisor, signal.SIGCONT)
    yard.until("the new control answers", lambda: yard.run("status").returncode == 0)
    yard.fake("words", words="one two")
    yard.apply(kind="service", name="words", model="words")
    yard.until_phase("service", "words", "ready")
    yard.until("it answers", lambda: yard.run("chat", "words", "hi").returncode == 0)


DISK = """
set -e
mount -t tmpfs -o size=24m,mode=700 tmpfs "$1"
exec "$2" -m pytest -q -p no:cacheprovider --import-mode=importlib \
    "$3::test_on_a_small_disk" --basetemp="$4"
"""


def test_a_disk_that_runs_full_stops_changes_and_nothing_else(tmp_path: Path) -> None:
    """The home lies on a file system of 24 MB, mounted for this test and its children alone."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    argv = ["unshare", "-m", "sh", "-c", DISK, "sh", disk, sys.executable, __file__]
    env = {**os.environ, "MADANG_TEST_DISK": str(disk)}
    done = subprocess.run(
        [*argv, tmp_path / "inner"], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(".")


if "MADANG_TEST_DISK" in os.environ:  # run by the test above, in a world of its own

    def test_on_a_small_disk() -> None:
        """No change is acknowledged that is not kept; answers go on; room brings all back."""
        yard = Yard(Path(os.environ["MADANG_TEST_DISK"]) / "home")
        try:
            _fill_and_free(yard)
        finally:
            yard.run("down")


def _fill_and_free(yard: Yard) -> None:
    yard.up()
    filler = yard.home.parent / "filler"
    with filler.open("wb") as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    os.write(file.fileno(), b"x" * size)
            except OSError:
                continue
    assert "doctor.disk-short" in unwell(yard)
    kept = []
    with Caller(yard, "hello") as caller:
        for number in range(2000):
            done = yard.run("key", "create", f"k{number}", "--json")
            if done.returncode:
                break
            kept.append(f"k{number}")
        error = json.loads(done.stderr)["error"]
        assert error["code"] == "store.write-failed", error
        assert "madang doctor" in error["hint"]
        good = caller.good
        yard.until("answers go on", lambda: caller.good > good + 2)
        filler.unlink()
        yard.until("changes are taken again", lambda: not yard.run("key", "create", "z").returncode)
    assert caller.bad == []
    names = {key["name"] for key in yard.json("get", "key")}
    assert set(kept) | {"z"} <= names
