"""A database that a start could not open is not what the next start is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from madang import settings
from madang.cli.address import tried_database
from madang.errors import Rejected, Unavailable
from madang.settings import Home

WRONG, GOOD = "postgresql://nobody@127.0.0.1:1/none", "postgresql://madang@127.0.0.1/madang"


def fail(home: Home) -> None:
    with tried_database(home, runs=False):
        assert settings.database_url(home) == WRONG
        raise Unavailable("store.unreachable", WRONG)


@pytest.mark.parametrize("before", ["", GOOD])
def test_a_start_that_fails_leaves_the_address_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    home = Home(tmp_path)
    if before:
        home.database.write_text(before)
    monkeypatch.setenv("MADANG_DATABASE_URL", WRONG)
    with pytest.raises(Unavailable):
        fail(home)
    assert settings.database_url(home) == before
    assert home.database.exists() == bool(before)


def test_a_start_that_succeeds_keeps_it_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    monkeypatch.setenv("MADANG_DATABASE_URL", GOOD)
    with tried_database(home, runs=False):
        pass
    assert settings.database_url(home) == GOOD
    assert home.database.stat().st_mode & 0o777 == 0o600


def test_what_runs_keeps_its_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MADANG_DATABASE_URL", WRONG)
    with pytest.raises(Rejected), tried_database(Home(tmp_path), runs=True):
        pass
    assert settings.database_url(Home(tmp_path)) == ""
