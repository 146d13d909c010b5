"""State in PostgreSQL, as an operator has it: from `up` to a backup that is a home of its own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from tests import living
from tests.stories.conftest import Yard, kill

from madang.testing.postgres import PASSWORD, PostgresServer, running

pytestmark = [pytest.mark.story, pytest.mark.timeout(300)]

SECRETS = (PASSWORD.encode(), quote(PASSWORD, safe="").encode())


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with running() as made:
        yield made


def told_to_processes(yard: Yard) -> Iterator[str]:
    """Every process of the home that was told the password."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            said = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        if str(yard.home).encode() in said and any(secret in said for secret in SECRETS):
            yield said[:200].decode(errors="replace")


def holders(yard: Yard) -> set[str]:
    """Every file of the home that holds the password."""
    return {path.name for path in living.holding(yard.home, *SECRETS)}


def test_a_home_in_postgresql_serves_survives_and_is_carried_away(
    new_yard: Callable[[str], Yard], server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard = new_yard("home")
    monkeypatch.setenv("MADANG_DATABASE_URL", server.url(server.make_database()))
    yard.up()
    monkeypatch.delenv("MADANG_DATABASE_URL")
    assert list(told_to_processes(yard)) == []
    assert holders(yard) == {"database.url"}
    assert (yard.home / "database.url").stat().st_mode & 0o777 == 0o600
    assert not (yard.home / "state.db").exists()
    yard.json("key", "create", "before")
    yard.fake("short", text="Yes.")
    yard.apply(kind="service", name="short", model="short")
    yard.until_phase("service", "short", "ready")

    server.stop(signal.SIGKILL)
    away = yard.run("key", "create", "away")
    assert (away.returncode, away.stdout) == (75, "")
    assert "database" in away.stderr
    assert PASSWORD not in away.stderr
    assert yard.run("chat", "short", "Say yes.").returncode == 0, "the gateway serves on"
    assert yard.run("doctor").returncode == 1
    kill(yard.pid("control"))
    server.start()
    yard.until("writes again", lambda: yard.run("key", "create", "after").returncode == 0)

    copy = yard.home.parent / "copy.backup"
    assert yard.run("backup", str(copy)).returncode == 0
    yard.run("down")
    other = new_yard("other")
    assert other.run("restore", str(copy)).returncode == 0
    assert (other.home / "state.db").exists()
    assert holders(other) == set()
    other.up()
    names = {key["name"] for key in other.json("get", "key")}
    assert {"admin", "before", "after"} <= names
    other.run("down")

    monkeypatch.setenv("MADANG_DATABASE_URL", server.url(server.make_database()))
    other.up()
    assert not (other.home / "state.db").exists(), "an empty database took it in"
    assert {key["name"] for key in other.json("get", "key")} == names


def test_a_restore_goes_into_the_homes_database_and_keeps_what_was_there(
    new_yard: Callable[[str], Yard], server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard = new_yard("home")
    with monkeypatch.context() as told:
        told.setenv("MADANG_DATABASE_URL", server.url(server.make_database()))
        yard.up()
    copy = str(yard.home.parent / "copy.backup")
    kept = yard.json("backup", copy)
    yard.json("key", "create", "late")
    yard.run("down")
    refused = yard.run("restore", copy)
    assert (refused.returncode, "--replace" in refused.stderr) == (2, True)
    done = yard.json("restore", copy, "--replace")
    assert done["database"]
    assert PASSWORD not in str(done)
    assert not (yard.home / "state.db").exists()
    assert holders(yard) == {"database.url"}
    yard.up()
    assert "late" not in {key["name"] for key in yard.json("get", "key")}
    yard.run("down")
    aside = Yard(Path(done["aside"])).json("backup", str(yard.home.parent / "aside.backup"))
    assert aside["kinds"]["key"] == kept["kinds"]["key"] + 1, "what was replaced is a home again"
