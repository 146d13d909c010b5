"""`doctor` where nothing answers, and `up` that fails: the cause in one line, and the next step."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from madang import forms
from madang.app import look, plans, upkeep
from madang.cli import background, checks, up
from madang.ending import farewell, heard
from madang.errors import Corrupt, Rejected, Unavailable
from madang.gateway.segment import line_of
from madang.settings import Home
from madang.stores.place import Hold
from madang.stores.sqlite import SqliteStore
from madang.traffic.account import Passed

NEWER = 'last words: {"kind": "Corrupt", "code": "store.newer-version", "values": {"subject": "",\
 "found": "9", "known": "1"}}'


@pytest.fixture
def made(home: Home) -> Home:
    """A home that was started once, and where nothing runs."""
    home.path.mkdir(mode=0o700)
    for folder in (home.logs, home.gateway, home.path / "supervisor"):
        folder.mkdir()
    for key in (home.admin_key, home.secret):
        key.write_text("k" * 64)
        key.chmod(0o600)
    home.state.write_text("")
    return home


def unwell(run: Any, home: Home) -> dict[str, Any]:
    """Return what doctor finds wrong, by code."""
    done = run("doctor", "--home", str(home.path), "--json")
    assert done.status == 1
    return {c["code"]: c for c in json.loads(done.out)["items"] if not c["ok"]}


def test_where_nothing_was_started_doctor_says_so(run, home: Home) -> None:
    assert unwell(run, home).keys() == {"control.not-started"}


def test_where_nothing_runs_doctor_looks_for_itself(run, made: Home) -> None:
    assert unwell(run, made).keys() == {"doctor.supervisor-down"}
    said = run("doctor", "--home", str(made.path))
    assert "nothing runs here\n  Start it with: madang up" in said.out


@pytest.mark.parametrize("damage", ["", "{", "7", "\x00\xff"])
@pytest.mark.parametrize("name", ["listen.json", "gateway/table.json", "supervisor/journal.json"])
def test_a_damaged_file_is_named(run, made: Home, name: str, damage: str) -> None:
    (made.path / name).write_text(damage)
    assert unwell(run, made)["doctor.file-damaged"]["subject"] == str(made.path / name)


MARKED = ["listen.json", "first-run.json", "gateway/table.json", "supervisor/journal.json"]


def contents(home: Home) -> dict[Path, tuple[bytes, int]]:
    """Return all files of a home, and which file each is; but what says that somebody looked."""
    files = (path for path in home.path.rglob("*") if path.is_file() and path != home.up_lock)
    return {path: (path.read_bytes(), path.stat().st_ino) for path in files}


@pytest.mark.parametrize("name", MARKED)
def test_a_file_of_a_newer_version_is_named_refused_by_up_and_left_as_it_is(
    run, made: Home, monkeypatch, name: str
) -> None:
    (made.path / name).write_text('{"form": 7, "what": ["nobody", "knows"]}')
    before = contents(made)
    found = unwell(run, made)
    assert found.keys() - {"doctor.state-lost"} == {"doctor.supervisor-down", "file.newer"}
    assert found["file.newer"]["subject"] == str(made.path / name)
    monkeypatch.setenv("MADANG_DATABASE_URL", "postgresql://127.0.0.1:1/x")
    done = run("up", "--home", str(made.path), "--port", "0")
    assert done.status == Corrupt.exit_status
    path = made.path / name
    said, hint = done.err.splitlines()
    assert said == f"{path} was written by a newer Madang (form 7; this one knows 1)."
    assert hint.startswith("Install that version again, then: madang up.")
    assert hint.endswith(f"mv {path} {path}.newer")
    assert contents(made) == before
    monkeypatch.setenv("MADANG_LANG", "ko")
    assert "더 새로운 마당" in run("up", "--home", str(made.path)).err


def test_what_a_newer_version_writes_is_no_damage_to_any_command(run, made: Home) -> None:
    made.listen.write_text('{"form": 2}')
    done = run("status", "--home", str(made.path), "--json")
    assert json.loads(done.err)["error"]["code"] == "file.newer"
    assert run("down", "--home", str(made.path)).status == 0


@pytest.mark.usefixtures("bare")
def test_every_file_that_another_version_reads_bears_its_form(run, home: Home) -> None:
    assert run("up", "--port", "0").status == 0
    for path in (home.listen, home.first_run, home.journal):
        assert json.loads(path.read_bytes())["form"] == forms.KNOWN, path


@pytest.fixture
async def kept(made: Home) -> Home:
    """That home, with a state in it."""
    made.state.unlink()
    store = SqliteStore(made)
    await store.open()
    await store.close()
    return made


def changed(home: Home, statement: str) -> None:
    with closing(sqlite3.connect(home.state)) as file:
        file.execute(statement)
        file.commit()


def test_where_nothing_runs_doctor_reads_the_state_itself(run, kept: Home) -> None:
    assert unwell(run, kept).keys() == {"doctor.supervisor-down"}
    assert (
        f"State is in SQLite {sqlite3.sqlite_version}: {kept.state}."
        in run("doctor", "--home", str(kept.path)).out
    )
    changed(kept, "UPDATE alembic_version SET version_num = '0001'")
    said = run("doctor", "--home", str(kept.path)).out
    assert "written by an older Madang (version 0001; this one writes" in said
    changed(kept, "UPDATE alembic_version SET version_num = '9999'")
    assert unwell(run, kept)["store.newer-version"]["values"]["found"] == "9999"


def test_where_nothing_runs_doctor_names_the_damage_of_the_state(run, kept: Home) -> None:
    changed(kept, "UPDATE meta SET value = value + 1 WHERE name = 'term'")
    assert unwell(run, kept)["store.unreadable"]["subject"] == "meta/term"
    kept.state.write_bytes(b"no database" * 1000)
    assert "store.damaged" in unwell(run, kept)


def test_a_state_that_is_gone_is_named_before_a_new_one_begins(run, kept: Home) -> None:
    kept.first_run.write_text("{}")
    kept.state.unlink()
    assert unwell(run, kept)["doctor.state-lost"]["subject"] == str(kept.state)
    kept.state.write_text("")
    assert "doctor.state-lost" in unwell(run, kept)


def test_a_database_that_is_not_reached_is_named_while_nothing_runs(run, made: Home) -> None:
    made.database.write_text("postgresql://madang:secret@127.0.0.1:1/madang")
    found = unwell(run, made)
    assert found["store.unreachable"]["subject"] == "127.0.0.1:1/madang"
    assert "secret" not in json.dumps(found)


def test_a_control_that_lives_keeps_doctor_from_its_state(run, kept: Home) -> None:
    changed(kept, "UPDATE meta SET value = value + 1 WHERE name = 'term'")
    hold = Hold(kept.control_lock)
    hold.take()
    found = unwell(run, kept)
    hold.release()
    assert found.keys() == {"doctor.supervisor-down", "store.held"}


def test_damaged_usage_and_what_was_set_aside_are_named(run, made: Home) -> None:
    whole = line_of(Passed(1.0, ()))
    usage = made.gateway / "usage-7-1-ab.000001.log"
    usage.write_bytes(whole + b"\x00\x00\n" + whole + b'{"id"')
    (made.gateway / "table.corrupt").write_text("x")
    found = unwell(run, made)
    assert found["doctor.usage-damaged"]["values"]["count"] == 2
    assert found["doctor.file-set-aside"]["subject"] == str(made.gateway / "table.corrupt")


def test_keys_that_are_lost_damaged_or_open_to_others_are_named(run, made: Home) -> None:
    made.secret.chmod(0o644)
    made.admin_key.unlink()
    found = unwell(run, made)
    assert found["doctor.key-readable"]["values"]["path"] == str(made.secret)
    assert found["doctor.key-missing"]["subject"] == str(made.admin_key)
    made.admin_key.write_text("k" * 64)
    made.secret.write_text("short")
    assert unwell(run, made)["doctor.key-missing"]["subject"] == str(made.secret)


def test_too_little_room_and_a_disk_of_the_network_are_named(run, made: Home, monkeypatch) -> None:
    monkeypatch.setattr(look, "FREE_BYTES_MIN", 1 << 60)
    monkeypatch.setattr(upkeep, "network_file_system", lambda _home: "nfs4")
    found = unwell(run, made)
    assert "doctor.disk-short" in found
    assert found["store.network-file-system"]["values"]["filesystem"] == "nfs4"


def test_why_control_ended_is_told_with_its_own_sentence_in_both_languages(
    run, made: Home, monkeypatch
) -> None:
    (made.logs / "control.log").write_text(f"starting\n{NEWER}\n")
    said = run("doctor", "--home", str(made.path)).out
    assert "written by a newer Madang (version 9; this one knows 1)" in said
    assert "Install that version" in said
    monkeypatch.setenv("MADANG_LANG", "ko")
    assert "더 새" in run("doctor", "--home", str(made.path)).out


def test_a_home_of_another_user_is_told_by_doctor_and_refused_by_up(
    made: Home, monkeypatch, tmp_path: Path
) -> None:
    """As another uid: root may write anywhere."""
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    import madang.cli.doctor
    import madang.cli.up  # noqa: F401 - loaded while we still may read everything

    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(folder.stat().st_mode | 0o055)
    made.path.chmod(0o755)
    reader, writer = os.pipe()
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        sys.stdout = sys.stderr = os.fdopen(writer, "w")
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        from madang.cli import main

        codes = [main([c, "--home", str(made.path), "--json"]) for c in ("doctor", "up")]
        print("codes", codes, flush=True)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as out:
        said = out.read()
    os.waitpid(child, 0)
    assert "codes [1, 2]" in said, said
    assert "doctor.home-unusable" in said
    assert "up.home-unusable" in said
    assert "Permission denied" in said


def saying(line: str) -> list[dict[str, Any]]:
    """The boot plan of a control that ends with these last words."""
    script = f"echo {shlex.quote(line)} >&2; exit 70"
    return [{"uid": "control", "epoch": 1, "restart": "always", "argv": ["/bin/sh", "-c", script],
             "env": {"PATH": os.environ["PATH"]}}]  # fmt: skip


@pytest.mark.usefixtures("bare")
def test_an_up_that_fails_says_why_control_ended_and_leaves_nothing_behind(
    run, home: Home, monkeypatch
) -> None:
    monkeypatch.setattr(plans, "boot_plans", lambda *_: saying(NEWER))
    done = run("up", "--port", "0")
    assert done.status == Corrupt.exit_status
    assert "written by a newer Madang" in done.err
    assert "Traceback" not in done.err
    assert background.holder(home) == 0


@pytest.mark.usefixtures("bare")
def test_last_words_of_an_earlier_life_are_not_taken_for_those_of_this_one(
    run, home: Home, monkeypatch
) -> None:
    home.logs.mkdir(parents=True)
    (home.logs / "control.log").write_text(f"{NEWER}\n{NEWER}\n")
    assert run("up", "--port", "0").status == 0
    assert up.parts.last_words(home, "control")[-1].code == "store.newer-version"


@pytest.mark.usefixtures("bare")
def test_a_part_that_does_not_answer_is_named_and_the_rest_is_told_all_the_same(
    run, home: Home
) -> None:
    run("up", "--port", "0")
    assert run("doctor").status == 0
    (home.listen).write_text(json.dumps({"api": "http://127.0.0.1:1", "gateway": "http://x/v1"}))
    found = unwell(run, home)
    assert found["doctor.part-silent"]["subject"] in {"control", "gateway"}


@pytest.mark.usefixtures("bare")
def test_a_gateway_that_runs_as_plain_python_is_told_of_and_is_well(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = checks.parts.health_of

    def plain(*of: Any) -> tuple[int, dict[str, Any]]:
        status, said = asked(*of)
        return status, {**said, "machine_code": False}

    monkeypatch.setattr(checks.parts, "health_of", plain)
    run("up", "--port", "0")
    told = run("doctor", "--json")
    codes = [each["code"] for each in json.loads(told.out)["items"]]
    assert (told.status, codes.count("doctor.gateway-plain")) == (0, 1)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Corrupt("store.damaged", cause="x"), 70),
        (Rejected("store.network-file-system", "/x", filesystem="nfs"), 2),
        (Unavailable("control.port", "127.0.0.1:1", cause="in use"), 75),
        (OSError(28, "No space left on device", "/x/y"), 75),
        (MemoryError(), 75),
    ],
)
def test_last_words_are_understood_as_they_were_meant(capfd, error, status: int) -> None:
    assert farewell("control", error) == status
    (understood,) = heard("noise\n" + capfd.readouterr().err)
    assert understood.exit_status == status
    if isinstance(error, OSError):
        assert understood.values["cause"] == "No space left on device: /x/y"
    elif isinstance(error, MemoryError):
        assert (understood.code, understood.subject) == ("process.failed", "control")
    else:
        assert (understood.code, understood.values) == (error.code, error.values)


@pytest.mark.parametrize("line", ["last words: {", "last words: 7", 'last words: {"kind": "X"}'])
def test_last_words_that_are_damaged_are_passed_over(line: str) -> None:
    assert heard(f"{line}\n{NEWER}")[0].code == "store.newer-version"


@pytest.mark.parametrize("part", ["madang.app", "madang.gateway"])
def test_a_port_that_is_taken_is_told_by_the_part_that_needs_it(home: Home, part: str) -> None:
    import subprocess

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        argv = [sys.executable, "-m", part, str(home.path), "--port", port]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=50, check=False)
    (error,) = heard(done.stderr)
    assert done.returncode == 75
    assert error.code in {"control.port", "gateway.port"}
    assert error.subject == f"127.0.0.1:{port}"
    own = Path("/proc/self/comm").read_text().strip()
    assert error.values["holder"] == f"({own}, pid {os.getpid()})"
