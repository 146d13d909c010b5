"""The days after: a home is lost and comes back, is tried, moved, described, and looked into."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from .conftest import Yard

pytestmark = [pytest.mark.story, pytest.mark.timeout(300)]

SECRET = "CANARYPROMPT how do I hide my money"


def ask(yard: Yard, service: str) -> str:
    return str(yard.json("chat", service, "hello")["answer"])


def lived_in(yard: Yard) -> None:
    """Start, and serve something with a Hangul name."""
    yard.up()
    yard.fake("라마", text="마당입니다")
    yard.apply(kind="service", name="민원", model="라마")
    yard.until_phase("service", "민원", "ready")


def test_a_lost_home_comes_back_from_its_backup(
    new_yard: Callable[[str], Yard], tmp_path: Path
) -> None:
    yard, file = new_yard("home"), tmp_path / "kept.backup"
    lived_in(yard)
    said, key = ask(yard, "민원"), yard.told["api_key"]
    kept = yard.json("backup", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert kept["kinds"]["service"] == 2
    assert [each["model"] for each in kept["model_files"]] == [
        "local/main/smollm2-135m-instruct@1", "local/main/라마@1",
    ]  # fmt: skip
    again = yard.run("backup", str(file))
    assert (again.returncode, "is there already" in again.stderr) == (2, True)
    assert yard.json("backup", "drill", str(file))["differences"] == []
    running = yard.run("restore", str(file), "--replace")
    assert (running.returncode, "madang down" in running.stderr) == (5, True)
    yard.apply(kind="service", name="later", model="라마")
    yard.run("down")
    shutil.rmtree(yard.home)

    done = yard.json("restore", str(file))
    assert (done["missing"], done["aside"]) == ([], "")
    yard.told = {}
    yard.up()
    assert yard.told["api_key"] == key
    yard.until_phase("service", "민원", "ready")
    assert ask(yard, "민원") == said
    assert yard.run("get", "service", "later").returncode == 4
    assert yard.json("status")["term"] > kept["term"] + 1000
    assert [f["ok"] for f in yard.json("doctor")["items"] if f["code"].startswith("doctor.node")]


def test_a_home_that_is_stopped_is_backed_up_replaced_and_keeps_the_old_one(
    new_yard: Callable[[str], Yard], tmp_path: Path
) -> None:
    yard, file = new_yard("home"), tmp_path / "kept.backup"
    lived_in(yard)
    yard.run("down")
    assert yard.json("backup", str(file))["kinds"]["service"] == 2
    assert yard.json("backup", "drill")["differences"] == []
    yard.up()
    yard.json("delete", "service", "민원")
    yard.until("it is gone", lambda: yard.run("get", "service", "민원").returncode == 4)
    yard.run("down")
    refused = yard.run("restore", str(file))
    assert (refused.returncode, "--replace" in refused.stderr) == (2, True)
    (yard.home.parent / "라마.json").rename(tmp_path / "moved.json")
    done = yard.json("restore", str(file), "--replace")
    assert [each["model"] for each in done["missing"]] == ["local/main/라마@1"]
    assert (Path(done["aside"]) / "state.db").is_file()
    yard.up()
    yard.until("its missing file is named", lambda: "blob.missing" in yard.run(
        "explain", "service/민원", "--json").stdout)  # fmt: skip
    yard.json("model", "add", "라마", str(tmp_path / "moved.json"))
    yard.until_phase("service", "민원", "ready")


def test_what_was_declared_is_declared_again_on_a_fresh_install(
    new_yard: Callable[[str], Yard], tmp_path: Path
) -> None:
    one, two = new_yard("one"), new_yard("two")
    lived_in(one)
    one.apply(kind="organization", name="서울시", title="서울특별시")
    one.apply(kind="project", name="서울시/민원")
    folder = tmp_path / "declared"
    first = one.json("export", str(folder))
    assert (folder / "local" / "main" / "service.민원.yaml").is_file()
    assert one.json("export", str(folder)) == {**first, "written": 0}
    one.run("down")

    two.up()
    two.json("apply", "-f", str(folder), "--wait")
    elsewhere = tmp_path / "again"
    two.json("export", str(elsewhere))
    files = [
        {p.relative_to(f).as_posix(): p.read_text() for p in f.rglob("*.yaml")}
        for f in (folder, elsewhere)
    ]
    assert files[0] == files[1]
    assert ask(two, "민원")
    bad = folder / "local" / "main" / "service.bad.yaml"
    bad.write_text("# one\n---\nkind: service\nname: bad\nmodel: m\nscal: 2\n")
    refused = two.run("apply", "-f", str(folder))
    assert refused.stderr.startswith(f"{bad}:3: ")
    assert two.run("get", "service", "bad").returncode == 4


def test_an_older_madang_refuses_a_newer_home_at_once(
    new_yard: Callable[[str], Yard], tmp_path: Path
) -> None:
    del tmp_path
    yard = new_yard("home")
    yard.up()
    yard.run("down")
    with closing(sqlite3.connect(yard.home / "state.db")) as state:
        state.execute("UPDATE alembic_version SET version_num = '9999'")
        state.commit()
    before = {
        p.relative_to(yard.home): (p.stat().st_mtime_ns, p.stat().st_size)
        for p in yard.home.rglob("*")
        if p.is_file() and p.name != "up.lock"
    }
    refused = yard.run("up")
    assert refused.returncode == 70
    text, hint = refused.stderr.strip().splitlines()
    assert "9999" in text
    assert hint
    after = {
        p.relative_to(yard.home): (p.stat().st_mtime_ns, p.stat().st_size)
        for p in yard.home.rglob("*")
        if p.is_file() and p.name != "up.lock"
    }
    assert after == before
    assert not (yard.home / "run" / "supervisor.sock").exists()
    assert yard.run("backup", str(yard.home.parent / "b")).returncode == 70
    assert not (yard.home.parent / "b").exists()


def test_a_support_bundle_of_a_real_home_holds_no_canary(
    new_yard: Callable[[str], Yard], tmp_path: Path
) -> None:
    yard = new_yard("home")
    lived_in(yard)
    yard.json("chat", "민원", SECRET)
    key = yard.json("key", "create", "app")["key"]
    yard.apply(kind="organization", name="acme", title="CANARYTITLE")
    secrets = [key, *(p.read_text().strip() for p in yard.home.glob("*.key"))]
    yard.json("support", str(tmp_path / "up.zip"))
    yard.run("down")
    down = yard.json("support", str(tmp_path / "down.zip"))
    assert {"unanswered.json", "doctor.json", "logs/control.txt"} <= set(down["members"])
    for name in ("up.zip", "down.zip"):
        with zipfile.ZipFile(tmp_path / name) as bundle:
            whole = "".join(bundle.read(member).decode() for member in bundle.namelist())
        assert "CANARY" not in whole
        assert "hide my money" not in whole
        assert [secret for secret in secrets if secret in whole] == []
        table = json.loads((yard.home / "gateway" / "table.json").read_text())
        assert [digest for digest in table["keys"] if digest in whole] == []
        assert "replica-" not in json.dumps(
            [m for m in zipfile.ZipFile(tmp_path / name).namelist() if m.startswith("logs/")]
        )
