"""A support bundle holds what helps, and no secret, prompt or answer wherever those lay."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from madang.cli import support
from madang.governance.redact import log_lines, picked
from madang.settings import Home

SECRET = "mdg_CANARY" + "0f" * 32
PROMPT = "CANARYPROMPT what is my salary"
WORD = "CANARYWORD"


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with canaries in every file, and a stopped control."""
    home = Home(tmp_path / "home")
    table = {"version": 1, "keys": {"CANARYDIGEST" + "d" * 52: {"name": "app"}},
             "endpoints": [{"targets": [{"token": "CANARYTOKEN" + "e" * 40}]}]}  # fmt: skip
    files = {
        "admin.key": SECRET, "secret.key": "CANARYROOT" + "1" * 54, "audit.key": "CANARYSIGN" * 4,
        "state.db": f"CANARYSTATE {PROMPT}", "listen.json": "{}", "run/boot.json": SECRET,
        "gateway/table.json": json.dumps(table), "gateway/usage.jsonl": PROMPT,
        "blobs/sha256-a.json": json.dumps({"path": f"/{WORD}"}),
        "logs/replica-1.log": f"{PROMPT}\n", "logs/control.log": control_log(),
        "logs/gateway.log": f"2026-01-01 10:00:00,000 INFO serving table 7\n{PROMPT}\n",
        "supervisor/journal.json": json.dumps({"processes": [
            {"uid": "control", "epoch": 1, "pid": os.getpid(), "argv": [SECRET]}]}),
    }  # fmt: skip
    for name, content in files.items():
        path = home.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.setenv("MADANG_HOME", str(home.path))
    monkeypatch.setenv("MADANG_DATABASE_URL", f"postgresql://u:{WORD}@h/d")
    return home


def control_log() -> str:
    at = "2026-01-01 10:00:00,000"
    return "\n".join([
        f"{at} madang.control store.write-failed (subject=service/bot, cause={PROMPT}, waiting=3)",
        f"{at} madang.api POST /api/v1/key?secret={WORD}",
        f"{at} madang.control node vm can't be seen: '{WORD}' \"{PROMPT}\"",
        f"{at} madang.control x: store.y (cause=a, {PROMPT}, ({WORD}) b={WORD}, c={SECRET})",
        f"{at} madang.control Authorization: Bearer {SECRET}",
        "Traceback (most recent call last):",
        '  File "/opt/venv/lib/site-packages/madang/control/loop.py", line 7, in turn',
        f"    raise ValueError({WORD!r})",
        f"ValueError: {PROMPT}",
        f"pydantic_core._pydantic_core.ValidationError: 1 error {WORD}",
        PROMPT,
        SECRET,
    ])  # fmt: skip


def bundle(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        return {name: file.read(name).decode() for name in file.namelist()}


def leaks(members: dict[str, str]) -> list[str]:
    return [
        f"{name}: {line}"
        for name, text in members.items()
        for line in text.splitlines()
        if "CANARY" in line.upper() or "salary" in line
    ]


def test_nothing_secret_is_in_a_bundle_made_while_control_is_down(
    run: Any, full: Home, tmp_path: Path
) -> None:
    done = run("support", str(tmp_path / "s.zip"))
    assert done.status == 0, done.err
    members = bundle(tmp_path / "s.zip")
    assert leaks(members) == []
    parts = ["about.json", "files.json", "disk.json", "processes.json", "logs/control.txt"]
    assert set(members) >= {"README.txt", *parts, "logs/gateway.txt", "logs/supervisor.txt"}
    assert (tmp_path / "s.zip").stat().st_mode & 0o777 == 0o600
    log = members["logs/control.txt"]
    assert "store.write-failed (subject=service/bot, waiting=3, …)" in log
    assert 'File "madang/control/loop.py", line 7, in turn' in log
    assert "\nValueError\n" in log
    assert "lines left out" in log
    about = json.loads(members["about.json"])
    assert about["settings_given"] == sorted(n for n in os.environ if n.startswith("MADANG_"))
    (process,) = json.loads(members["processes.json"])
    assert (process["uid"], "VmRSS" in process, "argv" in process) == ("control", True, False)
    names = {each["name"] for each in json.loads(members["files.json"])}
    assert {"state.db", "logs/control.log", "admin.key"} <= names


@pytest.mark.usefixtures("hello")
def test_what_control_says_is_in_it_without_values(
    run: Any, full: Home, tmp_path: Path, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    del full
    world.put("service", "mine", {"model": WORD, "title": PROMPT, "scale": 1},
              {"phase": "ready", "reason": {"code": "gate.failed", "values": {"detail": PROMPT}},
               "observed_generation": 1, "revision": None, "ready": 1})  # fmt: skip
    done = run("support", str(tmp_path / "s.zip"), "--json")
    assert done.status == 0, done.err
    members = bundle(tmp_path / "s.zip")
    assert leaks(members) == []
    assert {"status.json", "doctor.json", "events.json"} <= set(members)
    assert json.loads(done.out)["members"] == list(members)


def test_a_bundle_overwrites_nothing_and_leaves_no_part(
    run: Any, full: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del full
    (tmp_path / "s.zip").write_text("mine")
    assert run("support", str(tmp_path / "s.zip")).status == 2
    assert (tmp_path / "s.zip").read_text() == "mine"
    assert run("support", str(tmp_path / "absent" / "s.zip")).status == 75
    monkeypatch.setattr(support.zipfile.ZipFile, "writestr", lambda *_: 1 / 0)
    assert run("support", str(tmp_path / "t.zip")).status != 0
    assert [p.name for p in tmp_path.glob("?.zip*")] == ["s.zip"]


def test_a_log_is_bounded_and_odd_bytes_are_no_lines() -> None:
    text = "\x1b]0;x\x07\n" + "2026-01-01 10:00:00,000 madang.control " + "word " * 500
    kept = log_lines(text)
    assert kept[0] == "(1 lines left out)"
    assert len(kept[1]) < 200


def test_values_are_taken_by_name() -> None:
    deep = {"services": [{"name": "a", "spec": {"name": WORD}, "reason": {"code": SECRET}}]}
    keys = frozenset({"services", "name", "reason", "code"})
    assert picked(deep, keys) == {"services": [{"name": "a", "reason": {"code": "…"}}]}
